import csv
import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from law_lightning.report.records import Outcome, read_history, read_outcomes, write_rows

RECORD = {"stage": 0, "accuracy": 0.5, "weight_mean": 1.0, "weight_per_class": [1.0, None]}
HEADING = "stage,accuracy,weight_mean,weight_per_class\n"

numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False)
lists = st.lists(st.none() | numbers, max_size=5)
needed = {"stage": st.integers(0, 99), "accuracy": numbers, "weight_mean": numbers, "weight_per_class": lists}
optional = {"theta": st.none() | lists, "loss_gap": st.none() | numbers, "of my own": st.none() | numbers | lists}
records = st.lists(st.fixed_dictionaries(needed, optional=optional), min_size=1, max_size=4)


def test_outcomes_come_back_exactly(tmp_path):
    outcomes = [Outcome("base", 1000, 1 / 3, 0.7, 12), Outcome("law", 1000, 2 / 3, None, None)]
    write_rows(map(asdict, outcomes), tmp_path / "compare.csv")
    assert read_outcomes(tmp_path / "compare.csv") == outcomes
    assert [path.name for path in tmp_path.iterdir()] == ["compare.csv"]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "method,seed,acc_last,acc_best,best_epoch\nlaw,1,0.5\n"])
def test_a_foreign_table_is_named(tmp_path, text):
    file = tmp_path / "compare.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"compare\.csv is not a table of outcomes"):
        read_outcomes(file)


def test_rows_have_all_columns(tmp_path):
    write_rows([{"a": 1}, {"b": 2.5, "a": 3}], tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": ""}, {"a": "3", "b": "2.5"}]


@settings(deadline=None, max_examples=60)
@given(written=records)
def test_a_history_comes_back(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("history") / "history.csv"
    write_rows(written, path)
    columns = dict.fromkeys(key for record in written for key in record)
    read = read_history(path)
    assert read == [dict.fromkeys(columns) | record for record in written]
    assert [type(record["accuracy"]) for record in read] == [type(record["accuracy"]) for record in written]


def test_not_a_number_and_none_come_back(tmp_path):
    write_rows([RECORD | {"loss": float("nan"), "weight_per_class": [float("nan")]}], tmp_path / "history.csv")
    (record,) = read_history(tmp_path / "history.csv")
    assert math.isnan(record["loss"])
    assert math.isnan(record["weight_per_class"][0])
    (tmp_path / "history.csv").write_text("loss_gap,reward," + HEADING + "None,,0,0.5,1.0,[]\n")
    (record,) = read_history(tmp_path / "history.csv")
    assert (record["loss_gap"], record["reward"]) == (None, None)


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("", "it has no rows"),
        (HEADING, "it has no rows"),
        ("a,b\n1,2\n", "row 1 has no valid stage"),
        (HEADING + "0,0.5,1.0,[1.0]\n1,0.5\n", "row 2 has more or fewer cells than the heading"),
        (HEADING + "0,0.5,1.0,[1.0],7\n", "row 1 has more or fewer cells than the heading"),
        (HEADING + "0,high,1.0,[1.0]\n", "row 1 holds what is neither a number nor a list of numbers"),
        (HEADING + '0,0.5,1.0,"[1.0, 2"\n', "row 1 holds what is neither"),
        (HEADING + '0,0.5,1.0,"[""x""]"\n', "row 1 holds what is neither"),
        (HEADING + '0,0.5,1.0,"[1.0, 2', "it is not a CSV table"),
        ("\udc80\udcff" * 20, "it is not a CSV table"),
        (HEADING + "0,0.5,1.0,3\n", "row 1 has no valid weight_per_class"),
        (HEADING + "0,,1.0,[1.0]\n", "row 1 has no valid accuracy"),
        ("theta," + HEADING + "2,0,0.5,1.0,[1.0]\n", "row 1 has no valid theta"),
        ("loss_gap," + HEADING + "[2],0,0.5,1.0,[1.0]\n", "row 1 has no valid loss_gap"),
    ],
)
def test_a_damaged_or_foreign_history_is_named(tmp_path, content, finding):
    (tmp_path / "history.csv").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"history\.csv is not a history of stages.*: {finding}.*leave the folder"):
        read_history(tmp_path / "history.csv")
