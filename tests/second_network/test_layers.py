"""Linear layers of dual numbers against torch's own forward mode, and what is remembered of a step's layers."""

import weakref

import pytest
import torch
import torch.autograd.forward_ad as fw
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, vmap
from torch.utils.checkpoint import checkpoint

from law_lightning import L2RWCallback, MetaWeightNetCallback
from law_lightning.second_network.layers import LayerCapture, LayerOutputs
from law_lightning.second_network.tangents import linear
from zoo import CLASSES, TRAINERS, Base, BatchNormCNN, DropoutMLP, assert_identical, fit, loaders

LAYERS = {
    "linear": (F.linear, (4, 6), (5, 6), ()),
    "linear of sequences": (F.linear, (4, 3, 6), (5, 6), ()),
    "conv1d": (F.conv1d, (4, 2, 9), (3, 2, 3), (2, 1)),
    "conv2d": (F.conv2d, (4, 2, 6, 6), (3, 2, 3, 3), (1, 1)),
    "conv2d in groups": (F.conv2d, (4, 4, 6, 6), (6, 2, 3, 3), (1, "same", 1, 2)),
    "conv3d": (F.conv3d, (2, 2, 4, 4, 4), (3, 2, 3, 3, 3), (1, 0, 1)),
}


@given(
    name=st.sampled_from(sorted(LAYERS)),
    with_bias=st.booleans(),
    has_tangent=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 2**16),
)
def test_the_derivative_is_torchs(name, with_bias, has_tangent, seed):
    layer, x, weight, options = LAYERS[name]
    draw = torch.Generator().manual_seed(seed)
    primals = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in (x, weight, weight[:1])]
    tangents = [torch.randn(each.shape, generator=draw, dtype=torch.float64) for each in primals]
    found = []
    for function in (lambda *args: linear(layer, LayerOutputs(), *args), layer):
        with fw.dual_level():
            args = [
                fw.make_dual(each.clone(), tangent.clone()) if wanted else each
                for each, tangent, wanted in zip(primals, tangents, has_tangent, strict=True)
            ]
            if not with_bias:
                args[2] = None
            y, along = fw.unpack_dual(function(*args, *options))
            found.append((y, torch.zeros_like(y) if along is None else along))
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs)


# -- what is remembered ------------------------------------------------------------------------------------


def remembered(network, x):
    """What the layers of a pass gave, and its result, which holds the graph."""
    with LayerCapture() as capture:
        result = network(x)
    return capture.layers, result


def asked(layers, layer, x):
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return layers.take(F.conv2d, x, layer.weight.detach(), layer.bias.detach(), options)


def a_convolution():
    torch.manual_seed(0)
    return nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), torch.randn(4, 2, 5, 5)


def test_an_output_is_given_again_once():
    layer, norm, x = a_convolution()
    layers, _graph = remembered(nn.Sequential(layer, norm), x)
    found = asked(layers, layer, x.clone())
    assert torch.equal(found, layer(x))
    assert not found.requires_grad
    assert asked(layers, layer, x.clone()) is None


def test_a_layer_called_twice_gives_its_outputs_in_turn():
    layer, norm, x = a_convolution()
    layers, _graph = remembered(lambda x: (norm(layer(x)), norm(layer(2 * x))), x)
    assert torch.equal(asked(layers, layer, x), layer(x))
    assert torch.equal(asked(layers, layer, 2 * x), layer(2 * x))


def a_bit_of_the_input(layer, x):
    x[0, 0, 0, 0] = torch.nextafter(x[0, 0, 0, 0], torch.tensor(9.0))


def the_shape(layer, x):
    x.resize_(2, 2, 5, 5)


def the_kind(layer, x):
    x.data = x.double()


def the_weight(layer, x):
    with torch.no_grad():
        layer.weight.mul_(1.0)


def another_weight(layer, x):
    layer.weight.data = layer.weight.data.clone()


def the_bias(layer, x):
    with torch.no_grad():
        layer.bias.add_(0.0)


def no_bias(layer, x):
    layer.bias = nn.Parameter(torch.zeros(3))


def the_stride(layer, x):
    layer.stride = (2, 2)


@pytest.mark.parametrize(
    "change", [a_bit_of_the_input, the_shape, the_kind, the_weight, another_weight, the_bias, no_bias, the_stride]
)
def test_nothing_is_given_where_anything_is_otherwise(change):
    layer, norm, x = a_convolution()
    layers, _graph = remembered(nn.Sequential(layer, norm), x)
    again = x.clone()
    change(layer, again)
    assert asked(layers, layer, again) is None


def test_an_input_that_is_not_a_number_is_the_same_as_itself():
    layer, norm, x = a_convolution()
    x[0] = torch.nan
    layers, _graph = remembered(nn.Sequential(layer, norm), x)
    assert asked(layers, layer, x.clone()) is not None


def test_nothing_is_given_where_the_output_was_written_to():
    layer, _norm, x = a_convolution()
    layers, _graph = remembered(nn.Sequential(layer, nn.ReLU(inplace=True)), x)
    assert asked(layers, layer, x) is None


def test_nothing_is_kept_that_the_graph_does_not_keep():
    layer, norm, x = a_convolution()
    outputs = []
    layer.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))
    layers, graph = remembered(lambda x: checkpoint(norm, layer(x), use_reentrant=True).relu(), x)
    assert outputs[0]() is not None  # the checkpoint keeps its input
    del graph
    assert outputs[0]() is None
    assert asked(layers, layer, x) is None


# -- in a training -----------------------------------------------------------------------------------------


class Counted:
    """What was asked for, and what was given."""

    def __init__(self, monkeypatch):
        self.given = []
        take = LayerOutputs.take

        def counting(*args):
            self.given.append(take(*args))
            return self.given[-1]

        monkeypatch.setattr(LayerOutputs, "take", counting)


@pytest.mark.parametrize("method", [L2RWCallback, MetaWeightNetCallback])
@pytest.mark.parametrize(
    ("module", "trainer"), [(BatchNormCNN, "default"), (DropoutMLP, "default"), (BatchNormCNN, "bf16")]
)
def test_a_training_is_the_same_with_and_without_the_memory(monkeypatch, method, module, trainer):
    counted = Counted(monkeypatch)
    with_memory = fit(module, [method()], **TRAINERS[trainer]).state_dict()
    given = sum(output is not None for output in counted.given)
    assert given >= len(counted.given) / 3
    monkeypatch.setattr(LayerOutputs, "take", lambda *args: None)
    assert_identical(with_memory, fit(module, [method()], **TRAINERS[trainer]).state_dict())


class InPlace(Base):
    """Takes a margin off the right logits once their first loss is known."""

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        logits[torch.arange(len(logits)), batch[1]] -= 1.0
        return loss + F.cross_entropy(logits, batch[1])


class Transposed(Base):
    """One square weight, used both ways round: address and shape are the same."""

    def make_net(self):
        return nn.Linear(36, 36)

    def training_step(self, batch, batch_idx):
        x, weight = batch[0].flatten(1), self.net.weight
        there, back = F.linear(x, weight.t()), F.linear(x, weight)
        return F.cross_entropy(there + back.sin(), batch[1])


class TwoPrecisions(Base):
    """The same layer on the same input without autocast and without gradient first, as of a teacher."""

    def make_net(self):
        return nn.Linear(36, CLASSES)

    def training_step(self, batch, batch_idx):
        x = batch[0].flatten(1)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            soft = self.net(x).softmax(1)
        return F.cross_entropy(self.net(x) - soft, batch[1])


class OddOffset(Base):
    """A part of the batch that does not begin at a multiple of eight bytes, of as many numbers as fill them."""

    def make_net(self):
        return nn.Linear(35, CLASSES)

    def training_step(self, batch, batch_idx):
        whole = batch[0].flatten(1)[:, :35].contiguous()
        even = len(whole) - 1 - (len(whole) - 1) % 2
        return F.cross_entropy(self.net(whole[1 : 1 + even]), batch[1][1 : 1 + even])


@pytest.mark.parametrize("method", [L2RWCallback, MetaWeightNetCallback])
@pytest.mark.parametrize("module", [InPlace, Transposed, TwoPrecisions, OddOffset])
def test_whatever_a_step_does_with_its_layers(monkeypatch, module, method):
    options = {"limit_val_batches": 0, "precision": "bf16-mixed" if module is TwoPrecisions else None}
    clean = loaders()[1]
    remembered = fit(module, [method(clean)], **options).state_dict()
    monkeypatch.setattr(LayerOutputs, "take", lambda *args: None)
    assert_identical(remembered, fit(module, [method(clean)], **options).state_dict())


class VmappedSamples(Base):
    """Sends sample by sample through the network by ``torch.func``."""

    def training_step(self, batch, batch_idx):
        parameters = dict(self.net.named_parameters())
        self.net.eval()
        logits = vmap(lambda x: functional_call(self.net, parameters, (x[None],))[0])(batch[0])
        return F.cross_entropy(logits, batch[1])


def test_layers_within_a_transform_are_left_to_torch():
    forward = fit(VmappedSamples, [L2RWCallback()])
    backward = fit(VmappedSamples, [L2RWCallback(products="double_backward")])
    for one, other in zip(forward.parameters(), backward.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
