"""Bad input: one clear message before the first step, and nothing changed by it."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import strategies
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from law_lightning import (
    CoTeachingCallback,
    L2RWCallback,
    LAWCallback,
    StrategyAgent,
    StrategySearch,
    WeightingCallback,
)
from law_lightning.agent.resolve import shipped_strategies
from zoo import CLASSES, Base, DropoutMLP, assert_identical, loaders, make_data, make_trainer


def law(**kwargs):
    return LAWCallback(StrategyAgent(num_stages=5), **kwargs)


class Manual(Base):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class TwoOptimizers(Base):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.1)], []


class Tuple(Base):
    def configure_optimizers(self):
        return torch.optim.SGD(self.net[1].parameters(), 0.1), torch.optim.SGD(self.net[4].parameters(), 0.1)


class Secretive(Base):
    def training_step(self, batch, batch_idx):
        return -self(batch[0]).log_softmax(1).gather(1, batch[1].unsqueeze(1)).mean()


class Pretending(Base):
    """Logs a classification loss, but trains on something else."""

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("loss", F.cross_entropy(logits, batch[1]))
        return (1 - logits.softmax(1)[torch.arange(len(logits)), batch[1]]).mean()


class Mute(Base):
    """Nothing tells its validation accuracy."""

    def validation_step(self, batch, batch_idx):
        pass

    def forward(self, x):
        return {"logits": self.net(x)}

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])


class Formless(Mute):
    forward = L.LightningModule.forward


class Both(Mute):
    def forward(self, x, target):
        return F.cross_entropy(self.net(x), target)


class Keyed(Mute):
    def forward(self, batch):
        return self.net(batch["image"])


class Unpacking(Mute):
    def forward(self, batch):
        x, _ = batch
        return self.net(x)


class Vmapped(Base):
    def training_step(self, batch, batch_idx):
        return torch.vmap(F.cross_entropy)(self.net(batch[0]), batch[1]).mean()


class OwnIterator(Base):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return F.cross_entropy(self(batch[0]), batch[1])


class Uncopyable(Base):
    def __init__(self):
        super().__init__()
        self.generator = (i for i in range(3))


class Endless(IterableDataset):
    def __iter__(self):
        return iter(make_data(16))


X, Y = make_data(40).tensors
OUT_OF_RANGE = rf"Labels out of range.*{CLASSES} classes"
BOTH = [law, lambda: law(mode="apply")]


@pytest.mark.parametrize(
    ("module", "match", "options", "callbacks"),
    [
        (DropoutMLP, "there is no validation data", {"val": None}, [law]),
        (DropoutMLP, "there is no validation data", {"limit_val_batches": 0}, [law]),
        (Manual, "Manual uses manual optimization", {}, BOTH),
        (TwoOptimizers, "TwoOptimizers.configure_optimizers returns 2 optimizers", {}, BOTH),
        (Tuple, "returns 2 optimizers", {}, [law]),
        (
            Secretive,
            "Secretive.training_step reveals no per-sample loss.*three ways.*weighted.losses, logits, target..mean",
            {},
            BOTH,
        ),
        (Pretending, "what it returns does not depend on it", {}, BOTH),
        (DropoutMLP, "max_epochs=-1", {"max_epochs": -1}, BOTH),
        (DropoutMLP, "number of its steps must be known", {"train": DataLoader(Endless(), 8)}, BOTH),
        (DropoutMLP, "2 optimizer steps, fewer than its 5 stages", {"max_epochs": -1, "max_steps": 2}, BOTH),
        (DropoutMLP, OUT_OF_RANGE, {"train": DataLoader(TensorDataset(X, Y + 2), 8)}, BOTH),
        (Mute, "cannot find the validation accuracy of Mute", {}, BOTH),
        (Formless, "cannot find the validation accuracy of Formless.* NotImplementedError", {}, [law]),
        (Both, r"cannot find the validation accuracy of Both.* TypeError: .*missing 1 required .*'target'", {}, BOTH),
        (Keyed, "cannot find the validation accuracy of Keyed.* IndexError", {}, [law]),
        (Unpacking, "cannot find the validation accuracy of Unpacking.* ValueError: too many values", {}, [law]),
        (Vmapped, "Vmapped.training_step reveals no per-sample loss", {}, [law]),
        (OwnIterator, "takes a dataloader_iter", {}, [law]),
        (Uncopyable, "copy.deepcopy failed", {}, BOTH),
    ],
)
def test_a_fit_is_refused(module, match, options, callbacks):
    """The fit raises an error before any parameter changes, and leaves the module as it was."""
    for callback in callbacks:
        own = module()
        before = {name: value.clone() for name, value in own.state_dict().items()}
        given = dict(zip(("train", "val"), loaders(), strict=True)) | options
        train, val = given.pop("train"), given.pop("val")
        with pytest.raises(ValueError if "Labels" in match else MisconfigurationException, match=match):
            make_trainer([callback()], **given).fit(own, train, val)
        assert_identical(own.state_dict(), before)
        assert not {"training_step", "configure_optimizers"} & set(vars(own))


def test_a_fit_that_goes_on_without_the_callbacks_state():
    module = DropoutMLP()
    trainer = make_trainer([callback := law()], max_epochs=2)
    trainer.fit(module, *loaders())
    trainer.fit_loop.max_epochs = 4
    with pytest.raises(MisconfigurationException, match="already at step 12"):
        trainer.fit(module, *loaders())
    assert "training_step" not in vars(module)
    assert callback.reference is None


def test_an_accumulation_that_changes():
    scheduler = GradientAccumulationScheduler({0: 1, 1: 2})
    with pytest.raises(MisconfigurationException, match="GradientAccumulationScheduler"):
        make_trainer([law(), scheduler]).fit(DropoutMLP(), *loaders())


@pytest.mark.parametrize(
    ("make", "kwargs", "match"),
    [
        (LAWCallback, {"mode": "both"}, "mode must be"),
        (LAWCallback, {"mode": "apply", "features": ["loss"]}, "mode='apply' needs a strategy that was found before"),
        (LAWCallback, {"keep": "worst"}, "keep must be"),
        (LAWCallback, {"smoothing": 1.0}, "smoothing must be"),
        (LAWCallback, {"warmup_stages": 20}, "warmup_stages must be"),
        (LAWCallback, {"num_stages": 0}, "num_stages must be at least 1"),
        (LAWCallback, {"reward_scale": 0.0}, "reward_scale above 0"),
        (LAWCallback, {"reward_growth": 20.0, "reward_scale": 10.0}, "reward_growth"),
        *((LAWCallback, {"reward_growth": growth}, "reward_growth") for growth in (1000.0, float("nan"))),
        *((LAWCallback, {"reward_scale": scale}, "reward_growth") for scale in (float("inf"), float("nan"), 1e300)),
        (LAWCallback, {"total_steps": 19}, "total_steps must be .* at least num_stages=20, not 19"),
        (WeightingCallback, {"weighting": print, "total_steps": 1e3}, "total_steps must be a whole number"),
        (LAWCallback, {"agent": 3}, "agent must be a StrategyAgent"),
        (LAWCallback, {"features": ("loss", "colour")}, "colour"),
        (LAWCallback, {"reference_record": {}, "keep": "target", "recover": True}, "reference_record .* no recover"),
        (WeightingCallback, {"weighting": None}, "weighting must be a function"),
        (StrategySearch, {"episodes": 0}, "episodes must be"),
        (StrategySearch, {"workers": 0}, "workers must be at least 1"),
        (StrategySearch, {"eval_seeds": 0}, "eval_seeds must be"),
    ],
)
def test_bad_arguments(make, kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(**kwargs)


def test_a_strategy_of_other_stages_or_features(tmp_path):
    path = tmp_path / "strategy.safetensors"
    StrategyAgent(num_stages=10, features=("loss",)).save(path)
    with pytest.raises(ValueError, match="has 10 stages, but num_stages=20"):
        LAWCallback(path, mode="apply", num_stages=20)
    with pytest.raises(ValueError, match="weighs the features"):
        LAWCallback(path, mode="apply", features=("loss", "label"))
    assert LAWCallback(path, mode="apply").num_stages == 10
    with pytest.raises(FileNotFoundError, match="no shipped strategy of that name"):
        LAWCallback(tmp_path / "missing.pt", mode="apply")


@pytest.mark.parametrize("name", shipped_strategies())
def test_shipped_strategies_load(name):
    assert LAWCallback(name, mode="apply").agent.num_stages == 20


def test_resuming_something_else(tmp_path):
    checkpoint = tmp_path / "a.ckpt"
    trainer = make_trainer([law()], max_epochs=2)
    trainer.fit(DropoutMLP(), *loaders())
    trainer.save_checkpoint(checkpoint)

    def resume(callback, match, **kwargs):
        with pytest.raises(MisconfigurationException, match=match):
            make_trainer([callback], **kwargs).fit(DropoutMLP(), *loaders(), ckpt_path=checkpoint)

    resume(law(), "resume with the same max_epochs", max_epochs=3)
    resume(law(mode="apply"), "mode 'search'", max_epochs=2)
    resume(LAWCallback(StrategyAgent(num_stages=5, seed=7)), "other settings", max_epochs=2)

    content = torch.load(checkpoint, weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if "LAWCallback" in name)
    state["processes"] *= 2
    torch.save(content, checkpoint)
    resume(law(), "run on 2 processes, but this one has 1", max_epochs=3)


@pytest.mark.parametrize("name", ["DeepSpeed", "XLA", "SingleDeviceXLA", "FSDP", "ModelParallel"])
@pytest.mark.parametrize("mode", ["search", "apply"])
def test_engines_that_search_cannot_use(name, mode):
    """Three of them are DDP or a single device by descent. They cannot be built here, so only the class stands in."""
    trainer, name = make_trainer([callback := law(mode=mode)]), f"{name}Strategy"
    trainer.strategy.__class__ = type(name, (getattr(strategies, name),), {"__init__": object.__init__})
    instead = "mode='apply' trains" if mode == "search" else "phase_accuracy='training'"
    with pytest.raises(MisconfigurationException, match=f"{name} does not allow.*{instead}"):
        callback.setup(trainer, DropoutMLP(), "fit")
    if mode == "apply":  # nothing in it asks for more than a training step
        callback = LAWCallback(StrategyAgent(num_stages=5, phase_accuracy="training"), mode=mode)
        callback.setup(trainer, DropoutMLP(), "fit")


def test_gradients_that_are_shared_by_a_hook():
    """On a GPU, the Trainer registers it with the target's wrapper alone; apply mode has no other."""
    trainer = make_trainer(strategy=strategies.DDPStrategy(ddp_comm_hook=fp16_compress_hook))
    with pytest.raises(MisconfigurationException, match=r"has a ddp_comm_hook.*leave it out"):
        law().setup(trainer, DropoutMLP(), "fit")
    law(mode="apply").setup(trainer, DropoutMLP(), "fit")


def of_other_package(base, name):
    """A class as pytorch_lightning has it: the name is the same, the class is not."""
    return type(name, (base,), {"__module__": f"pytorch_lightning.{name.lower()}"})


@pytest.mark.parametrize(
    "make",
    [
        law,
        lambda: law(mode="apply"),
        lambda: LAWCallback(StrategyAgent(phase_accuracy="training"), mode="apply"),
        lambda: WeightingCallback(lambda samples, phase: None),
        lambda: CoTeachingCallback(forget_rate=0.4),
        L2RWCallback,
    ],
)
def test_pytorch_lightning_is_refused_by_name(make):
    trainer = make_trainer([callback := make()])
    trainer.__class__ = of_other_package(L.Trainer, "Trainer")
    with pytest.raises(
        MisconfigurationException, match=r"Trainer is made with .* pytorch_lightning.*lightning\.pytorch"
    ):
        callback.setup(trainer, DropoutMLP(), "fit")
    with pytest.raises(MisconfigurationException, match="DropoutMLP is made with the package pytorch_lightning"):
        callback.setup(make_trainer([callback]), of_other_package(DropoutMLP, "DropoutMLP")(), "fit")


def test_pytorch_lightning_is_refused_in_a_search():
    data = of_other_package(L.LightningDataModule, "Data")
    search = StrategySearch(episodes=1, trainer_kwargs={"accelerator": "cpu"}, progress=False)
    with pytest.raises(MisconfigurationException, match="Data is made with the package pytorch_lightning"):
        search.run(DropoutMLP, data)


@pytest.mark.parametrize("name", ["StochasticWeightAveraging", "WeightAveraging"])
def test_callbacks_of_pytorch_lightning_are_known(name):
    average = of_other_package(L.Callback, name)
    for kind in (average, type("Own", (average,), {})):
        trainer = make_trainer([callback := law(), kind()])
        with pytest.raises(MisconfigurationException, match=f"{kind.__name__} leaves the average of the first there"):
            callback.setup(trainer, DropoutMLP(), "fit")
