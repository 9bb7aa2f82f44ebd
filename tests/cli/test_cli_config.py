import re
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import OmegaConf

import law_lightning.conf
from law_lightning.cli.build import trainer_options

CONF = Path(law_lightning.conf.__file__).parent
COMMON = ["data", "corruption", "model", "law", "trainer", "schedule", "experiment"]
GROUPS = {
    "law_search": [*COMMON, "agent", "search", "logger"],
    "law_train": [*COMMON, "logger"],
    "law_compare": COMMON,
}
#: For each command, rows of one choice a group, until every choice has been in one. Composing is slow.
CHOICES = [
    (command, [f"{group}={choice}" for group, choice in zip(groups, row, strict=True) if choice])
    for command, groups in GROUPS.items()
    for row in zip_longest(*(sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in groups))
]
#: What some choices leave to the user.
MANDATORY = {
    "arrays": ["data.path=x.npz"],
    "image_folder": ["data.root=images"],
    "label_file": ["corruption.path=labels.npy"],
}


@pytest.fixture(autouse=True)
def config_module():
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        yield


@pytest.mark.parametrize(("command", "choices"), CHOICES)
def test_every_choice_of_every_group_composes(command, choices):
    paths = [path for choice in choices for path in MANDATORY.get(choice.split("=")[1], [])]
    config = OmegaConf.create(compose(command, choices + paths))
    text = OmegaConf.to_yaml(config, resolve=True)
    assert not OmegaConf.missing_keys(config)
    names = re.findall(r"_target_: (\S+)", text)
    assert names
    for name in names:
        get_object(name)


def test_what_one_override_sets_and_which_groups_there_are():
    assert {path.name for path in CONF.iterdir() if any(path.glob("*.yaml"))} == set(GROUPS["law_search"])
    config = compose("law_search", ["corruption.rate=0.4", "seed=7"])
    assert config.data.corruption.rate == 0.4
    assert (config.agent.seed, config.search.seed) == (7, 7)
    assert compose("law_search").data.corruption.rate == 0.0
    assert compose("law_search", ["corruption=none"]).data.corruption is None


def test_trainer_options_are_keywords_with_nested_objects_built():
    monitor = "lightning.pytorch.callbacks.LearningRateMonitor"
    overrides = ["trainer.max_epochs=3", f"+trainer.callbacks=[{{_target_: {monitor}}}]"]
    options = trainer_options(compose("law_train", overrides))
    assert options["max_epochs"] == 3
    assert "_target_" not in options
    assert isinstance(options["callbacks"][0], LearningRateMonitor)


def test_other_apps_can_use_the_groups(tmp_path):
    (tmp_path / "app.yaml").write_text(
        "hydra:\n  searchpath: [pkg://law_lightning.conf]\ndefaults:\n  - agent: default\n  - _self_\nseed: 5\n"
    )
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("app", ["+model=small_cnn"])
    assert config.agent.seed == 5
    assert config.model.network.channels == [32, 64, 128]
