import csv

import pytest

from law_lightning.report.records import Outcome, read_outcomes, write_outcomes, write_rows


def test_outcomes_come_back_exactly(tmp_path):
    outcomes = [Outcome("base", 1000, 1 / 3, 0.7, 12), Outcome("law", 1000, 2 / 3, 0.8, 59)]
    write_outcomes(outcomes, tmp_path / "compare.csv")
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
