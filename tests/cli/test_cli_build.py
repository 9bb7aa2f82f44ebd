import pickle

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import LearningRateMonitor

from law_lightning.cli.build import build_model, factories, trainer_options


@pytest.fixture
def config():
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        yield lambda *overrides: compose("law_train", list(overrides))


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_a_network_is_told_the_shape_of_the_data(config, model):
    make_module, make_data, data = factories(config(f"model={model}", "data.train_size=50", "corruption.rate=0.5"))
    module = pickle.loads(pickle.dumps(make_module))()
    assert module(torch.zeros(2, *data.in_shape)).shape == (2, data.num_classes)
    assert data.corruption_record.settings["rate"] == 0.5
    assert pickle.loads(pickle.dumps(make_data))().train_size == 50


def test_a_module_without_network_is_built_as_its_config_says():
    module = build_model({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}, None, None)
    assert module.weight.shape == (3, 2)


def test_trainer_options_are_keywords_with_nested_objects_built(config):
    monitor = "lightning.pytorch.callbacks.LearningRateMonitor"
    options = trainer_options(config("trainer.max_epochs=3", f"+trainer.callbacks=[{{_target_: {monitor}}}]"))
    assert options["max_epochs"] == 3
    assert "_target_" not in options
    assert isinstance(options["callbacks"][0], LearningRateMonitor)
