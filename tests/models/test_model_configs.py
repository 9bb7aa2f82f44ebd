"""The configs of all models and schedules."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module

import law_lightning.conf
from law_lightning.cli.build import build_model, plain

CONF = Path(law_lightning.conf.__file__).parent
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
# The group: epochs, milestones, warm-up.
SCHEDULES = {
    "cifar200": (200, [9 / 20, 12 / 20, 15 / 20], 0.0),
    "table2": (120, [17 / 20, 18 / 20], 0.0),
    "table5": (100, [13 / 20, 17 / 20], 0.0),
    "imagenet": (100, [30 / 100, 60 / 100, 90 / 100], 2 / 100),
}


@pytest.fixture(scope="module")
def composed():
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        yield lambda *overrides: compose("law_train", list(overrides))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_built_for_the_shape_of_the_data(composed, model):
    config = plain(composed(f"model={model}").model)
    assert list(config) == [
        "_target_", "network", "lr", "momentum", "weight_decay", "milestones", "gamma", "warmup",
    ]  # fmt: skip
    assert [config[key] for key in list(config)[2:]] == [0.1, 0.9, 2e-5, [0.45, 0.6, 0.75], 0.1, 0.0]
    with torch.device("meta"):
        module = build_model(config, (3, 32, 32), 7)
        assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_the_models_are_those_of_the_paper_and_the_small_ones():
    cifar = [f"cifar_{name}" for name in ("resnet101", "resnet18", "resnet32", "vgg19", "wrn28_10")]
    imagenet = [f"imagenet_{name}" for name in ("resnet18", "resnet34", "resnet50", "mobilenet_v2")]
    assert sorted([*cifar, *imagenet, "mlp", "small_cnn"]) == MODELS


def test_every_schedule_is_known():
    assert {file.stem for file in (CONF / "schedule").glob("*.yaml")} == set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_overrides_trainer_and_model(composed, schedule):
    config = composed(f"schedule={schedule}", "model=cifar_resnet32")
    epochs, milestones, warmup = SCHEDULES[schedule]
    assert config.trainer.max_epochs == epochs
    assert config.model.milestones == pytest.approx(milestones)
    assert config.model.warmup == warmup
    assert config.model.network._target_.endswith("cifar_resnet32")


@pytest.mark.parametrize("command", ["law_search", "law_train", "law_compare"])
@pytest.mark.usefixtures("composed")
def test_every_command_knows_schedules_and_the_command_line_has_the_last_word(command):
    config = compose(command, ["schedule=imagenet", "trainer.max_epochs=3", "model.warmup=0.01"])
    assert (config.trainer.max_epochs, config.model.warmup) == (3, 0.01)
    assert config.model.milestones == [0.3, 0.6, 0.9]


def test_without_a_schedule_model_and_trainer_keep_their_own(composed):
    config = composed()
    assert (config.trainer.max_epochs, config.model.milestones) == (60, [0.45, 0.6, 0.75])
    assert "schedule" not in config
