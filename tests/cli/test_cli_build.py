from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import LearningRateMonitor

from law_lightning.cli.build import build_model, trainer_options


def test_a_module_without_network_is_built_as_its_config_says():
    module = build_model({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}, None, None)
    assert module.weight.shape == (3, 2)


def test_trainer_options_are_keywords_with_nested_objects_built():
    monitor = "lightning.pytorch.callbacks.LearningRateMonitor"
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        config = compose("law_train", ["trainer.max_epochs=3", f"+trainer.callbacks=[{{_target_: {monitor}}}]"])
    options = trainer_options(config)
    assert options["max_epochs"] == 3
    assert "_target_" not in options
    assert isinstance(options["callbacks"][0], LearningRateMonitor)
