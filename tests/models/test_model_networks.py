import pytest
import torch
from torch import nn

from law_lightning.models import MLP, SmallCNN


@pytest.mark.parametrize("in_shape", [(64,), (1, 8, 8), (3, 32, 32)])
@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_mlp_shapes(in_shape, hidden):
    network = MLP(in_shape, 10, hidden=hidden)
    assert network(torch.rand(5, *in_shape)).shape == (5, 10)
    widths = [m.out_features for m in network.modules() if isinstance(m, nn.Linear)]
    assert widths == [*hidden, 10]


@pytest.mark.parametrize(
    ("in_shape", "num_pools"),
    [((1, 8, 8), 2), ((3, 32, 32), 3), ((1, 28, 28), 3), ((2, 3, 9), 0), ((1, 1, 1), 0)],
)
def test_cnn_shapes(in_shape, num_pools):
    network = SmallCNN(in_shape, 7, channels=(4, 6, 8)).eval()
    assert network(torch.rand(5, *in_shape)).shape == (5, 7)
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == num_pools


def test_cnn_trains_on_a_batch_of_one():
    network = SmallCNN((1, 8, 8), 10, channels=(4, 4, 4, 4, 4))
    network(torch.rand(1, 1, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_cnn_without_batch_norm_has_biases():
    def kinds(network):
        return {type(m) for m in network.modules()}

    assert nn.BatchNorm2d in kinds(SmallCNN((1, 8, 8), 10, channels=(4,)))
    plain = SmallCNN((1, 8, 8), 10, channels=(4,), batch_norm=False)
    assert nn.BatchNorm2d not in kinds(plain)
    assert plain.blocks[0].bias is not None


@pytest.mark.parametrize("make", [MLP, SmallCNN])
def test_dropout_acts_in_training_alone(make):
    torch.manual_seed(0)
    network, x = make((1, 8, 8), 10, dropout=0.5), torch.rand(4, 1, 8, 8)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    without = make((1, 8, 8), 10)
    assert not any(isinstance(m, nn.Dropout) for m in without.modules())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((), 10), r"in_shape is \(\)"),
        (lambda: MLP((1, 0), 10), r"in_shape is \(1, 0\)"),
        (lambda: MLP((4,), 0), "num_classes is 0"),
        (lambda: MLP((4,), 10, hidden=(8, 0)), r"hidden is \(8, 0\)"),
        (lambda: MLP((4,), 10, dropout=1.0), "dropout is 1.0"),
        (lambda: SmallCNN((64,), 10), r"in_shape is \(64,\), .*For vectors use MLP"),
        (lambda: SmallCNN((1, 8, 8), 10, channels=()), "channels is empty"),
        (lambda: SmallCNN((1, 8, 8), 10, channels=(0,)), r"channels is \(0,\)"),
        (lambda: SmallCNN((1, 8, 8), 10, dropout=-0.1), "dropout is -0.1"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
