"""A perceptron's output and gradients, by hand.

The strategy's networks are so small that most of an update's time would go into autograd's bookkeeping. Written out,
gradients go straight to their place, and only those that are needed are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Layer(NamedTuple):
    """A linear layer x W^T + b and room for its gradients."""

    weight: Tensor  # [out, in]
    bias: Tensor  # [out]
    weight_t: Tensor  # [in, out], a view
    weight_gradient: Tensor  # [out, in]
    bias_gradient: Tensor  # [out]


def forward(layers: Sequence[Layer], inputs: Tensor) -> list[Tensor]:
    r"""What every layer is given, and what the last one gives, with ReLU between them.

    .. math:: h_0 = x, \quad h_l = \max(0, h_{l-1} W_l^T + b_l), \quad y = h_{L-1} W_L^T + b_L

    Args:
        layers: L of them.
        inputs: x, [N, in].

    Returns:
        :math:`h_0, \dots, h_{L-1}` and y, [N, out].
    """
    values = [inputs]
    for layer in layers[:-1]:
        values.append(torch.addmm(layer.bias, values[-1], layer.weight_t).relu_())
    values.append(torch.addmm(layers[-1].bias, values[-1], layers[-1].weight_t))
    return values


def backward(layers: Sequence[Layer], values: Sequence[Tensor], gradient: Tensor, *, learn: bool) -> Tensor:
    r"""The gradients of a loss, from its gradient with respect to the output.

    .. math:: \delta_L = \partial J / \partial y, \quad \delta_{l-1} = (\delta_l W_l) \odot [h_{l-1} > 0], \quad
        \partial J / \partial W_l = \delta_l^T h_{l-1}, \quad \partial J / \partial b_l = \sum_i \delta_{l,i}

    Args:
        layers: L of them; where ``learn`` is set, their gradients are overwritten.
        values: what :func:`forward` gave.
        gradient: :math:`\delta_L`, [N, out].
        learn: compute the gradients of weights and biases.

    Returns:
        :math:`\delta_1`, [N, width]; times the first layer's weights it is the gradient of the inputs.
    """
    for index in range(len(layers) - 1, -1, -1):
        layer, below = layers[index], values[index]
        if learn:
            torch.mm(gradient.t(), below, out=layer.weight_gradient)
            torch.sum(gradient, 0, out=layer.bias_gradient)
        if index:  # the gradient of ReLU, in one operation
            gradient = torch.ops.aten.threshold_backward.default(torch.mm(gradient, layer.weight), below, 0)
    return gradient
