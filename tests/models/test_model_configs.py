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
    assert [config[key] for key in ("lr", "momentum", "weight_decay")] == [0.1, 0.9, 2e-5]
    assert [config[key] for key in ("milestones", "gamma", "warmup")] == [[0.45, 0.6, 0.75], 0.1, 0.0]
    with torch.device("meta"):
        module = build_model(config, in_shape=(3, 32, 32), num_classes=7)
        assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_overrides_trainer_and_model(composed, schedule):
    assert {file.stem for file in (CONF / "schedule").glob("*.yaml")} == set(SCHEDULES)
    config = composed(f"schedule={schedule}", "model=cifar_resnet32")
    epochs, milestones, warmup = SCHEDULES[schedule]
    assert config.trainer.max_epochs == epochs
    assert config.model.milestones == pytest.approx(milestones)
    assert config.model.warmup == warmup
    assert config.model.network._target_.endswith("cifar_resnet32")
