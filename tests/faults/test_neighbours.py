"""Lightning's own callbacks beside those of the package: each does its work, and the training stays what it was."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.callbacks import CoTeachingCallback
from zoo import AdamCosine, Base, BatchNormCNN, assert_identical, differ, fit, loaders, make_trainer, plain

pytestmark = pytest.mark.filterwarnings("ignore")

AVERAGES = {
    "ema": lambda: L.pytorch.callbacks.EMAWeightAveraging(decay=0.9),
    "mean": L.pytorch.callbacks.WeightAveraging,
    "swa": lambda: L.pytorch.callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=2),
}


def law(num_stages=5, warmup_stages=1, keep="target"):
    agent = StrategyAgent(num_stages=num_stages, warmup_stages=warmup_stages, episode_noise=2.0)
    return LAWCallback(agent, keep=keep)


class Course(L.Callback):
    """Keeps states and losses of the steps, and what could be monitored at the end of an epoch."""

    def __init__(self):
        self.steps, self.losses, self.metrics = [], [], {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        self.losses.append((float(outputs["loss"]), len(batch[0])))

    def on_train_epoch_end(self, trainer, pl_module):
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("law/")}
        self.metrics[trainer.current_epoch] = found


@pytest.mark.parametrize("law_first", [True, False])
@pytest.mark.parametrize(("kind", "module"), [*((kind, AdamCosine) for kind in AVERAGES), ("ema", BatchNormCNN)])
def test_beside_an_average(kind, module, law_first):
    """It is that of the target alone, and the reference is plain training, at the rates that an average sets."""
    same = LAWCallback(StrategyAgent(num_stages=5, warmup_stages=1), keep="target", explore=False, learn=False)
    expected = fit(module, [AVERAGES[kind]()]).state_dict()
    for callback in (same, law()):
        average, course = AVERAGES[kind](), Course()
        trained = fit(module, [callback, average, course] if law_first else [average, callback, course]).state_dict()
        if kind == "ema":
            naive = course.steps[0]
            for state in course.steps[1:]:
                naive = {name: 0.9 * naive[name] + 0.1 * state[name] for name in state}
            for name, value in naive.items():
                if trained[name].is_floating_point():  # numbers of batches are counted on
                    torch.testing.assert_close(trained[name], value, atol=1e-5, rtol=1e-4)
        assert differ(trained, expected) == (callback is not same)
        assert [record["stage"] for record in callback.history] == [0, 1, 2, 3, 4]
        assert differ(callback.reference.state_dict(), expected)
    assert_identical(callback.reference.state_dict(), same.reference.state_dict())
    assert differ(callback.reference.state_dict(), plain(module)) == (kind == "swa")


def test_a_monitored_checkpoint_holds_the_target_of_its_epoch(tmp_path):
    """A module that knows nothing of the package loads it."""
    saving = ModelCheckpoint(tmp_path, "best", monitor="law/acc_target", mode="max", save_on_train_epoch_end=True)
    every = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    course, callback = Course(), law(keep="best")
    fit(BatchNormCNN, [callback, course, saving, every])
    seen = {epoch: each["law/acc_target"] for epoch, each in course.metrics.items() if "law/acc_target" in each}
    best = torch.load(saving.best_model_path)["epoch"]
    assert seen[best] == max(seen.values()) == float(saving.best_model_score)
    assert_identical(
        BatchNormCNN.load_from_checkpoint(saving.best_model_path).state_dict(),
        torch.load(tmp_path / f"epoch={best}.ckpt")["state_dict"],
    )


@pytest.mark.parametrize(("module", "step"), [(AdamCosine, 6), (BatchNormCNN, 18)])
def test_a_stop_loses_nothing_beside_an_average(module, step, tmp_path):
    """Not with StochasticWeightAveraging: plain training beside it does not resume exactly either.

    Also what could be monitored is there: stages of 8 steps, epochs of 6.
    """

    def run(*callbacks, **options):
        trained = fit(module, [callback := law(num_stages=3), course := Course(), *callbacks], **options)
        return trained.state_dict(), callback.history, course.metrics

    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=6, save_top_k=-1)
    expected, history, metrics = run(AVERAGES["ema"](), saving)
    found = run(AVERAGES["ema"](), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert_identical(found[0], expected)
    assert found[1:] == (history, {epoch: metrics[epoch] for epoch in range(step // 6, 4)})
    assert metrics[1]


@pytest.mark.parametrize(
    ("callback", "kind", "module", "match"),
    [
        (law, "swa", BatchNormCNN, "without optimizer steps.*BatchNormCNN.*use WeightAv"),
        (lambda: law(keep="best"), "ema", AdamCosine, "Averaging leaves.*use keep='target'"),
        (lambda: CoTeachingCallback(0.3, keep="best", num_stages=5), "mean", AdamCosine, "use keep='first'"),
    ],
)
def test_averages_that_cannot_be_are_refused(callback, kind, module, match):
    with pytest.raises(MisconfigurationException, match=match):
        fit(module, [callback(), AVERAGES[kind](), course := Course()])
    assert not course.losses


def test_early_stopping():
    """At the end of an epoch, in the middle of a stage: the stages before it are those of the whole run."""
    early, callback, whole = EarlyStopping("val_loss", stopping_threshold=1e9), law(), law()
    expected = fit(AdamCosine, [early]).state_dict()
    fit(AdamCosine, [callback, early])
    fit(AdamCosine, [whole])
    assert [record["step"] for record in callback.history] == [4]  # of the epoch's 6 steps
    assert callback.history == whole.history[:1]
    assert_identical(callback.reference.state_dict(), expected)


class Tuned(Base):
    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 3e-3, 16

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

    def train_dataloader(self):
        return loaders(self.batch_size)[0]

    def val_dataloader(self):
        return loaders()[1]


class InBetween(LearningRateFinder):
    """As Lightning's manual has it for fine-tuning: looks for a rate at the start of some epochs."""

    def on_fit_start(self, trainer, pl_module):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch in (0, 2):
            self.lr_find(trainer, pl_module)


RATE, SIZE = {"min_lr": 1e-5, "num_training_steps": 20}, {"steps_per_trial": 2, "max_trials": 3}
TUNERS = {
    "rate": lambda: LearningRateFinder(**RATE),
    "size": lambda: L.pytorch.callbacks.BatchSizeFinder(**SIZE),
    "in between": lambda: InBetween(**RATE),
}
BEFORE = {
    "rate before": lambda tuner, module: tuner.lr_find(module, min_lr=1e-5, num_training=20),
    "size before": lambda tuner, module: tuner.scale_batch_size(module, **SIZE),
}


def tuned(callbacks, kind=None, ckpt_path=None, found=None):
    L.seed_everything(3, verbose=False)
    module, trainer = Tuned(), make_trainer([*callbacks, *([TUNERS[kind]()] if kind in TUNERS else [])])
    if found is not None:
        module.lr, module.batch_size = found.lr, found.batch_size
    if kind in BEFORE:
        BEFORE[kind](Tuner(trainer), module)
        assert not {"training_step", "configure_optimizers"} & set(vars(module))
    trainer.fit(module, ckpt_path=ckpt_path)
    return module


@pytest.mark.parametrize("kind", [*TUNERS, *BEFORE])
def test_a_tuner_leaves_no_trace(kind, tmp_path, monkeypatch):
    """The stages are those of the fit that followed, and the reference is plain training beside the same tuner."""
    monkeypatch.chdir(tmp_path)
    # The third stage is under way when a tuner in between comes again.
    callback, course = law(warmup_stages=3), Course()
    expected, module = tuned([], kind), tuned([callback, course], kind)
    ends = [record["step"] for record in callback.history]
    assert ends == [callback.schedule.end(stage) for stage in range(5)]
    for begin, record in zip([0, *ends], callback.history[:3], strict=False):  # weights of one
        taken = course.losses[begin : record["step"]]
        mean = sum(loss * count for loss, count in taken) / sum(count for _, count in taken)
        assert record["loss"] == pytest.approx(mean, rel=1e-5)
    assert (module.lr, module.batch_size) == (expected.lr, expected.batch_size)
    assert_identical(callback.reference.state_dict(), expected.state_dict())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["rate", "size"])
def test_a_stop_after_a_tuner_loses_nothing(kind, tmp_path):
    saving = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=1, save_on_train_epoch_end=True, save_top_k=-1)
    expected = tuned([whole := law(), saving], kind)
    resumed = tuned([again := law()], ckpt_path=tmp_path / "epoch=1.ckpt", found=expected)
    assert_identical(resumed.state_dict(), expected.state_dict())
    assert again.history == whole.history
    with pytest.raises(MisconfigurationException, match=r"Finder starts a training over.*resume without it"):
        tuned([law()], kind, tmp_path / "epoch=1.ckpt")
