"""Many parameters in one flat tensor, so that an optimizer, an average or a copy is a single operation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Torch starts its tensors at multiples of 64 bytes. A view that does likewise is computed with bit by bit as a tensor
# of its own is: how a matrix product is cut up depends on where its matrices lie.
_ALIGNMENT = 16  # float32 numbers


class Flat:
    """Parameters as views of one tensor.

    The parameters stay who they are (their names, their owners, what others keep of them); only where their numbers
    lie changes. The gaps between them are zero and stay zero, in the gradient as well.

    Args:
        parameters: of one device, in float32.

    Attributes:
        values: the flat tensor, [n].
        gradient: room for its gradient, [n].
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self._starts: dict[int, int] = {}
        size = 0
        for parameter in self.parameters:
            self._starts[id(parameter)] = size
            size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        self.values = torch.zeros(size, device=self.parameters[0].device)
        self.gradient = torch.zeros_like(self.values)
        for parameter in self.parameters:
            parameter.data = self.part(self.values, parameter).copy_(parameter.detach())

    def start(self, parameter: nn.Parameter) -> int:
        """Where a parameter's numbers begin."""
        return self._starts[id(parameter)]

    def part(self, flat: Tensor, parameter: nn.Parameter, begin: int = 0) -> Tensor:
        """The view of a parameter's share in a tensor that is laid out as :attr:`values` is from ``begin`` on."""
        start = self.start(parameter) - begin
        return flat[start : start + parameter.numel()].view(parameter.shape)

    def holds(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether these are the parameters, and still views: moving or replacing one undoes that."""
        parameters, begin = list(parameters), self.values.data_ptr()
        return len(parameters) == len(self.parameters) and all(
            mine is theirs and theirs.data_ptr() == begin + 4 * self._starts[id(mine)]
            for mine, theirs in zip(self.parameters, parameters, strict=True)
        )
