import pytest
import torch
from torch import nn

from law_lightning.agent.backprop import Layer, Perceptron, narrow_product
from law_lightning.agent.networks import perceptron


def by_hand(network):
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    return Perceptron(
        [
            Layer(
                at.weight.data,
                at.bias.data,
                at.weight.data.t(),
                torch.full_like(at.weight, 7),
                torch.full_like(at.bias, 7),
            )
            for at in linear
        ]
    )


@pytest.mark.parametrize("hidden", [[], [6], [6, 6], [5, 7, 6]])
@pytest.mark.parametrize("outputs", [1, 3])
def test_gradients_are_autograds(hidden, outputs):
    torch.manual_seed(0)
    network = perceptron(4, hidden, outputs)
    mine = by_hand(network)
    for rows in (3, 8, 1, 8, 5):  # more and fewer rows than there was room for
        x = torch.randn(rows, 4, requires_grad=True)
        weights = torch.randn(rows, outputs)
        y = network(x)
        expected = torch.autograd.grad((y * weights).sum(), [x, *network.parameters()])
        with torch.no_grad():
            torch.testing.assert_close(mine.forward(x.detach()), y)
            gradient = mine.backward(weights.clone(), learn=True)
            torch.testing.assert_close(narrow_product(gradient, mine.layers[0].weight), expected[0])
        found = [tensor for layer in mine.layers for tensor in (layer.weight_gradient, layer.bias_gradient)]
        for a, b in zip(found, expected[1:], strict=True):
            torch.testing.assert_close(a, b)


def test_what_does_not_learn_keeps_its_gradients():
    network = perceptron(4, [6, 5], 2)
    mine = by_hand(network)
    x, weights = torch.randn(3, 4, requires_grad=True), torch.randn(3, 2)
    (expected,) = torch.autograd.grad((network(x) * weights).sum(), x)
    mine.forward(x.detach())
    gradient = mine.backward(weights, learn=False)
    torch.testing.assert_close(narrow_product(gradient, mine.layers[0].weight), expected)
    assert all((layer.weight_gradient == 7).all() and (layer.bias_gradient == 7).all() for layer in mine.layers)


def test_a_narrow_product_is_the_product():
    a, b = torch.randn(50, 6), torch.randn(6, 2)
    torch.testing.assert_close(narrow_product(a, b), a @ b)
