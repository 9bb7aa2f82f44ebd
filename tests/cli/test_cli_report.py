import re

import pytest

from law_lightning.cli.compare import main as compare
from law_lightning.cli.report import main
from law_lightning.cli.search import main as search
from law_lightning.cli.train import main as train
from run_folders import write_training


def test_report_of_every_command_from_end_to_end(command, small, small_search, strategy, tmp_path):
    noisy = [*small, "corruption.rate=0.5", f"strategy={strategy}"]
    command(train, *noisy, "reference=true", "suspects=null", "run_dir=runs/deep/one")
    command(train, *small, "suspects=null", "run_dir=runs/plain")
    command(search, *small_search, "run_dir=runs/search")
    command(compare, *noisy, "seeds=2", "run_dir=runs/compare")
    before = set(tmp_path.rglob("*"))
    out = command(main, "runs=runs", "out=report/new")
    assert out.splitlines() == [
        "4 runs",
        "  Weights by loss and by margin: report/new/curves.png",
        "  Weights of classes and of labels (the paper's Figure 4): report/new/figure4.png",
        "  Theta: with +, weights rise with the feature; with \N{MINUS SIGN}, they fall: report/new/theta.png",
        "  Loss gap (the paper's Figure 3): report/new/figure3.png",
        "  page: report/new/report.html",
    ]
    files = {"curves.png", "figure3.png", "figure4.png", "theta.png", "report.html"}
    written = {"", "new", *(f"new/{name}" for name in files)}
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "report" / name for name in written}
    page = (tmp_path / "report" / "new" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 8  # of the search, comparison, stages (4) and suspects (2)
    assert "points of validation accuracy, after" in page
    assert "(of its file)" not in page  # each run knows its date
    assert len(re.findall(r'<td class="number">[0-9.]+ %</td>', page)) == 4  # two trainings, last and best epoch
    assert "MLP (layers of 16): plain training" in page


def test_only_what_there_are_data_for_is_drawn(command, tmp_path):
    write_training(tmp_path / "2026", counts=(30, 30, 30))
    out = command(main, "runs=2026", "out=report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"theta.png", "report.html"}
    assert "Figure" not in out


@pytest.mark.parametrize("rare", ["[0]", "0", "[2,0]"])
def test_rare_classes_are_drawn_on_request(command, tmp_path, rare):
    write_training(tmp_path / "a", counts=(30, 30, 30))
    assert "figure4.png" in command(main, "runs=[a]", f"rare={rare}")
    assert (tmp_path / "report" / "figure4.png").is_file()
