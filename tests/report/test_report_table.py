from law_lightning.report.compare import summarise
from law_lightning.report.records import Outcome
from law_lightning.report.table import comparison_table, summary_rows

SUMMARIES = summarise(
    [
        Outcome("base", 1, 0.50, 0.60, 3),
        Outcome("law", 1, 0.60, 0.60, 4),
        Outcome("base", 2, 0.60, 0.70, 3),
        Outcome("law", 2, 0.70, 0.72, 5),
    ]
)


def test_table_shows_percent_and_points():
    lines = comparison_table(SUMMARIES).splitlines()
    assert lines[0].split("  ")[0] == "method"
    assert "95% interval" in lines[0]
    assert lines[2].split() == ["base", "last", "2", "55.00", "7.07"]
    assert lines[3].split()[:6] == ["law", "last", "2", "65.00", "7.07", "+10.00"]
    assert lines[5].split()[-3:] == ["+1.00", "[-11.71,", "+13.71]"]
    assert all(len(line) <= len(lines[1]) for line in lines)


def test_rows_keep_full_precision():
    rows = summary_rows(SUMMARIES)
    assert [row["method"] for row in rows] == ["base", "law", "base", "law"]
    assert rows[0]["difference"] == ""
    assert rows[3]["difference"] == SUMMARIES[3].difference.mean
