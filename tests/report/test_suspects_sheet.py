"""A sheet of images with both labels, where the data are images."""

from types import SimpleNamespace

import pytest
import torch

from law_lightning.report import suspects as sheet
from law_lightning.report.suspects import draw_suspects

SUSPECTS = [{"index": index, "given": 0, "predicted": 1, "score": 0.5} for index in (2, 0, 3)]


def data(*shape, classes=None):
    samples = [(torch.full(shape, float(index)) + torch.rand(shape), 0) for index in range(4)]
    dataset = type("Dataset", (list,), {"classes": classes})(samples)
    return SimpleNamespace(train_dataloader=lambda: SimpleNamespace(dataset=dataset))


@pytest.mark.parametrize(("shape", "classes"), [((1, 6, 6), None), ((3, 8, 5), ["cat", "dog"])])
def test_images_are_drawn_with_both_labels(tmp_path, monkeypatch, shape, classes):
    drawn = {}
    monkeypatch.setattr(sheet, "save", lambda figure, path: drawn.update(figure=figure) or path)
    given, before = data(*shape, classes=classes), torch.get_rng_state()
    assert draw_suspects(given, SUSPECTS, tmp_path / "a.png") == tmp_path / "a.png"
    assert torch.equal(torch.get_rng_state(), before)
    titles = [axes.get_title() for axes in drawn["figure"].axes]
    names = classes or ["0", "1"]
    assert titles == [f"given: {names[0]}\npredicted: {names[1]}\nsample {index}" for index in (2, 0, 3)]


@pytest.mark.parametrize("shape", [(5,), (2, 6, 6), (1, 1, 40)])
def test_other_data_are_not(tmp_path, shape):
    assert draw_suspects(data(*shape), SUSPECTS, tmp_path / "a.png") is None
    assert draw_suspects(data(1, 6, 6), [], tmp_path / "a.png") is None
    for dataset in (None, object()):  # the second is not read by single indices
        other = SimpleNamespace(train_dataloader=lambda dataset=dataset: SimpleNamespace(dataset=dataset))
        assert draw_suspects(other, SUSPECTS, tmp_path / "a.png") is None
