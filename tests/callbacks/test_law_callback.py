import copy
import math
from itertools import pairwise

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch import nn

import zoo
from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent, WeightingCallback
from law_lightning import functional as LF
from methods import bold_agent
from run_folders import rows
from zoo import CLASSES, AdamCosine, Base, DropoutMLP, assert_identical, fit, loaders, make_trainer


def agent(**kwargs):
    return StrategyAgent(**({"num_stages": 5, "warmup_stages": 1, "episode_noise": 2.0} | kwargs))


@pytest.mark.parametrize("module", [DropoutMLP, zoo.ExplicitDict, zoo.Auxiliary, zoo.Mixup], ids=lambda m: m.__name__)
def test_history(module):
    law = LAWCallback(agent())
    fit(module, [law])
    assert [record["stage"] for record in law.history] == [0, 1, 2, 3, 4]
    assert [record["step"] for record in law.history] == [4, 9, 14, 19, 24]
    first, *rest = law.history
    assert first["theta"] == [0.0] * 5
    assert first["acc_target"] == first["acc_reference"]
    assert first["reward"] == 0.0
    assert first["loss_gap"] is None
    for record in rest:
        assert len(record["theta"]) == 5
        assert all(-3 <= value <= 3 for value in record["theta"])
        assert 0 <= record["weight_min"] <= record["weight_mean"] <= record["weight_max"] <= 2
        assert len(record["weight_per_class"]) == CLASSES
        assert math.isfinite(record["loss_gap"])
        weight = LF.reward_weight(record["step"], 24, k=3.0)
        assert record["reward"] == weight * (record["acc_target"] - record["acc_reference"])
    for record in law.history:
        for value in record.values():  # plain numbers
            assert isinstance(value, (int, float, list, type(None)))


def test_transitions_and_learning():
    strategy, buffer = agent(), ReplayBuffer()
    before = strategy.full_state()
    law = LAWCallback(strategy, buffer=buffer)
    fit(DropoutMLP, [law])
    rows = buffer.transitions()
    learned = law.history[1:]
    assert rows.stage.tolist() == [1, 2, 3, 4]
    assert rows.next_stage.tolist() == [2, 3, 4, 4]
    assert rows.done.tolist() == [0, 0, 0, 1]
    assert rows.theta.tolist() == [record["theta"] for record in learned]
    torch.testing.assert_close(rows.reward, torch.tensor([record["reward"] for record in learned]))
    smooth = torch.tensor([[record[f"{name}_smooth"] for name in ("loss", "acc", "noise")] for record in law.history])
    torch.testing.assert_close(rows.phase, smooth[:-1])
    torch.testing.assert_close(rows.next_phase, smooth[1:])
    after = strategy.full_state()["networks"]
    assert any(not torch.equal(after[name], before["networks"][name]) for name in after)


@pytest.mark.parametrize("mode", ["search", "apply"])
@pytest.mark.parametrize(
    ("options", "measured", "unit"),
    [
        ({}, "acc_target", math.log(CLASSES)),
        ({"phase_accuracy": "training", "relative_loss": False}, "accuracy", 1.0),
    ],
)
def test_smoothing_against_a_loop(options, measured, unit, mode):
    law = LAWCallback(agent(**options), mode, smoothing=0.25)
    fit(DropoutMLP, [law])
    loss = accuracy = None
    for record in law.history:
        new = record["loss"] / unit
        loss = new if loss is None else 0.25 * loss + 0.75 * new
        accuracy = record[measured] if accuracy is None else 0.25 * accuracy + 0.75 * record[measured]
        assert record["loss_smooth"] == pytest.approx(loss)
        assert record["acc_smooth"] == pytest.approx(accuracy)


def test_the_phase_is_of_the_networks_that_the_reward_is_of():
    """theta_{T+1} follows from the accuracy that gave r_T."""
    law = LAWCallback(strategy := agent(), smoothing=0.0, explore=False, learn=False)
    fit(DropoutMLP, [law])
    for record, following in pairwise(law.history):
        theta = strategy.act(following["stage"], record["loss_smooth"], record["acc_target"])
        assert following["theta"] == theta.tolist()


def test_the_weighted_loss_gap_is_of_the_loss_that_the_target_trains_on():
    """Figure 3: the mean of K x L of the target less the reference's mean of L, here with weights of a half."""
    halved = agent(theta_bound=None)
    with torch.no_grad():
        halved.actor.network[-1].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, math.atanh(-0.5)]))
    law = LAWCallback(halved, explore=False, learn=False)
    fit(DropoutMLP, [law])
    assert law.history[0]["weighted_loss_gap"] is None
    for record in law.history[1:]:
        assert record["weighted_loss"] == pytest.approx(0.5 * record["loss"], rel=1e-5)
        reference = record["loss"] - record["loss_gap"]
        assert record["weighted_loss_gap"] == pytest.approx(0.5 * record["loss"] - reference, rel=1e-4, abs=1e-6)


def accuracy(module):
    _, loader = loaders()
    module.eval()
    with torch.no_grad():
        right = [(module(x).argmax(1) == y).float().sum() for x, y in loader]
    return float(sum(right)) / len(loader.dataset)


@pytest.mark.parametrize("bias", [-6.0, 0.5])
def test_keep_best_leaves_the_network_that_validates_better(bias):
    def strategy():
        """Constant weights: nearly none (the target hardly learns), or a little more than one."""
        constant = agent(theta_bound=None)
        nn.init.zeros_(constant.actor.network[-1].weight)
        with torch.no_grad():
            constant.actor.network[-1].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, bias]))
        return constant

    best, target = (
        LAWCallback(strategy(), keep=keep, warmup_stages=0, explore=False, learn=False) for keep in ("best", "target")
    )
    kept, trained = fit(DropoutMLP, [best]), fit(DropoutMLP, [target])
    last = best.history[-1]
    assert accuracy(trained) == pytest.approx(last["acc_target"])
    assert accuracy(best.reference) == pytest.approx(last["acc_reference"])
    assert accuracy(kept) == pytest.approx(max(last["acc_target"], last["acc_reference"]))
    better = best.reference if last["acc_reference"] > last["acc_target"] else trained
    assert_identical(kept.state_dict(), better.state_dict())
    if bias < 0:
        assert last["acc_reference"] > last["acc_target"]


def test_a_fit_stopped_early_still_compares_the_networks():
    """In the middle of the first stage, or in the warm-up, when one network has trained for both."""
    stopper = EarlyStopping("val_loss", patience=0, stopping_threshold=100.0, check_on_train_epoch_end=False)
    law = LAWCallback(agent(num_stages=2), warmup_stages=0)
    module = fit(AdamCosine, [law, copy.deepcopy(stopper)])
    assert law.history == []
    assert law.reference is not None
    assert accuracy(module) >= accuracy(law.reference)
    law = LAWCallback(agent(num_stages=5), warmup_stages=4)
    module = fit(DropoutMLP, [law, copy.deepcopy(stopper)])
    assert_identical(law.reference.state_dict(), module.state_dict())


@pytest.mark.parametrize("mode", ["search", "apply"])
def test_log_keys(tmp_path, mode):
    law = LAWCallback(agent(), mode=mode)
    trainer = make_trainer([law], logger=CSVLogger(tmp_path), log_every_n_steps=1000)
    trainer.fit(DropoutMLP(), *loaders())
    found = [row for row in rows(tmp_path / "lightning_logs/version_0/metrics.csv") if row["law/weight/mean"]]
    assert len(found) == 5
    always = {"law/weight/mean", "law/weight/std", "law/weight/min", "law/weight/max"}
    always |= {f"law/theta/{name}" for name in ("loss", "entropy", "density", "label", "b")}
    always |= {"law/acc_target", "law/stage", "law/loss", "law/weighted_loss"}
    searching = {"law/reward", "law/acc_reference", "law/loss_gap", "law/weighted_loss_gap"}
    searching |= {"agent/critic_loss", "agent/actor_loss", "agent/q_mean"}
    expected = always | searching if mode == "search" else always
    assert {key for key in found[-1] if key.startswith(("law/", "agent/"))} == expected
    assert expected <= set(trainer.callback_metrics)
    assert float(found[-1]["law/weight/mean"]) == pytest.approx(law.history[-1]["weight_mean"], abs=1e-6)


def test_any_weighting():
    phases = []

    def twice_class_0(samples, phase):
        phases.append(phase)
        return 1.0 + (samples.target == 0).float()

    class ByHand(DropoutMLP):
        def training_step(self, batch, batch_idx):
            x, y = batch
            losses = F.cross_entropy(self(x), y, reduction="none")
            return ((1.0 + (y == 0).float()) * losses).mean()

    callback = WeightingCallback(twice_class_0, num_stages=3)
    weighted, by_hand = fit(DropoutMLP, [callback]), fit(ByHand)
    for name, value in weighted.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name])
    assert sorted({phase.stage for phase in phases}) == [0, 1, 2]
    for record in callback.history:
        assert record["weight_per_class"] == [2.0] + [1.0] * (CLASSES - 1)
        assert "theta" not in record


def test_a_test_between_two_fits_does_not_leak_into_the_second(tmp_path):
    """trainer.test(ckpt_path=...) restores callbacks as well; the next fit still begins anew."""

    class Tested(DropoutMLP):
        def test_step(self, batch, batch_idx):
            self.log("acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    law = LAWCallback(agent())
    train, val = loaders()
    trainer = make_trainer([law])
    trainer.fit(Tested(), train, val)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    first = law.history
    trainer.test(Tested(), val, ckpt_path=tmp_path / "a.ckpt", verbose=False)
    make_trainer([law]).fit(Tested(), train, val)
    assert law.agent.exploration.episode == 2
    assert len(law.buffer) == 8
    assert law.history != first


def test_a_module_whose_checkpoint_leaves_parts_out(tmp_path):
    """strict_loading=False and a partial state_dict, as for a frozen encoder: keep="best" and resuming still work."""

    class Partial(DropoutMLP):
        def __init__(self):
            super().__init__()
            self.strict_loading = False
            self.encoder = nn.Linear(36, 36)

        def forward(self, x):
            return self.net(x + self.encoder(x.flatten(1)).view_as(x))

        def state_dict(self, *args, **kwargs):
            return {k: v for k, v in super().state_dict(*args, **kwargs).items() if "encoder" not in k}

    law = LAWCallback(agent())
    module = fit(Partial, [law])
    last = law.history[-1]
    assert accuracy(module) == pytest.approx(max(last["acc_target"], last["acc_reference"]))


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_loss_gap_of_networks_that_do_not_learn_is_zero(scale):
    class Still(Base):
        def make_net(self):
            return nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))

        def training_step(self, batch, batch_idx):
            return scale * F.cross_entropy(self(batch[0]), batch[1]) + 3.0

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    law = LAWCallback(agent())
    fit(Still, [law])
    assert [record["loss_gap"] for record in law.history] == [None, 0.0, 0.0, 0.0, 0.0]


def test_parts_that_a_callback_unfreezes(tmp_path):
    """The reference follows new parameter groups and requires_grad, as plain training would have them."""

    class Unfreeze(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.net[1].requires_grad_(False)

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                pl_module.net[1].requires_grad_(True)
                trainer.optimizers[0].add_param_group({"params": list(pl_module.net[1].parameters()), "lr": 0.01})

    class Frozen(DropoutMLP):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[4].parameters(), lr=0.1, momentum=0.9)

    plain = fit(Frozen, [Unfreeze()])
    law = LAWCallback(agent(), keep="target")
    fit(Frozen, [Unfreeze(), law])
    assert_identical(law.reference.state_dict(), plain.state_dict())


def test_a_compiled_module():
    """Lightning puts the compiled steps on the instance; the copy must not run the original's."""
    plain = fit(DropoutMLP)
    L.seed_everything(3, verbose=False)
    module = DropoutMLP()
    compiled = torch.compile(module, backend="eager")
    law = LAWCallback(agent(), keep="target")
    make_trainer([law]).fit(compiled, *loaders())
    assert_identical(law.reference.state_dict(), plain.state_dict())
    assert any(record["acc_target"] != record["acc_reference"] for record in law.history)


@pytest.mark.parametrize("options", [{"data": lambda: loaders()[:1]}, {"limit_val_batches": 0}])
@pytest.mark.parametrize("general", [False, True])
def test_without_validation_data_a_strategy_follows_the_training_with_a_warning(general, options):
    agent = None if general else bold_agent()
    law = LAWCallback(agent, mode="apply", warmup_stages=1, num_stages=5)
    with pytest.warns(UserWarning, match="There is no validation data, whose accuracy this strategy follows"):
        fit(DropoutMLP, [law], **options)
    smooth = noise = None
    for record in law.history:
        assert record["acc_target"] is None
        smooth = record["accuracy"] if smooth is None else (smooth + record["accuracy"]) / 2
        assert record["acc_smooth"] == pytest.approx(smooth)
        if general:
            noise = record["confident_error"] if noise is None else (noise + record["confident_error"]) / 2
            assert record["noise_smooth"] == pytest.approx(noise)
    assert any(record["weight_std"] > 0 for record in law.history)
