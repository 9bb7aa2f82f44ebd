import base64
import re
from dataclasses import asdict
from html import escape, unescape

import pytest

from law_lightning.report.page import write_page
from law_lightning.report.records import Outcome, write_rows
from law_lightning.report.runs import find_runs
from run_folders import write_comparison, write_search, write_training

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> &amp;"
AGENT = {"_target_": "law_lightning.StrategyAgent", "hidden": [64, 64, 64], "actor_lr": 6e-4, "seed": 5}


@pytest.fixture
def page(tmp_path):
    """Writes the page of all runs there are, and reads it: text, facts by name, pictures as content and caption."""

    def call(figures=None):
        text = write_page(find_runs([tmp_path]), figures or {}, tmp_path / "report.html").read_text("utf-8")
        images = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)">', text)
        assert len(images) == text.count("<img")
        facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))
        return text, facts, [(base64.b64decode(data), unescape(caption)) for data, caption in images]

    return call


def test_sections_in_order_with_their_facts_and_pictures(tmp_path, page):
    write_training(tmp_path / "a", seed=7)
    write_search(tmp_path / "b")
    write_comparison(tmp_path / "c")
    (tmp_path / "theta.png").write_bytes(b"theta")
    text, facts, images = page({"What theta was": tmp_path / "theta.png"})
    headings = ["Comparisons", "Searches", "Trainings", "From stage to stage"]
    assert re.findall("<h2>(.*?)</h2>", text) == headings
    expected = {"seeds": "1000 to 1004", "epochs": "60", "episodes": "4", "seed": "3"}
    assert facts.items() >= expected.items()
    assert '<td class="number">7</td>' in text  # the training's seed
    assert "<pre>method  mean %\nlaw      87.91\n</pre>" in text
    assert [data for data, _ in images] == [b"picture of a comparison", b"picture of a search", b"theta"]
    assert all(caption for _, caption in images)
    assert images[-1][1] == "What theta was"


def test_hostile_strings_stay_text_and_the_page_needs_nothing_else(tmp_path, page):
    folder = tmp_path / HOSTILE.replace("/", "")
    config = {
        "strategy": HOSTILE, "first_seed": HOSTILE, "seeds": None, "data": {"_target_": HOSTILE, "name": HOSTILE},
        "trainer": {"max_epochs": HOSTILE}, "agent": {HOSTILE: HOSTILE}, "search": {"episodes": HOSTILE},
    }  # fmt: skip
    write_comparison(folder, **config)
    write_search(tmp_path / "s", **config)
    write_training(tmp_path / "t", **config)
    (folder / "summary.txt").write_text(HOSTILE)
    text, _, images = page({HOSTILE: folder / "compare.png"})
    assert not re.search(r"<(script|link|iframe|a|img src=x)\b|[\"']'>|http|url\(|@import", text)
    assert text.count(escape(HOSTILE)) >= 8
    assert images[-1][1] == HOSTILE
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "color-scheme: light dark" in text


def test_test_accuracies_and_suspects_of_a_training(tmp_path, page):
    folder = write_training(tmp_path / "a")
    write_rows([asdict(Outcome("law", 0, 0.6123, None, None))], folder / "outcome.csv")
    assert "likeliest wrong" not in page()[0]
    write_rows(
        ({"index": i, "given": HOSTILE, "predicted": 2, "score": 0.5} for i in range(99)), folder / "suspects.csv"
    )
    (folder / "suspects.png").write_bytes(b"contact sheet")
    text, _, images = page()
    assert '<td class="number">61.23 %</td><td class="word"></td>' in text
    assert text.count(escape(HOSTILE)) == 10  # the first rows
    assert [data for data, _ in images] == [b"contact sheet"]
    assert '<p class="photographs">' in text  # not inverted in the dark


@pytest.mark.parametrize(
    ("options", "name", "fact"),
    [
        ({"agent": AGENT}, "agent", "default"),
        ({"agent": AGENT | {"theta_bound": None, "actor_lr": 1e-5}}, "agent", "actor_lr 1e-05, theta_bound None"),
        ({}, "best gain", "+8.25 points of validation accuracy, after 3 episodes"),
        ({"metrics": "episode,return\n0,1.0\n"}, "best gain", "not evaluated"),
        (
            {"metrics": "episode,gain\n4,-.5\n9,-.5\n"},
            "best gain",
            "-50.00 points of validation accuracy, after 5 episodes",
        ),
    ],
)
def test_facts_of_a_search(tmp_path, page, options, name, fact):
    write_search(tmp_path / "s", **options)
    assert page()[1][name] == fact


@pytest.mark.parametrize("write", [write_search, write_training, write_comparison])
def test_where_validation_samples_come_from_is_a_fact(tmp_path, page, write):
    (write(tmp_path / "s") / "validation.txt").write_text("8 of 40 é", encoding="utf-8")
    assert page()[1]["validation"] == "8 of 40 é"


def test_a_run_without_its_picture_or_settings_has_its_section(tmp_path, page):
    (write_comparison(tmp_path / "c", trainer=None, seeds=None, first_seed=None) / "compare.png").unlink()
    (write_search(tmp_path / "s") / "metrics.csv").unlink()
    text, facts, images = page()
    assert len(images) == 1
    assert facts["best gain"] == "unknown: metrics.csv is missing"
    assert "<h3>c</h3>" in text  # the folder's name stands for a title
