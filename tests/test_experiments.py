"""The paper's tables and figures as transcribed from its text: each row has a config, and a row in paper_results.md."""

import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
from hydra import compose, initialize_config_module

import law_lightning.conf
import tiny_data
from law_lightning import LAWCallback
from law_lightning.cli.build import factories, trainer_options

CONF = Path(law_lightning.conf.__file__).parent / "experiment"
PAGE = Path(__file__).parents[1] / "docs" / "paper_results.md"
CIFAR = ("cifar10", "cifar100")


def transcribed(epochs, stages, methods, networks, data, figures):
    """Of a table: epochs, stages (from 1) or epochs at which the rate falls, what its rows compare, and the figures."""
    rows = {f"{one}_{network}": row for (one, network), row in zip(product(data, networks), figures, strict=True)}
    return SimpleNamespace(epochs=epochs, drops=stages, methods=methods, rows=rows)


#: Li et al. 2020, Experiments: "Results of effects on noisy labels compatibility" and "Effects on imbalance data".
#: Each row ends with its top-1 accuracy in percent, by method.
TABLES = {
    "table1": transcribed(
        200, (10, 13, 16), ["base", "law"], ("resnet18", "wrn28_10", "resnet101"), CIFAR,
        [(79.44, 86.33), (76.77, 89.73), (75.57, 88.90), (55.18, 61.27), (53.11, 68.23), (52.20, 68.01)],
    ),
    "table2": transcribed(
        120, (18, 19), ["self_paced", "mentornet", "l2rw", "focal", "co_teaching", "law"], ("wrn28_10",), CIFAR,
        [(86.21, 87.56, 87.04, 74.12, 74.84, 89.73), (46.23, 65.56, 62.45, 50.71, 46.45, 68.23)],
    ),
    "table3": transcribed(
        100, None, ["base", "law"], ("resnet18", "resnet34", "resnet50", "mobilenet_v2"), ("imagenet",),
        [(64.7, 65.2), (65.4, 66.5), (71.9, 73.7), (59.3, 60.3)],
    ),
    "table4": transcribed(
        200, (10, 13, 16), ["base", "law"], ("vgg19", "resnet18"), CIFAR,
        [(84.88, 85.33), (85.93, 88.44), (59.33, 60.20), (60.24, 61.94)],
    ),
    "table5": transcribed(
        100, (14, 18), ["focal", "class_balanced", "l2rw", "law"], ("resnet32",), CIFAR,
        [(71.34, 74.6, 74.25, 76.34), (39.41, 40.16, 41.23, 43.61)],
    ),
}  # fmt: skip
#: The panels of its Analysis.
FIGURES = {
    "figure3": ["cifar10_noise", "cifar100_noise", "imagenet_clean", "imagenet_noise"],
    "figure4": ["cifar10_imbalance", "cifar100_imbalance"],
}
#: Small versions of ours.
SMALL = [
    *(f"{data}_{bias}" for data, bias in product(("digits", "cifar10"), ("noise40", "discard", "long_tail"))),
    "cifar10_transfer",
]
ROWS = {table: of.rows for table, of in TABLES.items()} | FIGURES | {"small": SMALL}
EXPERIMENTS = [f"{table}/{row}" for table, rows in ROWS.items() for row in rows]
TABLE_ROWS = [each for each in EXPERIMENTS if each.startswith("table")]
FIGURE_ROWS = [each for each in EXPERIMENTS if each.startswith("figure")]


@pytest.fixture(autouse=True)
def config_module():
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        yield


def test_every_row_has_a_config_and_a_row_on_the_page_and_no_config_is_without():
    files = {path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml")}
    named = set(re.findall(r"`((?:table|figure)\d/\w+|small/\w+)`", PAGE.read_text(encoding="utf-8")))
    assert files == named == set(EXPERIMENTS)


def test_the_page_has_the_paper_s_figures():
    page = PAGE.read_text(encoding="utf-8")
    for experiment in TABLE_ROWS:
        table, row = experiment.split("/")
        (line,) = re.findall(rf"^\| `{experiment}` .*$", page, flags=re.MULTILINE)
        cells = dict(entry.rsplit(" ", 1) for entry in line.split("|")[5].strip().split(", "))
        assert [name.lower().replace("-", "_") for name in cells] == TABLES[table].methods
        assert tuple(map(float, cells.values())) == TABLES[table].rows[row]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("command", "split"), [("law_search", "search"), ("law_train", "holdout"), ("law_compare", "holdout")]
)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_composes_for_every_command(experiment, command, split):
    data = ["data.path=x.npz"] if experiment.startswith("small/cifar") else []
    config = compose(command, [f"experiment={experiment}", *data])
    if "split" in config.data:
        assert config.data.split == ("search" if experiment.startswith("figure3") else split)


@pytest.mark.parametrize("experiment", TABLE_ROWS)
def test_a_table_s_settings(experiment):
    table, row = experiment.split("/")
    of, (data, network) = TABLES[table], row.split("_", 1)
    config = compose("law_compare", [f"experiment={experiment}"])
    drops = [0.3, 0.6, 0.9] if of.drops is None else [(stage - 1) / 20 for stage in of.drops]
    assert (config.trainer.max_epochs, list(config.model.milestones)) == (of.epochs, pytest.approx(drops))
    assert list(config.methods) == of.methods
    assert config.data.batch_size == (1024 if data == "imagenet" else 128)
    assert (config.model.lr, config.model.momentum, config.model.weight_decay) == (0.1, 0.9, 2e-5)
    assert config.model.warmup == (0.02 if data == "imagenet" else 0.0)
    assert (config.data.train_size, config.data.val_size) == ((100, 25) if data == "imagenet" else (20000, 5000))
    assert network in (config.model.network.get("name") or config.model.network._target_.rsplit(".", 1)[-1]) or (
        network == "wrn28_10" and (config.model.network.depth, config.model.network.width) == (28, 10)
    )
    assert type_of(config.data) == {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "imagenet": "ImageNet"}[data]


def type_of(data):
    return data._target_.rsplit(".", 1)[-1].removesuffix("DataModule")


@pytest.mark.parametrize("experiment", TABLE_ROWS + FIGURE_ROWS)
def test_its_corruption(experiment):
    table, row = experiment.split("/")
    corruption = compose("law_search", [f"experiment={experiment}"]).data.corruption
    hundred = row.startswith("cifar100")
    if row == "imagenet_clean":
        assert corruption is None
    elif table in ("table4", "figure4"):
        assert corruption.share == (0.9 if hundred else 0.96)
        assert list(corruption.classes) == list(range(10 if hundred else 2))
    elif table == "table5":
        assert corruption.imbalance == 100
    else:
        assert (corruption.rate, corruption.exclude_true) == (0.4, False)


@pytest.mark.parametrize("experiment", FIGURE_ROWS)
def test_a_figure_s_settings(experiment):
    row = experiment.split("/")[1]
    config = compose("law_train", [f"experiment={experiment}"])
    assert type_of(config.data).lower() == row.split("_")[0]
    assert config.trainer.max_epochs == (100 if row.startswith("imagenet") else 200)
    assert "resnet18" in (config.model.network.get("name") or config.model.network._target_)
    assert config.reference == experiment.startswith("figure3")


def test_commands_on_a_row_meet_in_its_folder():
    """law-search leaves the strategy where law-compare looks for it; ImageNet's is searched on ResNet-18 alone."""
    for experiment in TABLE_ROWS:
        searched = "table3/imagenet_resnet18" if experiment.startswith("table3") else experiment
        strategy = compose("law_compare", [f"experiment={experiment}"]).strategy
        assert strategy == f"runs/{searched}/search/strategy.safetensors"
    assert compose("law_search", [f"experiment={TABLE_ROWS[0]}"]).run_dir == f"runs/{TABLE_ROWS[0]}/search"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Overrides that make an experiment tiny: few images in the data set's own format, two steps."""

    def overrides(experiment):
        name = experiment.split("/")[1]
        common = ["data.batch_size=2", "data.eval_batch_size=4", "data.num_workers=0", "trainer.max_epochs=1"]
        common += ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "trainer.accelerator=cpu"]
        if "imbalance" in name or "discard" in name or experiment.startswith("table4"):
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


@pytest.mark.one_in(3)  # most networks are in several
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_trains_two_stages(experiment, tiny, tmp_path):
    config = compose("law_search", [f"experiment={experiment}", *tiny(experiment)])
    make_module, _, data = factories(config)
    law = LAWCallback(num_stages=2, warmup_stages=1)
    options = {**trainer_options(config), "logger": False, "enable_checkpointing": False, "callbacks": [law]}
    L.Trainer(**options).fit(make_module(), datamodule=data)
    assert [record["stage"] for record in law.history] == [0, 1]
    assert law.history[-1]["reward"] is not None
    assert (data.corruption_record is None) == experiment.endswith("clean")
    assert sum(count is not None for count in law.history[-1]["weight_per_class"]) >= 1
