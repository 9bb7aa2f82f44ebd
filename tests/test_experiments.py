"""Every experiment of the paper has a config that composes and trains, and a row in docs/paper_results.md.

By default each of the paper's large networks is trained once; with ``LAW_FAULTS=long`` in every table.
"""

import re
from itertools import product
from pathlib import Path

import lightning as L
import numpy as np
import pytest
from hydra import compose, initialize_config_module

import law_lightning.conf
import tiny_data
from hostile import LONG
from law_lightning import LAWCallback
from law_lightning.cli.build import factories, trainer_options

CONF = Path(law_lightning.conf.__file__).parent / "experiment"
PAGE = Path(__file__).parents[1] / "docs" / "paper_results.md"
CIFAR, IMAGENET = ("cifar10", "cifar100"), ("resnet18", "resnet34", "resnet50", "mobilenet_v2")
#: The rows of the paper's tables, the panels of its figures, and their small versions.
ROWS = {
    "table1": [f"{data}_{net}" for data, net in product(CIFAR, ("vgg19", "resnet18", "resnet101", "wrn28_10"))],
    "table2": [f"{data}_{net}" for data, net in product(CIFAR, ("resnet101", "wrn28_10"))],
    "table3": [f"{data}_{net}" for data, net in product(CIFAR, ("vgg19", "resnet18", "resnet101", "wrn28_10"))],
    "table4": [f"imagenet_{bias}_{net}" for bias, net in product(("noise", "imbalance"), IMAGENET)],
    "table5": [f"{data}_resnet32" for data in CIFAR],
    "figure3": [f"{data}_{bias}" for data, bias in product(CIFAR, ("noise", "imbalance"))],
    "figure4": [*(f"{data}_{bias}" for data, bias in product(CIFAR, ("noise", "imbalance"))), "imagenet_imbalance"],
    "small": [
        *(f"{data}_{bias}" for data, bias in product(("digits", "cifar10"), ("noise40", "discard", "long_tail"))),
        "cifar10_transfer",
    ],
}
EXPERIMENTS = [f"{table}/{row}" for table, rows in ROWS.items() for row in rows]


@pytest.fixture(autouse=True)
def config_module():
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        yield


def test_every_row_has_a_config_and_no_config_is_without_a_row():
    files = {path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml")}
    assert files == set(EXPERIMENTS)


def test_every_experiment_has_a_row_on_the_page():
    named = set(re.findall(r"`((?:table|figure)\d/\w+|small/\w+)`", PAGE.read_text(encoding="utf-8")))
    assert named == set(EXPERIMENTS)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("command", "split"), [("law_search", "search"), ("law_train", "full"), ("law_compare", "full")]
)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_composes_for_every_command(experiment, command, split):
    data = ["data.path=x.npz"] if experiment.startswith("small/cifar") else []
    config = compose(command, [f"experiment={experiment}", *data])
    if "split" in config.data:
        assert config.data.split == ("search" if experiment.startswith("figure3") else split)


@pytest.mark.parametrize(
    ("experiment", "epochs", "milestones", "batch"),
    [
        ("table1/cifar10_resnet18", 200, [0.5, 0.65, 0.8], 128),
        ("table2/cifar100_wrn28_10", 120, [0.9, 0.95], 128),
        ("table3/cifar10_vgg19", 200, [0.5, 0.65, 0.8], 128),
        ("table4/imagenet_noise_resnet50", 100, [0.3, 0.6, 0.9], 1024),
        ("table5/cifar10_resnet32", 100, [0.7, 0.9], 128),
    ],
)
def test_the_paper_s_settings(experiment, epochs, milestones, batch):
    config = compose("law_search", [f"experiment={experiment}"])
    assert (config.trainer.max_epochs, list(config.model.milestones), config.data.batch_size) == (
        epochs, milestones, batch,
    )  # fmt: skip
    assert (config.model.lr, config.model.momentum, config.model.weight_decay) == (0.1, 0.9, 2e-5)
    assert config.model.warmup == (0.02 if "imagenet" in experiment else 0.0)
    sizes = {"cifar10": (20000, 5000), "cifar100": (20000, 5000), "imagenet": (100, 25)}
    assert (config.data.train_size, config.data.val_size) == sizes[experiment.split("/")[1].split("_")[0]]


def test_the_paper_s_corruptions():
    def corruption(experiment):
        return compose("law_search", [f"experiment={experiment}"]).data.corruption

    assert corruption("table1/cifar10_vgg19").rate == 0.4
    assert corruption("table3/cifar10_vgg19").share == 0.96
    assert list(corruption("table3/cifar10_vgg19").classes) == [0, 1]
    assert corruption("table3/cifar100_vgg19").share == 0.9
    assert list(corruption("table3/cifar100_vgg19").classes) == list(range(10))
    assert corruption("table5/cifar10_resnet32").imbalance == 100


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Overrides that make an experiment tiny: few images in the data set's own format, two steps."""

    def overrides(experiment):
        name = experiment.split("/")[1]
        common = ["data.batch_size=2", "data.eval_batch_size=4", "data.num_workers=0", "trainer.max_epochs=1"]
        common += ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "trainer.accelerator=cpu"]
        if "imbalance" in name or "discard" in name or experiment.startswith("table3"):
            common.append("corruption.share=0.5")
        if "long_tail" in name or experiment.startswith("table5"):
            common.append("corruption.imbalance=3")
        if name.startswith("digits"):
            return common
        if experiment.startswith("small"):
            rng = np.random.default_rng(0)
            x, y = rng.integers(0, 255, (120, 32, 32, 3)).astype(np.uint8), np.arange(120) % 10
            np.savez(tmp_path / "cifar.npz", train_x=x, train_y=y, test_x=x[:20], test_y=y[:20])
            return [*common, f"data.path={tmp_path / 'cifar.npz'}", "data.train_size=80", "data.val_size=40"]
        if name.startswith("imagenet"):
            tiny_data.write_folders(tmp_path, parts=("train", "val"), classes=12, each=8)
            return [*common, f"data.root={tmp_path}", "data.train_size=6", "data.val_size=2", "data.image_size=40"]
        classes = 100 if name.startswith("cifar100") else 10
        tiny_data.write_cifar(tmp_path, monkeypatch, classes, train=8 * classes)
        sizes = ["data.train_size=6", "data.val_size=2", "data.per_class=true"]
        return [*common, f"data.root={tmp_path}", *(each.replace("data.per", "+data.per") for each in sizes)]

    return overrides


def is_repeated(experiment):
    """The large networks are those of Table 1 with ten classes."""
    large = experiment.endswith(("resnet101", "wrn28_10"))
    return not LONG and large and experiment.startswith(("table1/cifar100", "table2", "table3"))


@pytest.mark.parametrize("experiment", [each for each in EXPERIMENTS if not is_repeated(each)])
def test_it_trains_two_stages(experiment, tiny, tmp_path):
    config = compose("law_search", [f"experiment={experiment}", *tiny(experiment)])
    make_module, _, data = factories(config)
    law = LAWCallback(num_stages=2, warmup_stages=1)
    options = {**trainer_options(config), "logger": False, "enable_checkpointing": False, "callbacks": [law]}
    L.Trainer(**options).fit(make_module(), datamodule=data)
    assert [record["stage"] for record in law.history] == [0, 1]
    assert law.history[-1]["reward"] is not None
    assert data.corruption_record is not None
    assert sum(count is not None for count in law.history[-1]["weight_per_class"]) >= 1
