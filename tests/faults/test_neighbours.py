"""Lightning's own callbacks beside those of the package: each does its work, and the training stays what it was."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hostile import LONG
from law_lightning import LAWCallback, StrategyAgent
from law_lightning.callbacks import CoTeachingCallback
from methods import METHODS
from zoo import AdamCosine, Base, BatchNormCNN, assert_identical, differ, fit, loaders, make_trainer

SAMPLE = ["law_search", "law_apply", "focal"]
DECAY = 0.9
AVERAGES = {
    "ema": lambda: EMAWeightAveraging(decay=DECAY),
    "mean": WeightAveraging,
    "swa": lambda: StochasticWeightAveraging(0.01, swa_epoch_start=2),
}
TUNERS = {
    "rate": lambda: LearningRateFinder(min_lr=1e-5, num_training_steps=20),
    "size": lambda: BatchSizeFinder(steps_per_trial=2, max_trials=3),
}


def law(num_stages=5, warmup_stages=1):
    agent = StrategyAgent(num_stages=num_stages, warmup_stages=warmup_stages, episode_noise=2.0)
    return LAWCallback(agent, keep="target")


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


class Course(L.Callback):
    """Keeps the module's state at each epoch's start and after each step, and the losses of the steps."""

    def __init__(self):
        self.steps, self.epochs, self.losses = [], [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append(copied(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(copied(pl_module))
        self.losses.append((float(outputs["loss"]), len(batch[0])))


def averaged(kind, course):
    """The average that the neighbour should end with, from the target's course alone."""
    if kind == "ema":
        average = course.steps[0]
        for state in course.steps[1:]:
            average = {name: DECAY * average[name] + (1 - DECAY) * state[name] for name in state}
        return average
    states = course.steps if kind == "mean" else course.epochs[1:]
    return {name: torch.stack([state[name].float() for state in states]).mean(dim=0) for name in states[0]}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("law_first", [True, False])
@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("name", [*SAMPLE, "co_teaching"])
def test_the_average_is_that_of_the_target_alone(name, kind, law_first):
    callback, average, course = METHODS[name](), AVERAGES[kind](), Course()
    trained = fit(AdamCosine, [callback, average, course] if law_first else [average, course, callback])
    assert [record["stage"] for record in callback.history] == [0, 1, 2, 3, 4]
    expected = averaged(kind, course)
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    assert differ(trained.state_dict(), course.steps[-1])


@pytest.mark.parametrize(("kind", "module"), [*((kind, AdamCosine) for kind in AVERAGES), ("ema", BatchNormCNN)])
def test_the_reference_is_plain_training_beside_an_average(kind, module):
    """What is averaged trains on as it was; but an average that sets its own rates sets the reference's too."""
    fit(module, [plain := Course(), AVERAGES[kind]()])
    fit(module, [callback := law(), AVERAGES[kind]()])
    assert_identical(callback.reference.state_dict(), plain.steps[-1])


@pytest.mark.one_in(2)
@pytest.mark.parametrize("module", [AdamCosine, BatchNormCNN])
@pytest.mark.parametrize("step", [3, 6, 14])
def test_a_stop_loses_nothing_beside_an_average(module, step, tmp_path):
    """Not with StochasticWeightAveraging: plain training beside it does not resume exactly either."""
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole, again = law(), law()
    expected = fit(module, [whole, AVERAGES["ema"](), saving])
    resumed = fit(module, [again, AVERAGES["ema"]()], ckpt_path=tmp_path / f"step={step}.ckpt")
    assert_identical(resumed.state_dict(), expected.state_dict())
    assert again.history == whole.history


def refused(callbacks, match, module=AdamCosine, ckpt_path=None):
    course = Course()
    with pytest.raises(MisconfigurationException, match=match):
        fit(module, [*callbacks, course], ckpt_path=ckpt_path)
    assert not course.steps


@pytest.mark.parametrize("name", SAMPLE)
def test_an_epoch_without_steps_is_refused(name):
    refused([METHODS[name](), AVERAGES["swa"]()], "without optimizer steps.*BatchNormCNN.*use WeightAv", BatchNormCNN)


@pytest.mark.parametrize("kind", AVERAGES)
def test_two_weights_for_one_module_are_refused(kind):
    refused([LAWCallback(StrategyAgent(num_stages=5)), AVERAGES[kind]()], r"Averaging leaves.*use keep='target'")
    refused([CoTeachingCallback(0.3, keep="best", num_stages=5), AVERAGES[kind]()], r"use keep='first'")
    assert fit(AdamCosine, [LAWCallback(METHODS["law_apply"]().agent, mode="apply"), AVERAGES[kind]()])


@pytest.mark.parametrize("name", SAMPLE)
def test_early_stopping(name):
    """At the end of an epoch, in the middle of a stage: the stages before it are those of the whole run."""
    early, callback, whole = EarlyStopping("val_loss", stopping_threshold=1e9), METHODS[name](), METHODS[name]()
    stopped, plain = fit(AdamCosine, [callback, early]), fit(AdamCosine, [early])
    fit(AdamCosine, [whole])
    assert [record["step"] for record in callback.history] == [4]  # of the epoch's 6 steps
    assert callback.history == whole.history[:1]
    if name == "law_search":
        assert_identical(callback.reference.state_dict(), plain.state_dict())
    else:
        assert differ(stopped.state_dict(), plain.state_dict()) or callback.warmup_stages


@pytest.mark.parametrize("name", SAMPLE)
def test_what_a_checkpoint_keeps_is_the_target(name, tmp_path):
    keeper = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=1)
    fit(AdamCosine, [METHODS[name](), course := Course(), keeper])
    kept = torch.load(keeper.best_model_path, weights_only=True)
    assert_identical(dict(kept["state_dict"]), course.steps[kept["global_step"] - 1])
    fresh = AdamCosine()
    make_trainer().validate(fresh, loaders()[1], ckpt_path=keeper.best_model_path, verbose=False)
    assert_identical(fresh.state_dict(), dict(kept["state_dict"]))


class Seen(L.Callback):
    """The stage metrics that a neighbour could monitor at each epoch's end."""

    def __init__(self):
        self.metrics = {}

    def on_train_epoch_end(self, trainer, pl_module):
        metrics = trainer.callback_metrics
        self.metrics[trainer.current_epoch] = {name: float(metrics[name]) for name in metrics if name[:4] == "law/"}


@pytest.mark.parametrize("name", ["law_search", "focal"])
def test_what_is_monitored_is_there_after_a_stop(name, tmp_path):
    """Stages of 8 steps, epochs of 6: the second epoch goes by the first stage's metrics."""
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)

    def run(callbacks, ckpt_path=None):
        callback = law(num_stages=3) if name == "law_search" else METHODS[name]()
        fit(AdamCosine, [callback, seen := Seen(), *callbacks], ckpt_path=ckpt_path)
        return seen.metrics

    whole, resumed = run([saving]), run([], tmp_path / "step=9.ckpt")
    assert resumed[1]
    assert resumed == {epoch: metrics for epoch, metrics in whole.items() if epoch}


def test_the_learning_rates_are_monitored(tmp_path):
    def rates(callbacks):
        logger = CSVLogger(tmp_path, "rates", len(callbacks), flush_logs_every_n_steps=1)
        fit(AdamCosine, [*callbacks, LearningRateMonitor("epoch")], logger=logger)
        rows = (tmp_path / "rates" / f"version_{len(callbacks)}" / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("lr-AdamW")
        return [found for row in rows[1:] if (found := row.split(",")[column])]

    assert len(rates([])) == 4
    assert rates([law()]) == rates([])


class Tuned(Base):
    """A module with a learning rate and a batch size to be found."""

    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 3e-3, 16

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

    def train_dataloader(self):
        return loaders(self.batch_size)[0]

    def val_dataloader(self):
        return loaders()[1]


def tuned(callbacks, folder, ckpt_path=None, found=None, before=None):
    L.seed_everything(3, verbose=False)
    module, trainer = Tuned(), make_trainer(callbacks, default_root_dir=folder)
    if found is not None:
        module.lr, module.batch_size = found.lr, found.batch_size
    if before is not None:
        before(trainer, module)
    trainer.fit(module, ckpt_path=ckpt_path)
    return module


def assert_as_if_not_tuned(callback, course, module, plain):
    """The stages are those of the fit that followed, and the reference is plain training beside the same tuner."""
    ends = [record["step"] for record in callback.history]
    assert ends == [callback.schedule.end(stage) for stage in range(5)]
    for begin, record in zip([0, *ends], callback.history[: callback.warmup_stages], strict=False):  # weights of one
        taken = course.losses[begin : record["step"]]
        mean = sum(loss * count for loss, count in taken) / sum(count for _, count in taken)
        assert record["loss"] == pytest.approx(mean, rel=1e-5)
    assert (module.lr, module.batch_size) == (plain.lr, plain.batch_size)
    assert_identical(callback.reference.state_dict(), plain.state_dict())


@pytest.mark.parametrize("kind", TUNERS)
def test_a_tuner_leaves_no_trace(kind, tmp_path):
    plain = tuned([TUNERS[kind]()], tmp_path)
    module = tuned([callback := law(), TUNERS[kind](), course := Course()], tmp_path)
    assert_as_if_not_tuned(callback, course, module, plain)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", TUNERS)
def test_a_tuner_before_the_fit_leaves_no_trace(kind, tmp_path):
    def tune(trainer, module):
        tuner = Tuner(trainer)
        if kind == "rate":
            tuner.lr_find(module, min_lr=1e-5, num_training=20)
        else:
            tuner.scale_batch_size(module, steps_per_trial=2, max_trials=3)
        assert not {"training_step", "configure_optimizers"} & set(vars(module))

    plain = tuned([], tmp_path, before=tune)
    module = tuned([callback := law(), course := Course()], tmp_path, before=tune)
    assert_as_if_not_tuned(callback, course, module, plain)


class InBetween(LearningRateFinder):
    """As Lightning's manual has it for fine-tuning: looks for a rate at the start of some epochs."""

    def on_fit_start(self, trainer, pl_module):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch in (0, 2):
            self.lr_find(trainer, pl_module)


def test_a_tuner_within_the_fit_leaves_no_trace(tmp_path):
    def run(callbacks):
        return tuned([*callbacks, InBetween(min_lr=1e-5, num_training_steps=20)], tmp_path)

    callback = law(warmup_stages=3)  # the third stage is under way when the tuner comes again
    plain, module = run([]), run([callback, course := Course()])
    assert_as_if_not_tuned(callback, course, module, plain)


@pytest.mark.parametrize("name", SAMPLE if LONG else SAMPLE[:1])
@pytest.mark.parametrize("kind", TUNERS)
def test_a_stop_after_a_tuner_loses_nothing(kind, name, tmp_path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    whole = METHODS[name]()
    expected = tuned([whole, TUNERS[kind](), saving], tmp_path)
    for step in (3, 15):
        again = METHODS[name]()
        resumed = tuned([again], tmp_path, tmp_path / f"step={step}.ckpt", found=expected)
        assert_identical(resumed.state_dict(), expected.state_dict())
        assert again.history == whole.history
    with pytest.raises(MisconfigurationException, match=r"Finder begins a training anew.*resume without it"):
        tuned([METHODS[name](), TUNERS[kind]()], tmp_path, tmp_path / "step=3.ckpt")
