from pathlib import Path

import numpy as np
import pytest

from law_lightning.functional import FEATURES
from law_lightning.report.runs import Run
from law_lightning.report.stage_figures import draw_loss_gap, draw_theta, draw_weights

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


def lines(axes):
    """The heights of the strong lines by their name in the legend."""
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    named = dict(zip(texts, axes.get_legend_handles_labels()[0], strict=True))
    assert all(list(line.get_xdata()) == list(range(5)) for line in named.values())
    return {name: np.asarray(line.get_ydata()) for name, line in named.items()}


def faint(axes):
    return [np.asarray(line.get_ydata()) for line in axes.get_lines() if line.get_alpha() is not None]


def same(values, expected):
    np.testing.assert_allclose(values, np.array(expected, dtype=float), rtol=1e-12)


@pytest.mark.parametrize(
    ("draw", "training", "label", "level"),
    [
        (draw_loss_gap, run(loss_gap=GAPS), "Training loss of the target\nless the reference (nats)", 0.0),
        (draw_loss_gap, run(loss_gap=[None, None, 1.0, 2.0, 3.0]), None, 0.0),
        (draw_weights, run(weight_clean=[1.0] * 5, weight_wrong=[1.5] * 5), "Mean weight", 1.0),
        (draw_theta, run(), "theta", 0.0),
    ],
)
def test_axes(panels, draw, training, label, level):
    (axes,) = panels(draw, [training])
    assert [line.get_ydata()[0] for line in axes.get_lines() if list(line.get_xdata()) == [0, 1]] == [level]
    assert [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches] == [(-0.5, 1.5)]  # warm-up
    assert axes.get_xlabel() == "Stage"
    assert label is None or axes.get_ylabel() == label
    low, high = axes.get_ylim()
    assert (level - low) / (high - low) > 0.08  # the level does not touch the lower edge
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1  # and the legend no line


def test_loss_gap_of_one_run(panels):
    weighted = [None, None, -0.4, -0.2, -0.1]
    (axes,) = panels(draw_loss_gap, [run(loss_gap=GAPS, weighted_loss_gap=weighted)])
    same(lines(axes)["target weighted"], weighted)
    same(lines(axes)["target unweighted"], GAPS)
    assert faint(axes) == []


def test_loss_gap_of_seeds_is_their_mean_over_those_that_have_one(panels):
    others = [None, None, 0.3, None, 0.0]
    (axes,) = panels(draw_loss_gap, [run(loss_gap=GAPS), run(loss_gap=others), run()])
    assert list(lines(axes)) == ["target unweighted (mean of 2)"]
    same(lines(axes)["target unweighted (mean of 2)"], [None, None, 0.2, -0.2, 0.2])
    for line, expected in zip(faint(axes), (GAPS, others), strict=True):
        same(line, expected)


def test_runs_on_other_data_have_a_panel_of_their_own(panels):
    first, second = panels(draw_loss_gap, [run(loss_gap=GAPS), run(DISCARD, loss_gap=[None, None, 1, 2, 3])])
    same(lines(second)["target unweighted"], [None, None, 1, 2, 3])
    titles = [axes.get_title(loc="left") for axes in (first, second)]
    assert titles == ["UniformNoise (rate 0.4)", "DiscardClasses (classes [0, 1])"]


def test_weights_of_rare_and_other_classes(panels):
    weights = [[1.0] * 4, [1.0] * 4, [1.5, 1.1, 0.9, 0.8], [None, 1.2, 0.8, None], [None, None, 0.7, 0.5]]
    (axes,) = panels(draw_weights, [run(DISCARD, (0, 1), weight_per_class=weights)])
    drawn = lines(axes)
    assert list(drawn) == ["rare classes", "other classes"]
    same(drawn["rare classes"], [1.0, 1.0, 1.3, 1.2, None])
    same(drawn["other classes"], [1.0, 1.0, 0.85, 0.8, 0.6])


def test_rare_classes_and_wrong_labels_together_have_two_panels(panels):
    right, wrong = [1.0, 1.0, 1.1, 1.2, 1.3], [1.0, 1.0, 0.9, 0.7, 0.5]
    classes, labels = panels(draw_weights, [run(DISCARD, (0,), weight_clean=right, weight_wrong=wrong), run()])
    assert list(lines(classes)) == ["rare classes", "other classes"]
    assert list(lines(labels)) == ["wrong labels", "right labels"]
    same(lines(labels)["wrong labels"], wrong)
    same(lines(labels)["right labels"], right)


def test_theta_without_its_warm_up_strategies_of_other_features_apart(panels):
    short = [[0.0] * 3] * 2 + [theta[:3] for theta in THETA]
    first, second = panels(draw_theta, [run(), run(theta=short)])
    for axes, names in ((first, [*FEATURES, "b"]), (second, ["feature 0", "feature 1", "b"])):
        drawn = lines(axes)
        assert list(drawn) == names
        for index, values in enumerate(drawn.values()):
            same(values, [None, None, *(theta[index] for theta in THETA)])


def test_nothing_is_drawn_of_nothing(panels):
    search = Run(Path("search"), "search", {})
    for draw in (draw_loss_gap, draw_weights, draw_theta):
        assert panels(draw, [search, run(theta=[None] * 5)]) is None
