from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from law_lightning.functional import FEATURES
from law_lightning.report.figure3 import draw_loss_gap
from law_lightning.report.figure4 import draw_weights
from law_lightning.report.runs import Run
from law_lightning.report.theta_figure import draw_theta

NOISE = {"corruption": {"_target_": "law_lightning.data.UniformNoise", "rate": 0.4}}
DISCARD = {"corruption": {"_target_": "law_lightning.data.DiscardClasses", "classes": [0, 1]}}
#: Two stages of warm-up, then three.
WARM = [[0.0] * 5] * 2
THETA = [[0.1, 0.2, 0.3, 0.4, 0.5], [1.1, 1.2, 1.3, 1.4, 1.5], [2.1, 2.2, 2.3, 2.4, 2.5]]
GAPS = [None, None, 0.1, -0.2, 0.4]


def run(config=NOISE, rare=(), **columns):
    """A training with these columns; what is not given is as in a run without a reference on clean labels."""
    columns = {"theta": WARM + THETA, "weight_per_class": [[1.0, 1.0]] * 5} | columns
    history = [{"stage": i} | {key: values[i] for key, values in columns.items()} for i in range(5)]
    return Run(Path("run"), "train", config, history, rare)


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """Draws and returns the panels of the figure, None where nothing is drawn."""
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))

    def call(draw, runs):
        path = draw(runs, tmp_path / "figure.png")
        if path is None:
            assert not (tmp_path / "figure.png").exists()
            return None
        assert path.is_file()
        return drawn[-1].axes

    return call


def lines(axes):
    """The heights of the strong lines by their name in the legend."""
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    named = dict(zip(texts, axes.get_legend_handles_labels()[0], strict=True))
    assert all(list(line.get_xdata()) == list(range(5)) for line in named.values())
    return {name: np.asarray(line.get_ydata()) for name, line in named.items()}


def faint(axes):
    return [np.asarray(line.get_ydata()) for line in axes.get_lines() if line.get_alpha() is not None]


def levels(axes):
    """Heights of the lines that go from edge to edge."""
    return [line.get_ydata()[0] for line in axes.get_lines() if list(line.get_xdata()) == [0, 1]]


def shaded(axes):
    return [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]


def same(values, expected):
    np.testing.assert_allclose(values, np.array(expected, dtype=float), rtol=1e-12)


def test_loss_gap_of_one_run(panels):
    (axes,) = panels(draw_loss_gap, [run(loss_gap=GAPS)])
    same(lines(axes)["target unweighted"], GAPS)
    assert faint(axes) == []
    assert levels(axes) == [0.0]
    assert shaded(axes) == [(-0.5, 1.5)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Stage", "Training loss of the target\nless the reference (nats)")
    assert axes.get_ylim()[0] < -0.2


def test_the_paper_s_gap_is_of_the_weighted_loss(panels):
    weighted = [None, None, -0.4, -0.2, -0.1]
    (axes,) = panels(draw_loss_gap, [run(loss_gap=GAPS, weighted_loss_gap=weighted)])
    same(lines(axes)["target weighted"], weighted)
    same(lines(axes)["target unweighted"], GAPS)


def test_loss_gap_of_seeds_is_their_mean_over_those_that_have_one(panels):
    others = [None, None, 0.3, None, 0.0]
    (axes,) = panels(draw_loss_gap, [run(loss_gap=GAPS), run(loss_gap=others), run()])
    same(lines(axes)["target unweighted (mean of 2)"], [None, None, 0.2, -0.2, 0.2])
    for line, expected in zip(faint(axes), (GAPS, others), strict=True):
        same(line, expected)


def test_runs_on_other_data_have_a_panel_of_their_own(panels):
    first, second = panels(draw_loss_gap, [run(loss_gap=GAPS), run(DISCARD, loss_gap=[None, None, 1, 2, 3])])
    same(lines(second)["target unweighted"], [None, None, 1, 2, 3])
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == (
        "UniformNoise (rate 0.4)",
        "DiscardClasses (classes [0, 1])",
    )


def test_the_level_does_not_touch_the_lower_edge(panels):
    (axes,) = panels(draw_loss_gap, [run(loss_gap=[None, None, 1.0, 2.0, 3.0])])
    low, high = axes.get_ylim()
    assert -low / (high - low) > 0.08


def test_weights_of_rare_and_other_classes(panels):
    weights = [[1.0] * 4, [1.0] * 4, [1.5, 1.1, 0.9, 0.8], [None, 1.2, 0.8, None], [None, None, 0.7, 0.5]]
    (axes,) = panels(draw_weights, [run(DISCARD, (0, 1), weight_per_class=weights)])
    drawn = lines(axes)
    assert list(drawn) == ["rare classes", "other classes"]
    same(drawn["rare classes"], [1.0, 1.0, 1.3, 1.2, None])
    same(drawn["other classes"], [1.0, 1.0, 0.85, 0.8, 0.6])
    assert levels(axes) == [1.0]
    assert shaded(axes) == [(-0.5, 1.5)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Stage", "Mean weight")


def test_weights_of_wrong_and_right_labels(panels):
    right, wrong = [1.0, 1.0, 1.1, 1.2, 1.3], [1.0, 1.0, 0.9, 0.7, 0.5]
    (axes,) = panels(draw_weights, [run(weight_clean=right, weight_wrong=wrong)])
    drawn = lines(axes)
    assert list(drawn) == ["wrong labels", "right labels"]
    same(drawn["wrong labels"], wrong)
    same(drawn["right labels"], right)


def test_rare_classes_and_wrong_labels_together_have_two_panels(panels):
    both = run(DISCARD, (0,), weight_clean=[1.0] * 5, weight_wrong=[0.5] * 5)
    assert [list(lines(axes)) for axes in panels(draw_weights, [both, run()])] == [
        ["rare classes", "other classes"],
        ["wrong labels", "right labels"],
    ]


def test_theta_without_its_warm_up(panels):
    (axes,) = panels(draw_theta, [run()])
    drawn = lines(axes)
    assert list(drawn) == [*FEATURES, "b"]
    for index, values in enumerate(drawn.values()):
        same(values, [None, None, *(theta[index] for theta in THETA)])
    assert shaded(axes) == [(-0.5, 1.5)]


def test_strategies_of_other_features_are_not_averaged(panels):
    short = [[0.0] * 3] * 2 + [theta[:3] for theta in THETA]
    first, second = panels(draw_theta, [run(), run(theta=short)])
    assert list(lines(first)) == [*FEATURES, "b"]
    assert list(lines(second)) == ["feature 0", "feature 1", "b"]
    same(lines(second)["b"], [None, None, 0.3, 1.3, 2.3])


def test_the_legend_of_theta_covers_no_line(panels):
    (axes,) = panels(draw_theta, [run()])
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


def test_nothing_is_drawn_of_nothing(panels):
    search = Run(Path("search"), "search", {})
    for draw in (draw_loss_gap, draw_weights, draw_theta):
        assert panels(draw, [search, run(theta=[None] * 5)]) is None
