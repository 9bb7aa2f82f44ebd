"""Numbers gone wrong: defined results, a strategy that stays finite, and one warning a fit."""

import math
import warnings

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from law_lightning.callbacks.staged import MOST_LOSS
from torch.utils.data import DataLoader, TensorDataset

from law_lightning import LAWCallback, ReplayBuffer, Samples, StrategyAgent, WeightingCallback
from law_lightning import functional as LF
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.weighting import ClassBalancedWeighting, FocalWeighting, LAWWeighting, SelfPacedWeighting
from zoo import CLASSES, Base, loaders, make_data, make_trainer

THETA = torch.tensor([-2.0, 0.5, 0.7, -0.3, 0.1])
PHASE = TrainingPhase(1, 4, 1.0, 0.5)
BAD = (math.nan, math.inf, -math.inf)


def samples(count=8, classes=CLASSES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=generator)
    target = torch.randint(classes, (count,), generator=generator)
    return Samples(F.cross_entropy(logits, target, reduction="none").to(dtype), logits.to(dtype), target)


def in_place(batch, bad, where):
    """Some samples of a batch with other losses and logits."""
    loss, logits = batch.loss.clone(), batch.logits.clone()
    loss[where], logits[where, 0] = bad, bad
    return Samples(loss, logits, batch.target)


def law_weights(batch):
    weighting = LAWWeighting()
    weighting.theta = THETA
    return weighting(batch, PHASE)


# -- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", [[0], [1, 5], list(range(8))])
def test_a_sample_gone_wrong_weighs_as_one_without_features(bad, where):
    weights = law_weights(in_place(samples(), bad, where))
    assert weights.isfinite().all()
    _, _, _, label_weight, b = THETA
    label = LF.normalize_features(LF.label(samples().target, CLASSES).unsqueeze(1)).squeeze(1)
    wrong = torch.zeros(8, dtype=torch.bool)
    wrong[where] = True
    alone = 1 + torch.tanh(label_weight * label + b)
    if bad != -math.inf:  # a class at minus infinity is one that cannot be: entropy and density may still be known
        torch.testing.assert_close(weights[wrong], alone[wrong])


@pytest.mark.parametrize("bad", BAD)
def test_a_loss_gone_wrong_leaves_the_others_as_they_are(bad):
    whole = samples(9)
    loss = whole.loss.clone()
    loss[4] = bad
    rest = torch.arange(9) != 4
    found = LF.sample_features(loss, whole.logits, whole.target, ["loss"])[rest]
    torch.testing.assert_close(found, LF.sample_features(loss[rest], whole.logits[rest], whole.target[rest], ["loss"]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_overflow_in_half_precision(dtype):
    half = samples(dtype=dtype)
    logits = half.logits * 1e4
    logits[2] *= 1e4  # beyond what float16 holds
    assert dtype != torch.float16 or logits.isinf().any()
    weights = law_weights(Samples(half.loss, logits, half.target))
    assert weights.dtype == torch.float32
    assert weights.isfinite().all()
    assert (weights - weights.mean()).abs().max() > 0.1


@pytest.mark.parametrize(
    "batch",
    [samples(1), Samples(torch.ones(8), torch.zeros(8, CLASSES), torch.zeros(8).long())],
    ids=["one sample", "all equal"],
)
def test_where_nothing_differs_b_alone_weighs(batch):
    torch.testing.assert_close(law_weights(batch), torch.full((len(batch),), 1 + math.tanh(float(THETA[-1]))))


def test_where_there_is_one_class_density_alone_differs():
    batch = samples(classes=1)
    features = LF.sample_features(batch.loss, batch.logits, batch.target)
    assert not features[:, [0, 1, 3]].any()
    torch.testing.assert_close(law_weights(batch), 1 + torch.tanh(THETA[2] * features[:, 2] + THETA[-1]))


@pytest.mark.parametrize("weighting", [FocalWeighting, SelfPacedWeighting, ClassBalancedWeighting])
@pytest.mark.parametrize("bad", BAD)
def test_compared_weightings_of_the_other_samples_are_finite(weighting, bad):
    made = weighting(class_counts=[3] * CLASSES) if weighting is ClassBalancedWeighting else weighting()
    assert made(in_place(samples(), bad, [0, 3]), PHASE)[[1, 2, 4, 5, 6, 7]].isfinite().all()
    assert made(samples(1), PHASE).isfinite().all()


# -- fits --------------------------------------------------------------------------------------------------------


class Spoiled(Base):
    """Its logits go through a function of the step's number before the loss."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.spoil(self(batch[0]), self.global_step), batch[1])


class Explicit(Base):
    """Says itself what its losses are."""

    def __init__(self, add):
        super().__init__()
        self.add = add

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        losses = F.cross_entropy(logits, batch[1], reduction="none") + self.add
        return {"loss": losses.mean(), "losses": losses, "logits": logits, "target": batch[1]}


def search(module, train=None, val=None, callback=None, **kwargs):
    """A short search; its callback, and the warnings of ours."""
    L.seed_everything(0, verbose=False)
    agent = StrategyAgent(num_stages=4, warmup_stages=1, members=2)
    callback = callback or LAWCallback(agent, keep="target")
    given = loaders()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = make_trainer([callback], max_epochs=2, **kwargs)
        trainer.fit(module, train or given[0], val or given[1])
    if isinstance(callback, LAWCallback):
        check_agent(callback.agent)
        assert len(callback.buffer) == 3
        assert all(math.isfinite(record[name]) for record in callback.history for name in ("reward", "acc_target"))
    for record in callback.history:
        assert math.isfinite(record["loss_smooth"])
        assert abs(record["loss_smooth"]) <= MOST_LOSS
        assert 0 <= record["acc_smooth"] <= 1
    return callback, [str(each.message) for each in caught if "NaN or infinite" in str(each.message)]


def check_agent(agent):
    """Every number of it is finite, so that it can go on."""
    again = StrategyAgent(**agent.hparams)
    again.load_full_state(agent.full_state())  # refuses what is not finite
    assert all(parameter.isfinite().all() for parameter in agent.parameters())
    assert agent.act(2, MOST_LOSS, 0.0, explore=True).isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("steps", [{0}, {4}, set(range(12))], ids=str)
def test_a_batch_gone_wrong_is_told_of_once(bad, steps):
    module = Spoiled(lambda logits, step: logits * bad if step in steps else logits)
    _, told = search(module)
    assert len(told) == 1
    assert "losses of samples were NaN or infinite" in told[0]
    assert f"In stage {min(steps) // 3}, " in told[0]


def test_a_fit_that_goes_well_is_not_warned_of():
    callback, told = search(Spoiled(lambda logits, step: logits))
    assert told == []
    assert not callback._told


def test_each_fit_is_told_of_again():
    callback = WeightingCallback(lambda batch, phase: None, num_stages=4)
    for _ in range(2):
        _, told = search(Spoiled(lambda logits, step: logits * math.nan), callback=callback)
        assert len(told) == 1


def test_losses_that_run_away_downwards_are_cut_off():
    callback, told = search(Explicit(-1e38))
    assert [record["loss_smooth"] for record in callback.history] == [-MOST_LOSS] * 4
    assert told == []


def test_an_infinite_loss_is_left_out_of_the_mean():
    far = torch.tensor([3e38, -3e38, 0.0, 0.0])
    callback, told = search(Spoiled(lambda logits, step: torch.cat([logits[:1] + far, logits[1:]])))
    assert len(told) == 1
    assert all(math.isfinite(record["loss"]) for record in callback.history)
    assert all(math.isfinite(record["loss_gap"]) for record in callback.history[1:])


def test_weights_gone_wrong_are_told_of_once():
    callback = WeightingCallback(lambda batch, phase: batch.loss * math.nan, num_stages=4)
    _, told = search(Spoiled(lambda logits, step: logits), callback=callback)
    assert len(told) == 1
    assert "weights" in told[0]


def test_all_losses_equal():
    callback, told = search(Spoiled(lambda logits, step: logits * 0))
    assert told == []
    assert [record["loss"] for record in callback.history] == pytest.approx([math.log(CLASSES)] * 4)


def test_one_class_in_the_data():
    x, y = make_data(92).tensors
    callback, told = search(Base(), DataLoader(TensorDataset(x, y * 0), 16))
    assert told == []
    for record in callback.history:
        assert [weight is None for weight in record["weight_per_class"]] == [False, True, True, True]


@pytest.mark.parametrize("train", [True, False])
def test_one_sample(train):
    x, y = make_data(8).tensors
    one = DataLoader(TensorDataset(x[:1], y[:1]), 1)
    if train:  # batches of one
        callback, told = search(Base(), DataLoader(TensorDataset(x, y), 1))
        assert all(record["weight_std"] == pytest.approx(0.0, abs=1e-6) for record in callback.history)
    else:
        callback, told = search(Base(), val=one)
        assert {record["acc_target"] for record in callback.history} <= {0.0, 1.0}
    assert told == []


# -- rewards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"reward_growth": 1000.0}, {"reward_scale": math.inf}, {"reward_scale": 1e300}, {"reward_scale": math.nan},
        {"reward_growth": math.nan}, {"reward_growth": 20.0, "reward_scale": 10.0},
    ],
)  # fmt: skip
def test_rewards_that_could_not_be_learned_from_are_refused(options):
    with pytest.raises(ValueError, match="reward_growth"):
        LAWCallback(**options)


def test_the_largest_rewards_are_learned_from():
    callback, _ = search(Base(), callback=LAWCallback(StrategyAgent(num_stages=4, warmup_stages=1), reward_scale=4e7))
    assert any(record["reward"] for record in callback.history)


@pytest.mark.parametrize("column", ["reward", "phase", "theta", "next_phase"])
@pytest.mark.parametrize("bad", [1e38, *BAD])
def test_a_buffer_that_would_poison_the_strategy_is_refused(column, bad):
    buffer = ReplayBuffer()
    for stage in range(4):
        buffer.add(PHASE, torch.zeros(5), 0.1 * stage, PHASE, stage == 3)
    getattr(buffer._columns, column)[0] = bad
    agent = StrategyAgent(num_stages=4, n_step=1)  # that looks at the next phase
    before = agent.full_state()
    with pytest.raises(ValueError, match=rf"numbers of {column}.*poison"):
        agent.full_data_update(buffer)
    check_agent(agent)
    after = agent.full_state()
    assert all(torch.equal(before["networks"][name], after["networks"][name]) for name in before["networks"])
