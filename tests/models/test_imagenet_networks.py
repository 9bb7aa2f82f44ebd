"""The networks of ImageNet, and the configs of all models and schedules."""

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import law_lightning.conf
from law_lightning.cli.build import build_model, plain
from law_lightning.models import imagenet_network

CONF = Path(law_lightning.conf.__file__).parent
NAMES = ["resnet18", "resnet34", "resnet50", "mobilenet_v2"]
MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
# The group: epochs, milestones, warm-up.
SCHEDULES = {
    "cifar200": (200, [9 / 20, 12 / 20, 15 / 20], 0.0),
    "table2": (120, [17 / 20, 18 / 20], 0.0),
    "table5": (100, [13 / 20, 17 / 20], 0.0),
    "imagenet": (100, [30 / 100, 60 / 100, 90 / 100], 2 / 100),
}


def meta(name, in_shape, num_classes):
    with torch.device("meta"):
        return imagenet_network(name, in_shape, num_classes)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("name", "millions"), list(zip(NAMES, [11.69, 21.80, 25.56, 3.50], strict=True)))
def test_parameter_counts_are_torchvision_s_figures(name, millions):
    assert round(count(meta(name, (3, 224, 224), 1000)) / 1e6, 2) == millions


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("in_shape", "num_classes"), [((3, 224, 224), 1000), ((1, 32, 40), 10)])
def test_output_shapes_and_gradients(name, in_shape, num_classes):
    network = meta(name, in_shape, num_classes)
    logits = network(torch.zeros(2, *in_shape, device="meta"))
    assert logits.shape == (2, num_classes)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_three_channels_give_torchvision_s_network(name):
    torch.manual_seed(5)
    ours = imagenet_network(name, (3, 64, 64), 10)
    torch.manual_seed(5)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=10).state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.state_dict().items())


def test_other_channels_change_the_first_layer_alone():
    for name in NAMES:
        grey, colour = (dict(meta(name, (c, 64, 64), 10).named_parameters()) for c in (1, 3))
        first = "features.0.0.weight" if name == "mobilenet_v2" else "conv1.weight"
        assert [key for key in colour if grey[key].shape != colour[key].shape] == [first]
        assert grey[first].shape == (colour[first].shape[0], 1, *colour[first].shape[2:])


def test_a_copy_shares_nothing_and_gradients_are_numbers():
    torch.manual_seed(0)
    network, x = imagenet_network("mobilenet_v2", (1, 32, 32), 10), torch.rand(4, 1, 32, 32)
    network(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    twin, expected = copy.deepcopy(network).eval(), network.eval()(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.0)
    assert torch.equal(twin(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet19", (3, 64, 64), 10), "name is 'resnet19', .* one of resnet18, resnet34, resnet50, mobilenet_v2"),
        (("resnet18", (64,), 10), r"in_shape is \(64,\)"),
        (("resnet18", (3, 64, 64), 0), "num_classes is 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        imagenet_network(*arguments)


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
    imagenet = [f"imagenet_{name}" for name in NAMES]
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


def test_an_experiment_can_choose_a_schedule(tmp_path, composed):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /schedule: table2\n  - override /model: cifar_vgg19\n"
        "model:\n  lr: 0.05\n"
    )
    config = composed("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert (config.trainer.max_epochs, config.model.lr) == (120, 0.05)
    assert OmegaConf.to_container(config.model.milestones) == [0.85, 0.9]
    assert config.model.network._target_ == "law_lightning.models.cifar_vgg19"
