import base64
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from law_lightning.report.page import write_page
from law_lightning.report.runs import Run

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

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def facts(self):
        """What stands beside a term, of all runs."""
        words = [text for text in self.texts if text.strip()]
        return dict(pairwise(words))

    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


def comparison(folder, **config):
    folder.mkdir()
    (folder / "summary.txt").write_text("method  mean %\nlaw      87.91\n")
    (folder / "compare.png").write_bytes(b"picture of a comparison")
    return Run(folder, "compare", {"seeds": 5, "first_seed": 1000, "trainer": {"max_epochs": 60}} | config)


def search(folder, metrics="episode,return,gain\n0,1.0,\n1,1.0,0.05\n2,1.0,0.0825\n3,1.0,0.01\n", **config):
    folder.mkdir()
    if metrics is not None:
        (folder / "metrics.csv").write_text(metrics)
    (folder / "search.png").write_bytes(b"picture of a search")
    return Run(folder, "search", {"seed": 3, "search": {"episodes": 4}} | config)


def training(folder, **config):
    folder.mkdir()
    (folder / "history.csv").write_text("")
    return Run(folder, "train", config, [{"accuracy": 0.5}, {"accuracy": 0.75}])


def page(runs, tmp_path, figures=None):
    return Page(write_page(runs, figures or {}, tmp_path / "report.html").read_text(encoding="utf-8"))


def test_sections_in_order_with_their_facts(tmp_path):
    runs = [training(tmp_path / "t", seed=7), search(tmp_path / "s"), comparison(tmp_path / "c")]
    got = page(runs, tmp_path)
    headings = [text for text in got.texts if text in ("Comparisons", "Searches", "Trainings with a strategy")]
    assert headings == ["Comparisons", "Searches", "Trainings with a strategy"]
    facts = got.facts()
    assert facts["seeds"] == "1000 to 1004"
    assert facts["epochs"] == "60"
    assert facts["episodes"] == "4"
    assert facts["best gain"] == "+8.25 points of validation accuracy, after 3 episodes"
    assert facts["seed"] == "7"
    assert facts["training accuracy at the end"] == "75.00 %"
    assert "method  mean %\nlaw      87.91\n" in got.texts


def test_pictures_are_inside_with_a_text_for_those_who_do_not_see_them(tmp_path):
    (tmp_path / "theta.png").write_bytes(b"theta")
    runs = [comparison(tmp_path / "c"), search(tmp_path / "s")]
    images = page(runs, tmp_path, {"What theta was": tmp_path / "theta.png"}).images()
    inside = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in images]
    assert inside == [b"picture of a comparison", b"picture of a search", b"theta"]
    assert all(image["alt"] for image in images)
    assert images[-1]["alt"] == "What theta was"


def test_the_page_needs_nothing_else_and_fits_phones_and_the_dark(tmp_path):
    got = page([comparison(tmp_path / "c"), search(tmp_path / "s")], tmp_path)
    assert all(image["src"].startswith("data:") for image in got.images())
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in got.tags}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(word in text for word in ("http:", "https:", "url(", "@import"))
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in got.tags
    assert "color-scheme: light dark" in text
    assert "overflow-x: auto" in text


def test_hostile_strings_stay_text(tmp_path):
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
    runs = [comparison(folder, **config), search(tmp_path / "s", **config), training(tmp_path / "t", **config)]
    (folder / "summary.txt").write_text(HOSTILE)
    got = page(runs, tmp_path, {HOSTILE: folder / "compare.png"})
    assert not {"script", "a"} & {tag for tag, _ in got.tags}
    assert len(got.images()) == 3
    assert not any(name.startswith("on") for _, attributes in got.tags for name in attributes)
    assert got.texts.count(HOSTILE) >= 8
    assert got.images()[-1]["alt"] == HOSTILE


def test_the_agent_s_own_settings_are_named(tmp_path):
    usual = {"_target_": "law_lightning.StrategyAgent", "hidden": [64, 64, 64], "actor_lr": 6e-4, "seed": 5}
    assert page([search(tmp_path / "a", agent=usual)], tmp_path).facts()["agent"] == "default"
    paper = usual | {"theta_bound": None, "actor_lr": 1e-5}
    assert page([search(tmp_path / "b", agent=paper)], tmp_path).facts()["agent"] == "actor_lr 1e-05, theta_bound None"


@pytest.mark.parametrize(
    ("metrics", "fact"),
    [
        ("episode,return\n0,1.0\n", "not evaluated"),
        ("episode,gain\n4,-0.01\n", "-1.00 points of validation accuracy, after 5 episodes"),
        ("episode,gain\n4,0.5\n9,0.5\n", "+50.00 points of validation accuracy, after 5 episodes"),
        (None, "unknown, as metrics.csv is missing"),
    ],
)
def test_best_gain(tmp_path, metrics, fact):
    assert page([search(tmp_path / "s", metrics)], tmp_path).facts()["best gain"] == fact


def test_damaged_metrics_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.csv is not a search's table of episodes"):
        page([search(tmp_path / "s", "episode,gain\n1,high\n")], tmp_path)


def test_a_run_without_its_picture_or_settings_has_its_section(tmp_path):
    run = comparison(tmp_path / "c", trainer="none", seeds=None, first_seed=None)
    (tmp_path / "c" / "compare.png").unlink()
    got = page([run], tmp_path)
    assert got.images() == []
    assert ("h3", {}) in got.tags
    assert "c" in got.texts  # the folder's name stands for a title
