import copy
import importlib
import sys

import pytest
import torch
from torch import nn

import law_lightning
from law_lightning.models import WideResNet, cifar_resnet18, cifar_resnet32, cifar_resnet101, cifar_vgg19, networks
from law_lightning.models.cifar_resnet import ZeroPadShortcut
from law_lightning.models.wide_resnet import WideBlock

CIFAR = (3, 32, 32)
NETWORKS = {
    "resnet18": cifar_resnet18,
    "resnet32": cifar_resnet32,
    "resnet101": cifar_resnet101,
    "wrn28-10": WideResNet,
    "vgg19": cifar_vgg19,
}
SMALL = {
    "resnet32": cifar_resnet32,
    "wrn16-2": lambda in_shape, num_classes: WideResNet(in_shape, num_classes, depth=16, width=2),
    "vgg19": cifar_vgg19,
}


def meta(make, *args, **kwargs):
    """The network without its numbers: shapes cost nothing."""
    with torch.device("meta"):
        return make(*args, **kwargs)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("make", "millions"),
    [
        (cifar_resnet32, 0.46),  # He et al. 2016, table 6
        (WideResNet, 36.5),  # Zagoruyko & Komodakis 2016, the results of wide networks on CIFAR
        (lambda s, c: WideResNet(s, c, depth=40, width=4), 8.9),  # the same table
        (lambda s, c: WideResNet(s, c, depth=16, width=8), 11.0),  # the same table
        (cifar_vgg19, 20.04),
        (cifar_resnet18, 11.17),
        (cifar_resnet101, 42.5),
    ],
)
def test_parameter_counts_are_the_papers(make, millions):
    digits = len(str(millions).split(".")[1])
    assert round(count(meta(make, CIFAR, 10)) / 1e6, digits) == millions


def test_resnet32_has_the_parameters_of_its_table():
    # A 3x3 convolution without bias: 9 a b; its BatchNorm: 2 b; option A: nothing.
    def pair(a, b):
        return 9 * a * b + 9 * b * b + 4 * b

    stem, head = 9 * 3 * 16 + 2 * 16, 64 * 10 + 10
    groups = 5 * pair(16, 16) + pair(16, 32) + 4 * pair(32, 32) + pair(32, 64) + 4 * pair(64, 64)
    assert count(meta(cifar_resnet32, CIFAR, 10)) == stem + groups + head == 464_154


def test_wrn28_10_has_the_parameters_of_its_table():
    # Pre-activation: BatchNorms of a and b channels, and a 1x1 convolution a b where the channels change.
    def block(a, b):
        return 2 * a + 9 * a * b + 2 * b + 9 * b * b + (a * b if a != b else 0)

    groups = block(16, 160) + block(160, 320) + block(320, 640) + 3 * sum(block(b, b) for b in (160, 320, 640))
    assert count(meta(WideResNet, CIFAR, 10)) == 9 * 3 * 16 + groups + 2 * 640 + 640 * 10 + 10 == 36_479_194


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("in_shape", "num_classes"), [(CIFAR, 100), ((1, 37, 50), 10)])
def test_output_shapes_and_gradients(name, in_shape, num_classes):
    network = meta(NETWORKS[name], in_shape, num_classes)
    logits = network(torch.zeros(2, *in_shape, device="meta"))
    assert logits.shape == (2, num_classes)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "vgg19"])
@pytest.mark.parametrize("side", [1, 8])
def test_smaller_images(name, side):
    network = meta(NETWORKS[name], (1, side, side), 10)
    assert network(torch.zeros(2, 1, side, side, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(("name", "last"), [("resnet18", 4), ("resnet101", 4), ("resnet32", 8), ("wrn28-10", 8)])
def test_how_often_the_image_is_halved(name, last):
    sides = []
    network = meta(NETWORKS[name], CIFAR, 10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: sides.append(output.shape[-1]))
    network(torch.zeros(2, *CIFAR, device="meta"))
    assert (sides[0], sides[-1]) == (32, last)


@pytest.mark.parametrize("depth", [10, 16, 28, 40])
def test_depth_is_the_number_of_layers(depth):
    def convolutions(network):
        return sum(isinstance(m, nn.Conv2d) for m in network.modules())

    assert convolutions(meta(WideResNet, CIFAR, 10, depth=depth, width=2)) == depth
    assert convolutions(meta(cifar_resnet32, CIFAR, 10)) + 1 == 32  # and one linear layer


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_numbers_and_reach_every_parameter(name):
    torch.manual_seed(0)
    network = SMALL[name](CIFAR, 10)
    network(torch.rand(2, *CIFAR))[:, 3].sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if parameter.dim() > 1:
            assert parameter.grad.count_nonzero() > 0, key


@pytest.mark.parametrize("name", ["resnet32", "wrn16-2", "resnet18"])
def test_the_seed_decides_the_weights(name):
    def weights(seed):
        torch.manual_seed(seed)
        return list((SMALL | NETWORKS)[name](CIFAR, 10).state_dict().values())

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", SMALL)
def test_a_copy_shares_nothing(name):
    torch.manual_seed(0)
    network, x = SMALL[name](CIFAR, 10).eval(), torch.rand(2, *CIFAR)
    twin = copy.deepcopy(network)
    expected = network(x)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.0)
    assert torch.equal(twin(x), expected)


@pytest.mark.parametrize("name", SMALL)
def test_convolutions_have_he_s_deviation(name):
    torch.manual_seed(0)
    convolutions = [m for m in SMALL[name](CIFAR, 10).modules() if isinstance(m, nn.Conv2d)]
    for conv in convolutions:
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        scaled = conv.weight * (fan_out / 2) ** 0.5
        assert scaled.std().item() == pytest.approx(1.0, abs=5 / (2 * scaled.numel()) ** 0.5)
        assert conv.bias is None or not conv.bias.any()


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 5, 7), (2, 3, 1, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_zero_pad_shortcut_is_option_a(shape, stride):
    x = torch.rand(shape)
    batch, channels, height, width = shape
    rows, columns = range(0, height, stride), range(0, width, stride)
    expected = torch.zeros(batch, channels + 4, len(rows), len(columns))
    for b in range(batch):
        for c in range(channels):
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    expected[b, c, i, j] = x[b, c, row, column]
    shortcut = ZeroPadShortcut(channels, channels + 4, stride)
    assert torch.equal(shortcut(x), expected)
    assert count(shortcut) == 0
    # The shape is that of the 3x3 convolution it is added to.
    assert nn.Conv2d(channels, channels + 4, 3, stride, padding=1)(x).shape == expected.shape


def test_resnet32_s_groups_begin_with_option_a():
    shortcuts = [m for m in meta(cifar_resnet32, CIFAR, 10).modules() if isinstance(m, ZeroPadShortcut)]
    assert [(m.padding, m.stride) for m in shortcuts] == [(16, 2), (32, 2)]


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


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    network, x = WideResNet((1, 8, 8), 10, depth=10, width=1, dropout=0.5), torch.rand(4, 1, 8, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == 3
    assert not any(isinstance(m, nn.Dropout) for m in meta(WideResNet, CIFAR, 10).modules())


@pytest.mark.parametrize("make", [cifar_resnet32, cifar_vgg19, cifar_resnet18])
def test_a_missing_torchvision_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        make(CIFAR, 10)


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
        (lambda: cifar_resnet18((64,), 10), r"in_shape is \(64,\), .*For vectors use MLP"),
        (lambda: cifar_resnet32((3, 0, 32), 10), r"in_shape is \(3, 0, 32\)"),
        (lambda: cifar_resnet101(CIFAR, 0), "num_classes is 0"),
        (lambda: cifar_vgg19((3, 32, 28), 10), r"in_shape is \(3, 32, 28\), .* images of 32 x 32 pixels or more"),
        (lambda: WideResNet(CIFAR, 10, depth=29), r"depth is 29, but it must be 6n \+ 4"),
        (lambda: WideResNet(CIFAR, 10, depth=4), "depth is 4"),
        (lambda: WideResNet(CIFAR, 10, width=0), "width is 0"),
        (lambda: WideResNet(CIFAR, 10, dropout=1.0), "dropout is 1.0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
