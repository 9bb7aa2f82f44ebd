import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from law_lightning.report.records import Outcome, read_numbers, read_outcomes, write_rows

NEEDED = {"accuracy": float, "weight_per_class": list}
HISTORY, OUTCOMES = "accuracy,weight_per_class\n", "method,seed,acc_last,acc_best,best_epoch\n"
DAMAGED = ("", "0.5\n", "0.5,[1.0],7\n", "high,[1.0]\n", ",[1.0]\n", "0.5,3\n", '0.5,"[1.0, 2"\n', '0.5,"[1.0, 2')

numbers = st.floats(allow_nan=False)
lists = st.lists(st.none() | numbers, max_size=5)
needed = {"accuracy": numbers, "weight_per_class": lists}
optional = {"stage": st.integers(0, 99), "theta": st.none() | lists, "of my own": st.none() | numbers | lists}
records = st.lists(st.fixed_dictionaries(needed, optional=optional), min_size=1, max_size=4)


def test_outcomes_come_back_exactly(tmp_path):
    outcomes = [Outcome("base", 1000, 1 / 3, 0.7, 12), Outcome("law", 1000, 2 / 3, None, None)]
    write_rows(map(asdict, outcomes), tmp_path / "compare.csv")
    assert read_outcomes(tmp_path / "compare.csv") == outcomes
    assert [path.name for path in tmp_path.iterdir()] == ["compare.csv"]


@settings(max_examples=60)
@given(written=records)
def test_a_history_comes_back_with_all_columns(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("history") / "history.csv"
    write_rows(written, path)
    columns = dict.fromkeys(key for record in written for key in record)
    assert read_numbers(path, NEEDED) == [dict.fromkeys(columns) | record for record in written]


def test_not_a_number_and_none_come_back(tmp_path):
    (tmp_path / "history.csv").write_text("loss,loss_gap,reward," + HISTORY + "nan,None,,0.5,[NaN]\n")
    (record,) = read_numbers(tmp_path / "history.csv", NEEDED)
    assert math.isnan(record["loss"])
    assert math.isnan(record["weight_per_class"][0])
    assert (record["loss_gap"], record["reward"]) == (None, None)


@pytest.mark.parametrize(
    ("content", "read", "message"),
    [
        *((text, read_outcomes, "is not a table of outcomes") for text in ("a,b\n1,2\n", OUTCOMES + "law,1,0.5\n")),
        *((HISTORY + row, read_numbers, "is not the table of a run.* leave its folder out") for row in DAMAGED),
        *((text, read_numbers, "is not the table of a run") for text in ("", "a,b\n1,2\n", "\udc80\udcff" * 20)),
    ],
)
def test_a_damaged_or_foreign_table_is_named(tmp_path, content, read, message):
    (tmp_path / "table.csv").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"table\.csv {message}"):
        read(tmp_path / "table.csv", *([NEEDED] if read is read_numbers else []))
