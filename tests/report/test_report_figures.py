import pytest

from law_lightning.report.compare_figure import draw_comparison
from law_lightning.report.records import Outcome
from law_lightning.report.search_figure import draw_search


@pytest.mark.parametrize("methods", [("base",), ("base", "law"), ("base", "law", "rival", "other")])
@pytest.mark.parametrize("validated", [True, False])
def test_comparison_shows_every_seed_and_the_differences(panels, methods, validated):
    outcomes = [
        Outcome(method, seed, 0.7 + 0.01 * place + 0.001 * seed, 0.5 - 0.03 * place if validated else None, 3)
        for place, method in enumerate(methods)
        for seed in range(3)
    ]
    drawn = panels(draw_comparison, outcomes)
    epochs = 1 + validated
    assert len(drawn) == epochs + (len(methods) > 1)
    for axes, name in zip(drawn[:epochs], ("acc_last", "acc_best"), strict=False):
        low, high = axes.get_ylim()
        points = [y for line in axes.collections if len(line.get_offsets()) == 3 for _, y in line.get_offsets()]
        assert points == pytest.approx([100 * getattr(outcome, name) for outcome in outcomes])
        assert all(low < y < high for y in points)
        assert [label.get_text() for label in axes.get_xticklabels()] == list(methods)
    if len(methods) > 1:
        assert [label.get_text() for label in drawn[-1].get_xticklabels()] == list(methods[1:])
        means = [container.lines[0].get_ydata()[0] for container in drawn[-1].containers]
        expected = list(range(1, len(methods)))
        expected += [-3 * place for place in range(1, len(methods))] if validated else []
        assert means == pytest.approx(expected)


def test_search_shows_returns_and_the_best_gain(panels):
    history = [{"episode": e, "return": 0.1 * e, "gain": 0.01 * e if e % 2 else None} for e in range(6)]
    upper, lower = panels(draw_search, history)
    assert [tuple(point) for point in upper.collections[0].get_offsets()] == [(e + 1, 0.1 * e) for e in range(6)]
    assert lower.lines[0].get_xydata().tolist() == [[2.0, 1.0], [4.0, 3.0], [6.0, 5.0]]
    assert [text.get_text() for text in lower.texts] == ["best: +5.0"]


@pytest.mark.parametrize("history", [[{"episode": 0, "return": 0.5}], []])
def test_search_without_evaluations_or_episodes_is_drawn(panels, history):
    assert len(panels(draw_search, history)) == 2
