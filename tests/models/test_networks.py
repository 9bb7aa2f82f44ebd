import importlib
import sys
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

import law_lightning
from law_lightning.models import (
    MLP,
    SmallCNN,
    WideResNet,
    cifar_resnet18,
    cifar_resnet32,
    cifar_resnet101,
    cifar_vgg19,
    imagenet_network,
    networks,
)
from law_lightning.models.networks import WideBlock

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
IMAGENET_NAMES = ["resnet18", "resnet34", "resnet50", "mobilenet_v2"]
NETWORKS = {
    "resnet18": cifar_resnet18,
    "resnet32": cifar_resnet32,
    "resnet101": cifar_resnet101,
    "wrn28-10": WideResNet,
    "vgg19": cifar_vgg19,
    **{f"imagenet {name}": partial(imagenet_network, name) for name in IMAGENET_NAMES},
}


def meta(make, *args, **kwargs):
    """The network without its numbers: shapes cost nothing."""
    with torch.device("meta"):
        return make(*args, **kwargs)


def count(network):
    return sum(p.numel() for p in network.parameters())


def convolutions(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("make", "in_shape", "num_classes", "millions"),
    [
        (cifar_resnet32, CIFAR, 10, 0.46),  # He et al. 2016, table 6
        (WideResNet, CIFAR, 10, 36.5),  # Zagoruyko & Komodakis 2016, the results of wide networks on CIFAR
        (partial(WideResNet, depth=16, width=8), CIFAR, 10, 11.0),  # the same table
        (cifar_vgg19, CIFAR, 10, 20.04),
        (cifar_resnet18, CIFAR, 10, 11.17),
        (cifar_resnet101, CIFAR, 10, 42.5),
        # torchvision's figures
        (NETWORKS["imagenet resnet50"], IMAGENET, 1000, 25.56),
        (NETWORKS["imagenet mobilenet_v2"], IMAGENET, 1000, 3.50),
    ],
)
def test_parameter_counts_are_the_papers(make, in_shape, num_classes, millions):
    digits = len(str(millions).split(".")[1])
    assert round(count(meta(make, in_shape, num_classes)) / 1e6, digits) == millions


@pytest.mark.parametrize(
    ("name", "in_shape"),
    [(name, (1, 37, 50)) for name in NETWORKS] + [(name, (3, 1, 1)) for name in ("resnet18", "resnet32", "wrn28-10")],
)
def test_output_shapes_and_gradients(name, in_shape):
    network = meta(NETWORKS[name], in_shape, 7)
    logits = network(torch.zeros(2, *in_shape, device="meta"))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("name", "last"), [("resnet18", 4), ("resnet101", 4), ("resnet32", 8), ("wrn28-10", 8)])
def test_how_often_the_image_is_halved(name, last):
    sides = []
    network = meta(NETWORKS[name], CIFAR, 10)
    for module in convolutions(network):
        module.register_forward_hook(lambda module, args, output: sides.append(output.shape[-1]))
    network(torch.zeros(2, *CIFAR, device="meta"))
    assert (sides[0], sides[-1]) == (32, last)


@pytest.mark.parametrize("make", [cifar_resnet32, partial(WideResNet, depth=16, width=2), cifar_vgg19])
def test_convolutions_have_he_s_deviation(make):
    torch.manual_seed(0)
    for conv in convolutions(make(CIFAR, 10)):
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        scaled = conv.weight * (fan_out / 2) ** 0.5
        assert scaled.std().item() == pytest.approx(1.0, abs=5 / (2 * scaled.numel()) ** 0.5)
        assert conv.bias is None or not conv.bias.any()


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (1, 1)])
def test_resnet32_s_shortcuts_are_option_a(shape):
    blocks = [m for m in cifar_resnet32(CIFAR, 10).modules() if getattr(m, "downsample", None) is not None]
    assert [block.conv1.out_channels for block in blocks] == [32, 64]
    for block in blocks:
        channels, (height, width) = block.conv1.in_channels, shape
        x = torch.rand(2, channels, *shape)
        expected = torch.zeros(2, 2 * channels, (height + 1) // 2, (width + 1) // 2)
        for i, row in enumerate(range(0, height, 2)):
            for j, column in enumerate(range(0, width, 2)):
                expected[:, :channels, i, j] = x[:, :, row, column]
        assert torch.equal(block.downsample(x), expected)
        assert count(block.downsample) == 0


@pytest.mark.parametrize(("channels", "out_channels", "stride"), [(4, 4, 1), (4, 8, 1), (4, 4, 2), (4, 8, 2)])
def test_wide_block_is_bn_relu_conv_twice(channels, out_channels, stride):
    torch.manual_seed(0)
    block, x = WideBlock(channels, out_channels, stride).eval(), torch.randn(2, channels, 5, 5)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    first, second = block.residual[0], block.residual[4]
    active = block.activation[0](x).clamp(min=0)
    expected = second(block.residual[1](first(active)).clamp(min=0))
    expected = expected + (x if block.projection is None else block.projection(active))
    before = x.clone()
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)  # though its ReLUs work in place
    assert (block.projection is None) == (stride == 1 and channels == out_channels)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_three_channels_give_torchvision_s_network_and_others_change_the_first_layer_alone(name):
    torch.manual_seed(5)
    ours = imagenet_network(name, (3, 64, 64), 10)
    torch.manual_seed(5)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=10).state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.state_dict().items())
    grey = imagenet_network(name, (1, 64, 64), 10).state_dict()
    first = "features.0.0.weight" if name == "mobilenet_v2" else "conv1.weight"
    assert [key for key in theirs if grey[key].shape != theirs[key].shape] == [first]


@pytest.mark.parametrize(("in_shape", "hidden"), [((64,), ()), ((1, 8, 8), (16, 8))])
def test_mlp_shapes(in_shape, hidden):
    network = MLP(in_shape, 10, hidden=hidden)
    assert network(torch.rand(5, *in_shape)).shape == (5, 10)
    assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)] == [*hidden, 10]


@pytest.mark.parametrize("options", [{}, {"hidden": 5}, {"strided": True}, {"batch_norm": False}])
@pytest.mark.parametrize(
    ("in_shape", "num_halved"), [((1, 8, 8), 2), ((3, 32, 32), 3), ((1, 28, 28), 3), ((2, 3, 9), 0), ((1, 1, 1), 0)]
)
def test_cnn_shapes(in_shape, num_halved, options):
    network = SmallCNN(in_shape, 7, channels=(4, 6, 8), **options).eval()
    assert network(torch.rand(5, *in_shape)).shape == (5, 7)
    pools = sum(isinstance(m, nn.MaxPool2d) for m in network.modules())
    strides = sum(conv.stride == (2, 2) for conv in convolutions(network))
    assert (pools, strides) == ((0, num_halved) if "strided" in options else (num_halved, 0))
    has_norm = options.get("batch_norm", True)
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == has_norm
    assert all((conv.bias is None) == has_norm for conv in convolutions(network))


def test_cnn_trains_on_a_batch_of_one():
    network = SmallCNN((1, 8, 8), 10, channels=(4, 4, 4, 4, 4))
    network(torch.rand(1, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("make", [MLP, SmallCNN, partial(WideResNet, depth=10, width=1)])
def test_dropout_acts_in_training_alone(make):
    torch.manual_seed(0)
    network, x = make((1, 8, 8), 10, dropout=0.5), torch.rand(4, 1, 8, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    without = make((1, 8, 8), 10)
    assert torch.equal(without(x), without(x))


def test_the_package_needs_no_torchvision(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("law_lightning.models")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(law_lightning, "models", None)
    fresh = importlib.import_module("law_lightning.models")
    assert fresh.networks is not networks
    with torch.device("meta"):
        fresh.WideResNet(CIFAR, 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cifar_resnet18((64,), 10), r"in_shape is \(64,\), .* \(MLP for vectors\)"),
        (lambda: cifar_resnet32((3, 0, 32), 10), r"in_shape is \(3, 0, 32\)"),
        (lambda: cifar_vgg19((3, 32, 28), 10), r"in_shape is \(3, 32, 28\), .* of 32 x 32 pixels or more"),
        (lambda: imagenet_network("resnet19", CIFAR, 10), "name is 'resnet19', .* one of resnet18, .* mobilenet_v2"),
        (lambda: WideResNet(CIFAR, 10, depth=29), r"depth is 29, but it must be 6n \+ 4"),
        (lambda: WideResNet(CIFAR, 10, depth=4), "depth is 4"),
        (lambda: SmallCNN((64,), 10), r"in_shape is \(64,\)"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
