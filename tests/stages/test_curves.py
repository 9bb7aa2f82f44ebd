from types import SimpleNamespace

import pytest
import torch

from law_lightning import Samples
from law_lightning import functional as LF
from law_lightning.stages.curves import LEAST, LOSS_EDGES, MARGIN_EDGES, WeightCurves

TRAINER = SimpleNamespace(
    strategy=SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda value, reduce_op: value)
)


def step(seed, count=200, classes=4, weighted=True, valid=None):
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=draw)
    target = torch.randint(classes, (count,), generator=draw)
    loss = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    loss[0] = torch.nan
    weights = 2 * torch.rand(count, generator=draw) if weighted else None
    return SimpleNamespace(weighed=[(Samples(loss, logits, target, valid=valid), weights)])


def started(steps=()):
    curves = WeightCurves()
    curves.start(TRAINER, None)
    for each in steps:
        curves.after_step(each)
    return curves


def naive(steps, values, edges):
    """The mean weight between edges, sample by sample."""
    found = [[] for _ in range(len(edges) + 1)]
    for samples, weights in (step.weighed[0] for step in steps):
        for i, value in enumerate(values(samples).tolist()):
            if value == value and (samples.valid is None or samples.valid[i]):
                found[sum(value > edge for edge in edges)].append(weights[i].item())
    return [pytest.approx(sum(each) / len(each), abs=1e-4) if len(each) >= LEAST else None for each in found]


def test_mean_weights_by_loss_and_by_margin_against_a_loop():
    steps = [step(0), step(1, valid=torch.arange(200) % 3 == 0), step(2, classes=6), step(3, count=1)]
    curves = started(steps)
    found = curves.summary(TRAINER)
    assert found["weight_by_loss"] == naive(steps, lambda samples: samples.loss, LOSS_EDGES)
    margins = naive(steps, lambda samples: LF.margin(samples.logits, samples.target), MARGIN_EDGES)
    assert found["weight_by_margin"] == margins
    assert curves.summary(TRAINER) == {}  # the next stage


def test_a_stage_without_weights_has_no_curves():
    assert started([step(0, weighted=False)]).summary(TRAINER) == {}


def test_a_resumed_stage_has_the_same_curves():
    steps = [step(seed) for seed in range(4)]
    whole, first, second = started(steps), started(steps[:2]), started()
    second.load_state_dict(first.state_dict())
    for each in steps[2:]:
        second.after_step(each)
    assert second.summary(TRAINER) == whole.summary(TRAINER)
    with pytest.raises(ValueError, match="do not fit together"):
        second.load_state_dict({"sums": torch.zeros(3)})
