from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from law_lightning.report.compare_figure import draw_comparison
from law_lightning.report.records import Outcome
from law_lightning.report.runs import Run
from law_lightning.report.search_figure import draw_search
from law_lightning.report.stage_figures import draw_curves, draw_loss_gap, draw_theta, draw_weights
from law_lightning.search.gain import Gain

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


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """Draws and returns the panels of the figure, None where nothing is drawn."""
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))

    def call(draw, data, *more):
        path = draw(data, tmp_path / "figure.png", *more)
        if path is None:
            assert not (tmp_path / "figure.png").exists()
            return None
        assert path.is_file()
        return drawn[-1].axes

    return call


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
        low, high = axes.get_xlim()
        points = [x for line in axes.collections if len(line.get_offsets()) == 3 for x, _ in line.get_offsets()]
        assert points == pytest.approx([100 * getattr(outcome, name) for outcome in outcomes])
        assert all(low < x < high for x in points)
        assert [label.get_text() for label in axes.get_yticklabels()] == list(methods)
        assert axes.get_lines() == []  # nothing joins methods
    if len(methods) > 1:
        assert [label.get_text() for label in drawn[-1].get_yticklabels()] == list(methods[1:])
        means = [container.lines[0].get_xdata()[0] for container in drawn[-1].containers]
        expected = list(range(1, len(methods)))
        expected += [-3 * place for place in range(1, len(methods))] if validated else []
        assert means == pytest.approx(expected)
        assert {container.lines[0].get_marker() for container in drawn[-1].containers} == set("os"[:epochs])


def test_search_shows_returns_and_the_best_gain(panels):
    history = [{"episode": e, "return": 0.1 * e, "gain": 0.01 * e if e % 2 else None} for e in range(6)]
    upper, lower = panels(draw_search, history)
    assert [tuple(point) for point in upper.collections[0].get_offsets()] == [(e + 1, 0.1 * e) for e in range(6)]
    assert lower.lines[0].get_xydata().tolist() == [[2.0, 1.0], [4.0, 3.0], [6.0, 5.0]]
    assert [text.get_text() for text in lower.texts] == ["best: +5.0"]
    lower = panels(draw_search, history, Gain(0.03, 0.01, 0.06, seeds=8, samples=500, candidates=4))[1]
    points, _, (bar,) = lower.containers[0].lines
    assert points.get_xydata().tolist() == [[6.0, 3.0]]
    assert bar.get_segments()[0].tolist() == [[6.0, 1.0], [6.0, 6.0]]


@pytest.mark.parametrize("history", [[{"episode": 0, "return": 0.5}], []])
def test_search_without_evaluations_or_episodes_is_drawn(panels, history):
    assert len(panels(draw_search, history)) == 2


@pytest.mark.parametrize(
    ("draw", "training", "label", "level"),
    [
        (draw_loss_gap, run(loss_gap=GAPS), "Training loss of the target\nless the reference (nats)", 0.0),
        (
            draw_weights,
            run(weight_clean=[1.0] * 5, weight_wrong=[1.5] * 5),
            "Mean weight",
            1.0,
        ),
    ],
)
def test_axes(panels, draw, training, label, level):
    (axes,) = panels(draw, [training])
    assert [line.get_ydata()[0] for line in axes.get_lines() if list(line.get_xdata()) == [0, 1]] == [level]
    (warm_up,) = axes.patches
    corners = warm_up.get_patch_transform().transform(warm_up.get_path().vertices)  # a Polygon before matplotlib 3.9
    assert (corners[:, 0].min(), corners[:, 0].max()) == (-0.5, 1.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Stage", label)
    low, high = axes.get_ylim()
    assert (level - low) / (high - low) > 0.08  # the level does not touch the lower edge
    assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1  # and the legend no line
    assert faint(axes) == []


def test_a_training_that_was_never_weighted_has_no_warm_up(panels):
    (axes,) = panels(draw_loss_gap, [run(loss_gap=GAPS, theta=[[0.0] * 3] * 5)])
    assert not axes.patches


def test_loss_gap_of_seeds_is_their_mean_over_those_that_have_one_and_other_data_have_another_panel(panels):
    weighted, others = [None, None, -0.4, -0.2, -0.1], [None, None, 0.3, None, 0.0]
    alone = run(DISCARD, loss_gap=GAPS, weighted_loss_gap=weighted)
    first, second = panels(draw_loss_gap, [run(loss_gap=GAPS), alone, run(loss_gap=others), run()])
    assert list(lines(first)) == ["target unweighted"]
    same(lines(first)["target unweighted"], [None, None, 0.2, -0.2, 0.2])
    for line, expected in zip(faint(first), (GAPS, others), strict=True):
        same(line, expected)
    same(lines(second)["target weighted"], weighted)
    same(lines(second)["target unweighted"], GAPS)
    titles = [part.get_suptitle() for part in first.figure.figure.subfigs]
    assert titles == [
        "Uniform noise (rate 0.4): plain training, mean of 2 runs",
        "Discard classes (classes 0, 1): plain training",
    ]


def test_weights_of_rare_and_other_classes_and_of_wrong_and_right_labels(panels):
    weights = [[1.0] * 4, [1.0] * 4, [1.5, 1.1, 0.9, 0.8], [None, 1.2, 0.8, None], [None, None, 0.7, 0.5]]
    right, wrong = [1.0, 1.0, 1.1, 1.2, 1.3], [1.0, 1.0, 0.9, 0.7, 0.5]
    both = run(DISCARD, (0, 1), weight_per_class=weights, weight_clean=right, weight_wrong=wrong)
    classes, labels = map(lines, panels(draw_weights, [both, run()]))
    assert (list(classes), list(labels)) == (["rare classes", "other classes"], ["wrong labels", "right labels"])
    same(classes["rare classes"], [1.0, 1.0, 1.3, 1.2, None])
    same(classes["other classes"], [1.0, 1.0, 0.85, 0.8, 0.6])
    same(labels["wrong labels"], wrong)
    same(labels["right labels"], right)


def test_the_spread_of_weights_is_drawn_beside_their_means(panels):
    quantiles = [[1.0] * 5] * 2 + [[0.1, 0.2, 0.3, 0.4, 0.5]] * 3
    means = {"weight_clean": [1.0] * 5, "weight_wrong": [0.5] * 5}
    (axes,) = panels(draw_weights, [run(**means, weight_wrong_quantiles=quantiles)])
    bands = [path.vertices[:, 1] for each in axes.collections for path in each.get_paths()]
    assert axes.get_ylabel() == "Mean weight\n(bands: 50 and 90 %)"
    assert [(band[2:].min(), band.max()) for band in bands] == [(0.1, 1.0), (0.2, 1.0), (0.2, 1.0)]
    classes = run(DISCARD, (0,), weight_per_class=[[1.5, None, 0.5, 0.7]] * 5)
    rare, other = panels(draw_weights, [classes])[0].collections
    assert [y for _, y in rare.get_offsets()] == [1.5] * 5
    assert [y for _, y in other.get_offsets()] == [0.5, 0.7] * 5


def test_curves_of_a_few_stages_by_loss_and_by_margin(panels):
    losses = [None, *([stage / 10] * 10 for stage in range(1, 7))]
    margins = [None, *([stage / 5] * 19 + [None] for stage in range(1, 7))]
    columns = {"weight_by_loss": losses, "weight_by_margin": margins, "theta": [[0.0]] * 7}
    records = [{"stage": i} | {name: values[i] for name, values in columns.items()} for i in range(7)]
    by_loss, by_margin = panels(draw_curves, [Run(Path("a"), "train", NOISE, records)])
    for axes, scale, weights in ((by_loss, "log", losses), (by_margin, "linear", margins)):
        curves = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        assert list(curves) == ["stage 1", "stage 3", "stage 4", "stage 6"]
        assert axes.get_xscale() == scale
        for name, curve in curves.items():
            same(curve.get_ydata(), weights[int(name[-1])])
        looks = {(curve.get_marker(), curve.get_linestyle()) for curve in curves.values()}
        assert len(looks) == len(curves)  # told apart without colour
    places = by_margin.get_lines()[0].get_xdata()
    assert (places[0], places[-1]) == pytest.approx((-0.95, 0.95))


def test_theta_is_a_map_without_its_warm_up_also_of_other_features(panels):
    short = [[0.0] * 3] * 2 + [theta[:3] for theta in THETA[:2]] + [[0.0] * 3]  # which are a value after it
    named = run(DISCARD, theta=short, features=[["margin", "my_own"]] * 5)
    maps = panels(draw_theta, [run(), named, run({"seed": 1} | DISCARD, theta=short, features=[None] * 5)])[::2]
    usual = ["loss", "uncertainty\n(entropy)", "similarity to\nothers (density)", "number of the\nclass"]
    own = ["margin of the\nlabel", "my_own"]
    for axes, names, thetas in zip(maps, (usual, own), (WARM + THETA, short), strict=False):
        assert [label.get_text() for label in axes.get_yticklabels()] == [*names, "constant b"]
        (image,) = axes.get_images()
        same(np.ma.filled(image.get_array().T, np.nan)[2:], thetas[2:])
        assert image.get_array().mask[:, :2].all()
        signs = {tuple(text.xy): text.get_text() for text in axes.texts}
        assert signs[2, len(names)] == "+"


def test_nothing_is_drawn_of_nothing(panels):
    search = Run(Path("search"), "search", {})
    for draw in (draw_loss_gap, draw_weights, draw_theta, draw_curves):
        assert panels(draw, [search, run(theta=[None] * 5)]) is None
