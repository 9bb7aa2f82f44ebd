from itertools import zip_longest
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import OmegaConf

import law_lightning.conf

CONF = Path(law_lightning.conf.__file__).parent
COMMANDS = ["law_search", "law_train", "law_compare"]
GROUPS = {
    "law_search": [
        "data",
        "corruption",
        "model",
        "agent",
        "law",
        "search",
        "trainer",
        "schedule",
        "logger",
        "experiment",
    ],
    "law_train": ["data", "corruption", "model", "law", "trainer", "schedule", "logger", "experiment"],
    "law_compare": ["data", "corruption", "model", "law", "trainer", "schedule", "experiment"],
}
#: For each command, rows of one choice a group, until every choice has been in one. Composing is slow.
CHOICES = [
    (command, [f"{group}={choice}" for group, choice in zip(GROUPS[command], row, strict=True) if choice])
    for command in COMMANDS
    for row in zip_longest(*(sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in GROUPS[command]))
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


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)


@pytest.mark.parametrize(("command", "choices"), CHOICES)
def test_every_choice_of_every_group_composes(command, choices):
    paths = [path for choice in choices for path in MANDATORY.get(choice.split("=")[1], [])]
    config = OmegaConf.to_container(compose(command, choices + paths), resolve=True, throw_on_missing=True)
    names = list(targets(config))
    assert names
    for name in names:
        get_object(name)


def test_the_issue_s_noise_is_one_override():
    config = compose("law_search", ["corruption.rate=0.4"])
    assert config.data.corruption.rate == 0.4
    assert compose("law_search").data.corruption.rate == 0.0
    assert compose("law_search", ["corruption=none"]).data.corruption is None


def test_the_demo_s_setting():
    for command in COMMANDS:
        config = compose(command, ["experiment=digits_noise40"])
        assert (config.data.train_size, config.corruption.rate, config.trainer.max_epochs) == (500, 0.4, 60)


def test_seed_reaches_agent_and_search():
    config = compose("law_search", ["seed=7"])
    assert (config.agent.seed, config.search.seed) == (7, 7)


def test_the_config_groups_are_regular_package_data():
    assert (CONF / "__init__.py").is_file()
    assert {path.name for path in CONF.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(
        GROUPS["law_search"]
    )


def test_other_apps_can_use_the_groups(tmp_path):
    (tmp_path / "app.yaml").write_text(
        "hydra:\n  searchpath: [pkg://law_lightning.conf]\ndefaults:\n  - agent: default\n  - _self_\nseed: 5\n"
    )
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("app", ["+model=small_cnn"])
    assert config.agent.seed == 5
    assert config.model.network.channels == [32, 64, 128]
