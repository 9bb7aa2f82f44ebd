"""Numbers gone wrong: defined results, a strategy that stays finite, and one warning a fit."""

import math
import warnings

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from law_lightning import LAWCallback, ReplayBuffer, Samples, StrategyAgent, WeightingCallback
from law_lightning import functional as LF
from law_lightning.stages.clock import MAX_LOSS
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.weighting import LAWWeighting
from zoo import CLASSES, Base, loaders, make_data, make_trainer

THETA = torch.tensor([-2.0, 0.5, 0.7, -0.3, 0.1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e8])
@pytest.mark.parametrize("where", [[0], [1, 5], list(range(8))])
def test_a_sample_gone_wrong_weighs_as_one_without_features(bad, where, dtype):
    """In half precision 1e8 overflows."""
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(8, CLASSES, generator=generator), torch.randint(CLASSES, (8,), generator=generator)
    loss = F.cross_entropy(logits, target, reduction="none")
    logits[where, 0] = loss[where] = bad
    weighting = LAWWeighting()
    weighting.theta = THETA
    weights = weighting(Samples(loss.to(dtype), logits.to(dtype), target), TrainingPhase(1, 4, 1.0, 0.5))
    assert weights.dtype == torch.float32
    assert weights.isfinite().all()
    label = LF.normalize_features(LF.label(target, CLASSES).unsqueeze(1)).squeeze(1)
    alone = 1 + torch.tanh(THETA[3] * label + THETA[4])
    if not math.isfinite(torch.tensor(bad, dtype=dtype)):
        torch.testing.assert_close(weights[where], alone[where])


# -- fits --------------------------------------------------------------------------------------------------------


class Spoiled(Base):
    """Its logits go through a function of the step's number before the loss; something is added to the losses."""

    def __init__(self, spoil=lambda logits, step: logits, add=0.0):
        super().__init__()
        self.spoil, self.add = spoil, add

    def training_step(self, batch, batch_idx):
        logits = self.spoil(self(batch[0]), self.global_step)
        losses = F.cross_entropy(logits, batch[1], reduction="none") + self.add
        return {"loss": losses.mean(), "losses": losses, "logits": logits, "target": batch[1]}


def search(module, train=None, val=None, callback=None):
    """A short search; its history, and the warnings of ours."""
    L.seed_everything(0, verbose=False)
    callback = callback or LAWCallback(StrategyAgent(num_stages=4, warmup_stages=1, members=2), keep="target")
    usual = loaders()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer([callback], max_epochs=2).fit(module, train or usual[0], val or usual[1])
    if isinstance(callback, LAWCallback):
        assert all(parameter.isfinite().all() for parameter in callback.agent.parameters())
        assert len(callback.buffer) == 3
        assert all(math.isfinite(record[name]) for record in callback.history for name in ("reward", "acc_target"))
    for record in callback.history:
        assert abs(record["loss_smooth"]) <= MAX_LOSS
        assert 0 <= record["acc_smooth"] <= 1
    return callback.history, [str(each.message) for each in caught if "NaN or infinite" in str(each.message)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("steps", [{0}, {4}, set(range(12))], ids=str)
def test_a_batch_gone_wrong_is_told_of_once(bad, steps):
    _, (told,) = search(Spoiled(lambda logits, step: logits * bad if step in steps else logits))
    assert "losses of samples were NaN or infinite" in told
    assert f"In stage {min(steps) // 3}, " in told


def test_weights_gone_wrong_are_told_of_once_in_every_fit():
    callback = WeightingCallback(lambda batch, phase: batch.loss * math.nan, num_stages=4)
    for _ in range(2):
        _, (told,) = search(Spoiled(), callback=callback)
        assert "weights" in told


def test_losses_that_run_away_downwards_are_cut_off():
    history, told = search(Spoiled(add=-1e38))
    assert [record["loss_smooth"] for record in history] == [-MAX_LOSS] * 4
    assert told == []


def test_an_infinite_loss_is_left_out_of_the_mean():
    far = torch.tensor([3e38, -3e38, 0.0, 0.0])
    history, told = search(Spoiled(lambda logits, step: torch.cat([logits[:1] + far, logits[1:]])))
    assert len(told) == 1
    assert all(math.isfinite(record["loss"]) for record in history)
    assert all(math.isfinite(record["loss_gap"]) for record in history[1:])


def test_one_class_in_the_data():
    x, y = make_data(92).tensors
    history, told = search(Base(), DataLoader(TensorDataset(x, y * 0), 16))
    assert told == []
    for record in history:
        assert [weight is None for weight in record["weight_per_class"]] == [False, True, True, True]


def test_batches_of_one_sample_and_one_to_validate():
    x, y = make_data(8).tensors
    history, told = search(Base(), DataLoader(TensorDataset(x, y), 1), DataLoader(TensorDataset(x[:1], y[:1]), 1))
    assert all(record["weight_std"] == pytest.approx(0.0, abs=1e-6) for record in history)
    assert {record["acc_target"] for record in history} <= {0.0, 1.0}
    assert told == []


@pytest.mark.parametrize("column", ["reward", "phase", "theta", "next_phase"])
def test_a_buffer_that_would_poison_the_strategy_is_refused(column):
    agent, buffer, phase = StrategyAgent(num_stages=4), ReplayBuffer(), TrainingPhase(1, 4, 1.0, 0.5)
    buffer.add(phase, THETA, 0.1, phase, False)
    getattr(buffer._columns, column)[0] = 1e38
    with pytest.raises(ValueError, match=rf"numbers of {column}.* that no agent could learn from"):
        agent.full_data_update(buffer)
    assert agent.updates == 0
