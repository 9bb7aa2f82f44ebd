import base64
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from law_lightning.report.page import write_page
from law_lightning.report.runs import find_runs
from run_folders import write_comparison, write_search, write_training

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> &amp;"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.facts = dict(pairwise(text for text in self.texts if text.strip()))  # what stands beside a term
        self.images = [attributes for tag, attributes in self.tags if tag == "img"]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def page(tmp_path):
    """Writes and reads the page of all runs there are."""

    def call(figures=None):
        return Page(write_page(find_runs([tmp_path]), figures or {}, tmp_path / "report.html").read_text("utf-8"))

    return call


def test_sections_in_order_with_their_facts_and_pictures(tmp_path, page):
    write_training(tmp_path / "a", seed=7)
    write_search(tmp_path / "b")
    write_comparison(tmp_path / "c")
    (tmp_path / "theta.png").write_bytes(b"theta")
    got = page({"What theta was": tmp_path / "theta.png"})
    headings = [text for text in got.texts if text in ("Comparisons", "Searches", "Trainings with a strategy")]
    assert headings == ["Comparisons", "Searches", "Trainings with a strategy"]
    assert got.facts["seeds"] == "1000 to 1004"
    assert got.facts["epochs"] == "60"
    assert got.facts["episodes"] == "4"
    assert got.facts["seed"] == "7"
    assert got.facts["training accuracy at the end"] == "50.00 %"
    assert "method  mean %\nlaw      87.91\n" in got.texts
    inside = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in got.images]
    assert inside == [b"picture of a comparison", b"picture of a search", b"theta"]
    assert all(image["alt"] for image in got.images)
    assert got.images[-1]["alt"] == "What theta was"


def test_the_page_needs_nothing_else_and_fits_phones_and_the_dark(tmp_path, page):
    write_comparison(tmp_path / "c")
    write_search(tmp_path / "s")
    got = page()
    assert all(image["src"].startswith("data:") for image in got.images)
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in got.tags}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(word in text for word in ("http:", "https:", "url(", "@import"))
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in got.tags
    assert "color-scheme: light dark" in text
    assert "overflow-x: auto" in text


def test_hostile_strings_stay_text(tmp_path, page):
    folder = tmp_path / HOSTILE.replace("/", "")
    config = {
        "strategy": HOSTILE,
        "first_seed": HOSTILE,
        "seeds": None,
        "data": {"_target_": HOSTILE, "name": HOSTILE},
        "trainer": {"max_epochs": HOSTILE},
        "agent": {HOSTILE: HOSTILE},
        "search": {"episodes": HOSTILE},
    }
    write_comparison(folder, **config)
    write_search(tmp_path / "s", **config)
    write_training(tmp_path / "t", **config)
    (folder / "summary.txt").write_text(HOSTILE)
    got = page({HOSTILE: folder / "compare.png"})
    assert not {"script", "a"} & {tag for tag, _ in got.tags}
    assert len(got.images) == 3
    assert not any(name.startswith("on") for _, attributes in got.tags for name in attributes)
    assert got.texts.count(HOSTILE) >= 8
    assert got.images[-1]["alt"] == HOSTILE


@pytest.mark.parametrize(
    ("changed", "fact"),
    [({}, "default"), ({"theta_bound": None, "actor_lr": 1e-5}, "actor_lr 1e-05, theta_bound None")],
)
def test_the_agent_s_own_settings_are_named(tmp_path, page, changed, fact):
    usual = {"_target_": "law_lightning.StrategyAgent", "hidden": [64, 64, 64], "actor_lr": 6e-4, "seed": 5}
    write_search(tmp_path / "a", agent=usual | changed)
    assert page().facts["agent"] == fact


@pytest.mark.parametrize(
    ("metrics", "fact"),
    [
        ("episode,gain\n0,\n1,0.05\n2,0.0825\n3,0.01\n", "+8.25 points of validation accuracy, after 3 episodes"),
        ("episode,return\n0,1.0\n", "not evaluated"),
        ("episode,gain\n4,-0.01\n", "-1.00 points of validation accuracy, after 5 episodes"),
        ("episode,gain\n4,0.5\n9,0.5\n", "+50.00 points of validation accuracy, after 5 episodes"),
        (None, "unknown, as metrics.csv is missing"),
    ],
)
def test_best_gain(tmp_path, page, metrics, fact):
    write_search(tmp_path / "s", metrics)
    assert page().facts["best gain"] == fact


def test_damaged_metrics_are_named(tmp_path, page):
    write_search(tmp_path / "s", "episode,gain\n1,high\n")
    with pytest.raises(ValueError, match=r"metrics\.csv is not a search's table of episodes"):
        page()


def test_a_run_without_its_picture_or_settings_has_its_section(tmp_path, page):
    folder = write_comparison(tmp_path / "c", trainer="none", seeds=None, first_seed=None)
    (folder / "compare.png").unlink()
    got = page()
    assert got.images == []
    assert ("h3", {}) in got.tags
    assert "c" in got.texts  # the folder's name stands for a title
