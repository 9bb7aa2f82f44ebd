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


def narrow_product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product a b by way of (b^T a^T)^T, which CPUs are far quicker at where b is narrow.

    Args:
        a: [N, K].
        b: [K, M], with M much smaller than N.

    Returns:
        [N, M].
    """
    return torch.mm(b.t(), a.t()).t()


class Perceptron:
    r"""Linear layers with ReLU between them.

    .. math:: h_0 = x, \quad h_l = \max(0, h_{l-1} W_l^T + b_l), \quad y = h_{L-1} W_L^T + b_L

    What it computes lies in memory of its own that the next call writes to again: at a few hundred rows, asking for
    new memory would take as long as computing. Inputs and outputs are taken to be narrow (:func:`narrow_product`).

    Args:
        layers: L of them, at least one.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)
        self._rows = self._capacity = 0
        # For h_1 to h_{L-1}, [capacity, width]; for their gradients, one where widths agree; for y, [out, capacity].
        self._room: tuple[list[Tensor], list[Tensor], Tensor] = ([], [], torch.empty(0))
        self._views = self._room  # the first rows of it
        self._inputs = torch.empty(0)

    def forward(self, inputs: Tensor) -> Tensor:
        """The output y.

        Args:
            inputs: x, [N, in]; for :meth:`backward` it must stay as it is.

        Returns:
            y, [N, out].
        """
        self._make_room(len(inputs))
        self._inputs = below = inputs
        hidden, _, outputs = self._views
        for layer, output in zip(self.layers, hidden, strict=False):
            below = torch.addmm(layer.bias, below, layer.weight_t, out=output).relu_()
        last = self.layers[-1]
        return torch.addmm(last.bias.unsqueeze(1), last.weight, below.t(), out=outputs).t()

    def backward(self, gradient: Tensor, *, learn: bool) -> Tensor:
        r"""The gradients of a loss J from its gradient for the output; what :meth:`forward` kept is lost.

        .. math:: \delta_L = \partial J / \partial y, \quad \delta_{l-1} = (\delta_l W_l) \odot [h_{l-1} > 0], \quad
            \partial J / \partial W_l = \delta_l^T h_{l-1}, \quad \partial J / \partial b_l = \sum_i \delta_{l,i}

        Args:
            gradient: :math:`\delta_L`, [N, out].
            learn: overwrite the gradients of weights and biases.

        Returns:
            :math:`\delta_1`, [N, width]: times the first layer's weights it is the gradient for x.
        """
        hidden, scratch, _ = self._views
        for index in range(len(hidden), 0, -1):
            layer, below, room = self.layers[index], hidden[index - 1], scratch[index - 1]
            if learn:
                torch.mm(gradient.t(), below, out=layer.weight_gradient)
                torch.sum(gradient, 0, out=layer.bias_gradient)
            torch.mm(gradient, layer.weight, out=room)
            # ReLU's gradient in one operation, written over h_{l-1}, of which only the sign is still needed.
            gradient = torch.ops.aten.threshold_backward.grad_input(room, below, 0, grad_input=below)
        if learn:
            first = self.layers[0]
            first.weight_gradient.copy_(narrow_product(gradient.t(), self._inputs))
            torch.sum(gradient, 0, out=first.bias_gradient)
        return gradient

    def _make_room(self, rows: int) -> None:
        if rows == self._rows:
            return
        if rows > self._capacity:
            self._capacity = rows
            *widths, out = (len(layer.bias) for layer in self.layers)
            new = self.layers[0].weight.new_empty
            shared = {width: new(rows, width) for width in widths}
            self._room = [new(rows, width) for width in widths], [shared[width] for width in widths], new(out, rows)
        self._rows = rows
        hidden, scratch, outputs = self._room
        self._views = [part[:rows] for part in hidden], [part[:rows] for part in scratch], outputs[:, :rows]
