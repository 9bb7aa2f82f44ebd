"""The promises of the design, bit for bit, over a matrix of modules and Trainers."""

import copy
import pickle

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchdata.stateful_dataloader import StatefulDataLoader

import zoo
from law_lightning import LAWCallback, StrategyAgent
from zoo import (
    AdamCosine,
    BatchNormCNN,
    DropoutMLP,
    Plateau,
    assert_identical,
    differ,
    fit,
    loaders,
    make_trainer,
    plain,
)

MATRIX = [(module, "default") for module in zoo.MODULES]
MATRIX += [(each, name) for each in (BatchNormCNN, AdamCosine, zoo.Mixup) for name in zoo.TRAINERS if name != "default"]
IDS = [f"{module.__name__}-{name}" for module, name in MATRIX]


def bold_agent(**kwargs):
    """An agent whose theta is far from zero."""
    return StrategyAgent(num_stages=5, warmup_stages=1, episode_noise=2.0, **kwargs)


def zero_agent():
    return StrategyAgent(num_stages=5, warmup_stages=1)  # a new one weighs every sample 1


def test_a_rate_that_follows_the_target_is_the_references_too():
    """Its plateaus are the target's own, so what is repeated is plain training with the target's rates."""
    rates, law = zoo.Rates(), LAWCallback(bold_agent(), keep="target")
    fit(Plateau, [law, rates])
    assert len(set(rates.noted)) > 1
    assert_identical(law.reference.state_dict(), fit(Plateau, [zoo.Rates(rates.noted)]).state_dict())


@pytest.mark.parametrize(
    ("module", "name"), [each for each in MATRIX if each[0] is not Plateau], ids=[i for i in IDS if "Plateau" not in i]
)
def test_the_reference_is_plain_training(module, name):
    law = LAWCallback(bold_agent(), keep="target")
    target = fit(module, [law], **zoo.TRAINERS[name])
    assert_identical(law.reference.state_dict(), plain(module, name))
    assert differ(target.state_dict(), plain(module, name))  # the target did learn otherwise
    assert [record["stage"] for record in law.history] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("module", "name"), MATRIX, ids=IDS)
def test_weights_of_one_change_nothing(module, name):
    law = LAWCallback(zero_agent(), keep="target", explore=False, learn=False)
    target = fit(module, [law], **zoo.TRAINERS[name])
    assert_identical(target.state_dict(), plain(module, name))
    assert_identical(law.reference.state_dict(), plain(module, name))
    assert [record["reward"] for record in law.history] == [0.0] * 5
    assert all(record["weight_min"] == record["weight_max"] == 1.0 for record in law.history)

    apply = LAWCallback(zero_agent(), mode="apply")
    assert_identical(fit(module, [apply], **zoo.TRAINERS[name]).state_dict(), plain(module, name))
    assert apply.reference is None


def test_apply_gives_the_target_of_a_greedy_search():
    agent = bold_agent()
    torch.nn.init.normal_(agent.actor.network[-1].weight, generator=torch.Generator().manual_seed(0))
    law = LAWCallback(agent, keep="target", explore=False, learn=False)
    target = fit(BatchNormCNN, [law])
    apply = LAWCallback(agent, mode="apply")
    assert_identical(fit(BatchNormCNN, [apply]).state_dict(), target.state_dict())
    assert [record["theta"] for record in apply.history] == [record["theta"] for record in law.history]


class StopError(Exception):
    pass


class StopAt(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise StopError


def outcome(module, callback):
    """All that a fit with a method leaves."""
    found = {"module": module.state_dict(), "history": callback.history}
    for name in ("reference", "peer"):
        if getattr(callback, name, None) is not None:
            found[name] = getattr(callback, name).state_dict()
    if hasattr(callback, "agent"):
        found |= {"agent": callback.agent.full_state(), "buffer": callback.buffer.state_dict()}
    return found


def run(module, callbacks, ckpt_path=None, mode="search", keep="target", data=loaders):
    law = LAWCallback(bold_agent(), mode=mode, keep=keep, num_stages=5)
    return outcome(fit(module, [law, *callbacks], ckpt_path=ckpt_path, data=data), law)


def assert_same(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_a_stop_loses_nothing(folder, stop, module, data, mode="search", **saving):
    options = {"filename": "last", "enable_version_counter": False} | saving
    whole = run(module, [ModelCheckpoint(folder / "a", **options)], mode=mode, data=data)
    with pytest.raises(StopError):
        run(module, [StopAt(stop), ModelCheckpoint(folder / "b", **options)], mode=mode, data=data)
    torch.manual_seed(12345)  # what the process that goes on did before does not matter
    assert_same(run(module, [], folder / "b" / "last.ckpt", mode, data=data), whole)


def stateful():
    """A training loader that keeps its own position, and the usual validation loader."""
    loader, validation = loaders()
    return StatefulDataLoader(loader.dataset, batch_size=loader.batch_size, shuffle=True), validation


@pytest.mark.parametrize("mode", ["search", "apply"])
@pytest.mark.parametrize("module", [BatchNormCNN, AdamCosine, DropoutMLP], ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("stop", "data"), [(6, loaders), (18, loaders), (3, stateful), (12, stateful), (15, stateful)]
)  # 6 steps an epoch: between epochs with any loaders, within one with those that keep their position
def test_a_stop_loses_nothing(tmp_path, module, mode, stop, data):
    assert_a_stop_loses_nothing(tmp_path, stop, module, data, mode, every_n_train_steps=3)


@pytest.mark.parametrize(
    ("module", "step", "message"),
    [
        (DropoutMLP, 9, "within an epoch, whose order Lightning draws anew .use torchdata's StatefulDataLoader"),
        (Plateau, 12, "Lightning does not step ReduceLROnPlateau at the end of the epoch"),
    ],
)
def test_what_lightning_does_not_restore_is_warned_of_once(tmp_path, module, step, message):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(module, [LAWCallback(bold_agent(), mode="apply"), saving])
    law = LAWCallback(bold_agent(), mode="apply")
    with pytest.warns(UserWarning, match=message) as caught:
        fit(module, [law], ckpt_path=tmp_path / f"step={step}.ckpt")
    assert sum("The fit resumes from the checkpoint" in str(each.message) for each in caught) == 1
    assert len(law.history) == 5


@pytest.mark.parametrize("at_epoch_end", [True, False, None])
@pytest.mark.parametrize(
    ("stop", "module", "data"),
    [(6, AdamCosine, loaders), (14, AdamCosine, loaders), (14, DropoutMLP, loaders), (6, BatchNormCNN, stateful)],
)
def test_a_stop_between_epochs_loses_nothing(tmp_path, stop, module, data, at_epoch_end):
    """Checkpoints as most users have them: after validation, or at the end of an epoch."""
    assert_a_stop_loses_nothing(tmp_path, stop, module, data, save_on_train_epoch_end=at_epoch_end)


def test_a_fit_that_had_ended_is_as_it_was(tmp_path):
    """Resumed from the end of its last epoch, before it chose between its networks, it has no step to take."""
    whole = run(BatchNormCNN, [ModelCheckpoint(tmp_path, "last")], keep="best")
    assert_same(run(BatchNormCNN, [], tmp_path / "last.ckpt", keep="best"), whole)


def test_the_checkpoint_holds_tensors_and_plain_python(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, "last", every_n_train_steps=1, enable_version_counter=False)
    fit(DropoutMLP, [LAWCallback(bold_agent()), checkpoint])
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert list(content["state_dict"]) == list(DropoutMLP().state_dict())  # no foreign key


@pytest.mark.parametrize("mode", ["search", "apply"])
@pytest.mark.parametrize("module", [zoo.Hooked, zoo.Mixup], ids=lambda m: m.__name__)
def test_the_users_module_comes_back_as_it_was(module, mode):
    untouched = fit(module)
    law = LAWCallback(bold_agent(), mode=mode)
    trained = fit(module, [law])
    assert set(vars(trained)) == set(vars(untouched))
    assert list(trained.state_dict()) == list(untouched.state_dict())
    assert "training_step" not in vars(trained)
    assert "configure_optimizers" not in vars(trained)
    for part in trained.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
        assert not part._backward_hooks
    copy.deepcopy(trained.net)
    assert len(getattr(trained, "seen", [])) == len(getattr(untouched, "seen", []))  # no step was run twice on it
    if mode == "search":
        assert "log" not in vars(law.reference)


def test_the_module_comes_back_after_an_error():
    with pytest.raises(StopError):
        make_trainer([StopAt(9)]).fit(untouched := DropoutMLP(), *loaders())
    with pytest.raises(StopError):
        make_trainer([LAWCallback(bold_agent()), StopAt(9)]).fit(module := DropoutMLP(), *loaders())
    assert set(vars(module)) == set(vars(untouched))


def test_an_own_training_step_of_the_instance_comes_back():
    module = DropoutMLP()
    own = type(module).training_step.__get__(module)
    module.training_step = own
    law = LAWCallback(bold_agent())
    make_trainer([law]).fit(module, *loaders())
    assert vars(module)["training_step"] is own
    assert vars(law.reference)["training_step"].__self__ is law.reference


def test_the_callers_random_states_are_untouched():
    """Target, reference and strategy draw nothing that plain training would not draw."""

    def after(callbacks):
        fit(DropoutMLP, callbacks)
        return torch.get_rng_state()

    assert torch.equal(after([]), after([LAWCallback(bold_agent())]))


def test_the_callback_can_be_pickled():
    law = LAWCallback(bold_agent())
    fit(DropoutMLP, [law])
    again = pickle.loads(pickle.dumps(law))
    assert again.history == law.history
    assert torch.equal(again.agent.act(1, 0.5, 0.5, explore=True), law.agent.act(1, 0.5, 0.5, explore=True))


class MadeAtTheStart(DropoutMLP):
    """Needs what its own hook at the start of training makes, and draws a number there."""

    def on_train_start(self):
        self.scale = 1.0 + 0 * torch.rand(1)

    def training_step(self, batch, batch_idx):
        return self.scale * super().training_step(batch, batch_idx)


def test_hooks_at_the_start_of_training_do_not_change_a_resumed_fit(tmp_path):
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = run(MadeAtTheStart, [saving])
    assert_same(run(MadeAtTheStart, [], tmp_path / "step=12.ckpt"), whole)


class SkipsTheFirst(DropoutMLP):
    """Returns None, as users do to skip a batch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if self.trainer.global_step == 0 else loss


def test_a_first_step_that_is_skipped():
    law = LAWCallback(bold_agent(), keep="target")
    fit(SkipsTheFirst, [law])
    assert_identical(law.reference.state_dict(), fit(SkipsTheFirst).state_dict())


class SavesTooEarly(L.Callback):
    """Stands before the callback, whose reference has not taken its step yet."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 12:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_between_the_networks_steps_is_warned_of(tmp_path):
    fit(DropoutMLP, [SavesTooEarly(tmp_path / "early.ckpt"), LAWCallback(bold_agent(), keep="target")])
    with pytest.warns(UserWarning, match="in the middle of a step"):
        fit(DropoutMLP, [LAWCallback(bold_agent(), keep="target")], ckpt_path=tmp_path / "early.ckpt")


class FailsAtTheEnd(L.Callback):
    def on_exception(self, *args):
        raise RuntimeError("no space left")


def test_a_fit_whose_cleanup_failed_does_not_change_the_next():
    module = DropoutMLP()
    with pytest.raises(RuntimeError, match="no space left"):
        make_trainer([FailsAtTheEnd(), LAWCallback(bold_agent()), StopAt(9)]).fit(module, *loaders())
    make_trainer([law := LAWCallback(bold_agent(), keep="target")]).fit(module, *loaders())
    assert "training_step" not in vars(module)
    assert "training_step" not in vars(law.reference)
