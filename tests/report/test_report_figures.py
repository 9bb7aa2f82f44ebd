import matplotlib.image
import pytest

from law_lightning.report.compare_figure import draw_comparison
from law_lightning.report.records import Outcome
from law_lightning.report.search_figure import draw_search


def drawn(path):
    """The share of pixels that are not white."""
    pixels = matplotlib.image.imread(path)[..., :3]
    return (pixels < 0.99).any(axis=-1).mean()


@pytest.mark.parametrize("methods", [("base",), ("base", "law"), ("base", "law", "rival")])
def test_comparison_is_drawn(tmp_path, methods):
    outcomes = [
        Outcome(method, seed, 0.7 + 0.05 * place + 0.01 * seed, 0.75 + 0.05 * place, 3)
        for place, method in enumerate(methods)
        for seed in range(3)
    ]
    assert 0.005 < drawn(draw_comparison(outcomes, tmp_path / "compare.png")) < 0.5


def test_search_is_drawn(tmp_path):
    history = [{"episode": e, "return": 0.1 * e, "gain": 0.01 * e if e % 2 else None} for e in range(6)]
    assert 0.005 < drawn(draw_search(history, tmp_path / "search.png")) < 0.5


def test_search_without_evaluations_or_episodes_is_drawn(tmp_path):
    assert draw_search([{"episode": 0, "return": 0.5}], tmp_path / "one.png").is_file()
    assert draw_search([], tmp_path / "none.png").is_file()
