"""What a step reveals where its parameters carry tangents (forward-mode differentiation) instead of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.autograd.forward_ad as fw
import torch.nn.functional as F
from torch import Tensor

from law_lightning._compat import in_transform
from law_lightning.capture.loss_capture import LossCapture, Weigh
from law_lightning.second_network.layers import LINEAR_LAYERS, LayerOutputs


class TangentCapture(LossCapture):
    """Captures the losses that the step would train on, and takes shorter ways through layers.

    Args:
        weigh: see :class:`LossCapture`; called with the samples with their tangents.
        layers: what linear layers gave in the same step before.
    """

    def __init__(self, weigh: Weigh, layers: LayerOutputs) -> None:
        super().__init__(weigh, attached=True)
        self._layers = layers

    def needs_gradient(self, logits: Tensor) -> bool:
        """Whether a loss of these logits may be one that the module trains on."""
        return torch.is_grad_enabled() and (logits.requires_grad or _tangent(logits) is not None)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if in_transform():
            return super().__torch_function__(func, types, args, kwargs)
        if func is F.batch_norm:
            return batch_norm(*args, **(kwargs or {}))
        if func in LINEAR_LAYERS and not kwargs:
            return linear(func, self._layers, *args)
        return super().__torch_function__(func, types, args, kwargs)


def batch_norm(
    input: Tensor,  # noqa: A002 - torch's own name, callers may pass it by keyword
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r"""``F.batch_norm`` of dual numbers in three passes over the batch, where torch's own derivative takes many.

    With :math:`\hat x = (x - \mu) / \sigma` the tangent of :math:`y = \gamma \hat x + \beta` is

    .. math:: \dot y = \dot\gamma \hat x + \dot\beta + J \dot x, \qquad
        J \dot x = \frac{\gamma}{\sigma} \left( \dot x - \overline{\dot x} - \hat x \, \overline{\hat x \dot x} \right)

    where bars are means over the batch. J is symmetric, so :math:`J \dot x` is what torch's fused backward pass returns
    for the gradient :math:`\dot x`.
    """
    tangents = [None if each is None else _tangent(each) for each in (input, weight, bias)]
    if not training or input.requires_grad or all(tangent is None for tangent in tangents):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x, scale, shift = (None if each is None else fw.unpack_dual(each).primal for each in (input, weight, bias))
    along_x, along_scale, along_shift = tangents
    assert x is not None
    y, mean, rate = torch.native_batch_norm(x, scale, shift, running_mean, running_var, True, momentum, eps)
    parts = []
    if along_scale is not None or along_shift is not None:
        if along_scale is None:
            along_scale = torch.zeros_like(mean)
        parts.append(F.batch_norm(x, mean, rate.pow(-2) - eps, along_scale, along_shift, False, 0.0, eps))
    if along_x is not None:
        backward = torch.ops.aten.native_batch_norm_backward
        statistics = (running_mean, running_var, mean, rate)
        parts.append(backward(along_x, x, scale, *statistics, True, eps, (True, False, False))[0])
    dual: Tensor = fw.make_dual(y, parts[0] if len(parts) == 1 else parts[0].add_(parts[1]))
    return dual


def linear(
    layer: Callable[..., Tensor],
    known: LayerOutputs,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *options: Any,
) -> Tensor:
    r"""A linear layer of dual numbers, whose output may be known from another pass over the same step.

    .. math:: y = W x + b, \qquad \dot y = W \dot x + \dot W x + \dot b

    Args:
        layer: one of :data:`LINEAR_LAYERS`.
        known: what such layers gave before.
        x: [B, ...].
        weight: W.
        bias: b.
        options: further arguments of the layer.
    """
    along_x, along_weight, along_bias = (None if each is None else _tangent(each) for each in (x, weight, bias))
    if x.requires_grad or weight.requires_grad or (along_x is None and along_weight is None):
        return layer(x, weight, bias, *options)
    x, weight = fw.unpack_dual(x).primal, fw.unpack_dual(weight).primal
    bias = None if bias is None else fw.unpack_dual(bias).primal
    y = known.take(layer, x, weight, bias, options)
    if y is None:
        y = layer(x, weight, bias, *options)
    if along_weight is None and along_bias is not None:
        along_weight = torch.zeros_like(weight)
    tangent = None if along_weight is None else layer(x, along_weight, along_bias, *options)
    if along_x is not None:
        through = layer(along_x, weight, None, *options)
        tangent = through if tangent is None else tangent.add_(through)
    dual: Tensor = fw.make_dual(y, tangent)
    return dual


def _tangent(tensor: Tensor) -> Tensor | None:
    tangent: Tensor | None = fw.unpack_dual(tensor).tangent
    return tangent
