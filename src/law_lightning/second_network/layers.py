"""What the linear layers of a step gave: a second pass over the same step need not compute it again."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from law_lightning._compat import in_transform
from law_lightning.capture.loss_capture import LossCapture

#: Linear in the input and in the weight, and most of what a network costs. All take (input, weight, bias, ...).
LINEAR_LAYERS = frozenset({F.linear, F.conv1d, F.conv2d, F.conv3d})


class _Seen:
    """A tensor as it was; it is not kept alive, so a network's memory does not grow."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)
        self._version = tensor._version

    def get(self) -> Tensor | None:
        """The tensor, if it still exists and was not written to since."""
        tensor = self._tensor()
        return tensor if tensor is not None and tensor._version == self._version else None


@dataclass(frozen=True)
class _Call:
    input: _Seen
    weight: _Seen
    bias: _Seen | None
    options: tuple[Any, ...]  # and the precision it was called in
    output: _Seen


class LayerOutputs:
    """The calls of linear layers in one step, by their weights.

    Held are those tensors only that the step's graph holds as well. An output is given again where input, weight and
    bias are the same bit for bit, so nothing depends on it but time. On the CPU alone: to compare, the step would wait
    for another device at every layer.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[Any, int], deque[_Call]] = {}

    def note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        """Remember a call, if its layer's weight is a parameter and the output is one to be differentiated."""
        if output.device.type != "cpu" or not output.requires_grad:
            return
        if kwargs or len(args) < 2 or not isinstance(args[1], nn.Parameter):
            return
        (x, weight), bias = args[:2], args[2] if len(args) > 2 else None
        seen = None if bias is None else _Seen(bias)
        call = _Call(_Seen(x), _Seen(weight), seen, (*args[3:], *_precision(x)), _Seen(output))
        self._calls.setdefault((func, weight.data_ptr()), deque()).append(call)

    def take(
        self, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]
    ) -> Tensor | None:
        """A copy of the output of the next call with this weight; None if it was another, or is gone."""
        calls = self._calls.get((func, weight.data_ptr()))
        if not calls:
            return None
        call = calls[0]
        output, before = call.output.get(), call.input.get()
        if output is None or before is None:
            calls.popleft()
            return None
        if call.options != (*options, *_precision(x)) or not _is(call.weight, weight):
            return None
        if (call.bias is None) != (bias is None) or not (call.bias is None or bias is None or _is(call.bias, bias)):
            return None
        if not _same_bits(before, x):
            return None
        calls.popleft()
        return output.detach().clone()  # what follows may write to it, and the step's own must stay


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.detach(), b.detach()
    if all(map(_in_eights, (a, b))):  # eight bytes at once take half the time
        a, b = a.flatten().view(torch.int64), b.flatten().view(torch.int64)
    return torch.equal(a, b)


def _is(seen: _Seen, tensor: Tensor) -> bool:
    """Whether a tensor is a view of what was seen, number by number."""
    before = seen.get()
    return (
        before is not None
        and before.data_ptr() == tensor.data_ptr()
        and before.shape == tensor.shape
        and before.stride() == tensor.stride()
    )


def _precision(x: Tensor) -> tuple[bool, torch.dtype]:
    kind = x.device.type
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def _in_eights(tensor: Tensor) -> bool:
    begin = tensor.storage_offset() * tensor.element_size()
    return bool(tensor.is_contiguous() and tensor.nbytes % 8 == 0 and begin % 8 == 0)


class LayerCapture(LossCapture):
    """A :class:`LossCapture` that remembers what the linear layers gave.

    Attributes:
        layers: the calls so far.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.layers = LayerOutputs()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in LINEAR_LAYERS or in_transform():
            return super().__torch_function__(func, types, args, kwargs)
        output = func(*args, **(kwargs or {}))
        self.layers.note(func, args, kwargs or {}, output)
        return output
