"""A copy of the user's module that shares its parameters, computes gradients beside a training and takes no step.

For methods that need more of a step than its losses: the gradient at the module's or at other parameters, and how much
each sample's loss changes along a direction.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import lightning as L
import torch
import torch.autograd.forward_ad as fw
from torch import Tensor, nn

from law_lightning._compat import switch_tangents
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.second_network.duplicate import LOG_METHODS, detach_into, duplicate
from law_lightning.second_network.second_network import StepRecord
from law_lightning.utilities.randomness import replaying

Products = Literal["forward", "double_backward"]

_MODULES_OWN = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class SharedCopy:
    """Runs ``training_step`` on a copy. The training is left as it is: random states, buffers, gradients, logs.

    At each run it has the module's parameters, and copies of its present buffers and plain attributes; objects of a
    user's own classes are copied when the copy is made.

    Args:
        trainer: the Trainer, in the course of a fit.
        module: the user's module.
        products: how :meth:`products` differentiates, ``"forward"`` (with dual numbers) or ``"double_backward"``.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule, products: Products = "forward") -> None:
        self._trainer = trainer
        self._module = module
        self._mode = products
        self._scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
        self.renew()

    def renew(self) -> None:
        """Make a new copy of the module, with the objects that it holds now."""
        self._twin = duplicate(self._trainer, self._module)

    def parameters(self) -> list[nn.Parameter]:
        """The module's parameters that are trained."""
        return _trained(self._module)

    def gradient(self, step: StepRecord, at: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The gradient of a step's own loss.

        Args:
            step: its arguments, and the random states to run it from.
            at: parameters to take it at, as :meth:`parameters`; by default the module's.

        Returns:
            A tensor for each parameter; zeros for one that the loss does not depend on.
        """
        with self._running(step, self.parameters() if at is None else at):
            output = self._training_step(step)
            loss = output["loss"] if isinstance(output, Mapping) else output
            parameters = _trained(self._twin)
            if loss is None:
                return [torch.zeros_like(parameter) for parameter in parameters]
            return self.gradient_of(loss, parameters)

    def gradient_of(self, loss: Tensor, parameters: Sequence[Tensor], retain_graph: bool = False) -> list[Tensor]:
        """The gradient of a scalar loss by each parameter, zeros where it does not depend on one.

        It is scaled on its way through the network as the Trainer does it in float16.
        """
        scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        gradients = torch.autograd.grad(
            loss * scale, list(parameters), retain_graph=retain_graph, allow_unused=True, materialize_grads=True
        )
        return list(gradients) if scale == 1 else [gradient / scale for gradient in gradients]

    def products(self, step: StepRecord, direction: Sequence[Tensor], check: bool = False) -> list[Tensor]:
        r"""How much each sample's loss changes along a direction: its gradient's inner product with the direction.

        .. math:: p_i = \langle \nabla_w L_i(w), d \rangle

        All samples' products are one directional derivative of the losses, so no sample needs a gradient of its own.

        Args:
            step: as for :meth:`gradient`; run from the same random states as the training's step, it has the same
                dropout.
            direction: d, a tensor for each parameter.
            check: see :func:`inner_products`; for a direction near the gradient, where rounding errors are small.

        Returns:
            For each loss that the step calls with a target of its own: p, [B].
        """
        length: Tensor | float = 1.0
        if self._scaler is not None:  # in float16 a small direction would underflow
            length = torch.nn.utils.get_total_norm(direction, torch.inf).clamp_min(torch.finfo(torch.float32).tiny)
            direction = [each / length for each in direction]
        forward = self._mode == "forward"
        found = self._forward(step, direction) if forward else self._double_backward(step, direction, check)
        return [each.float() * length for each in found]

    def _forward(self, step: StepRecord, direction: Sequence[Tensor]) -> list[Tensor]:
        def tangent_of(loss: Tensor) -> Tensor:
            tangent = fw.unpack_dual(loss).tangent
            return torch.zeros_like(loss) if tangent is None else tangent.detach().clone()

        with fw.dual_level():
            duals = [fw.make_dual(p.detach(), d.to(p.dtype)) for p, d in zip(self.parameters(), direction, strict=True)]
            with self._running(step, duals, graph=False):
                with _TangentCapture(attached=True) as capture:
                    capture.take_output(self._training_step(step))
                return [tangent_of(samples.loss) for samples in capture.samples]

    def _double_backward(self, step: StepRecord, direction: Sequence[Tensor], check: bool) -> list[Tensor]:
        with self._running(step, self.parameters()):
            with LossCapture(attached=True) as capture:
                capture.take_output(self._training_step(step))
            trained = _trained(self._twin)
            return [inner_products(samples.loss, trained, direction, check) for samples in capture.samples]

    def _training_step(self, step: StepRecord) -> Any:
        step = step.copy()
        return self._twin.training_step(*step.args, **step.kwargs)

    @contextmanager
    def _running(self, step: StepRecord, parameters: Iterable[Tensor], graph: bool = True) -> Iterator[None]:
        """The copy as the module is now, with these values of the parameters that are trained, or dual numbers.

        Without ``graph`` the copy's parameters need no gradient: it would cost a third of a pass with duals.
        """
        mine, theirs = _tensors(self._module), _tensors(self._twin)
        if [(name, each.shape) for name, each in mine.items()] != [(name, each.shape) for name, each in theirs.items()]:
            self.renew()  # a hook has added something to the module
            theirs = _tensors(self._twin)
        _follow(self._twin, self._module)
        values = iter(parameters)
        with torch.no_grad():
            for name, own in mine.items():
                trains = isinstance(own, nn.Parameter) and own.requires_grad
                copied, value = theirs[name], next(values) if trains else own
                if isinstance(own, nn.Parameter):
                    copied.requires_grad_(graph and trains).data = value
                copied.copy_(value)  # where the memory is shared, this copies a tangent alone
        # Compiled code does not support dual numbers. Gradients are enabled, so that a loss that the step itself
        # computes without one can be told apart.
        eager = torch.compiler.set_stance("force_eager")
        with replaying(step.random), self._trainer.precision_plugin.train_step_context(), eager, torch.enable_grad():
            yield


class _TangentCapture(LossCapture):
    """Captures losses that have a tangent instead of a graph."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        switch_tangents(func, args)
        return super().__torch_function__(func, types, args, kwargs)

    def needs_gradient(self, logits: Tensor) -> bool:
        return torch.is_grad_enabled() and (logits.requires_grad or fw.unpack_dual(logits).tangent is not None)


def inner_products(
    losses: Tensor, parameters: Sequence[Tensor], direction: Sequence[Tensor], check: bool = False
) -> Tensor:
    r"""The losses' derivative along a direction, by reverse mode twice.

    .. math:: p = \nabla_u \langle \nabla_w \sum_i u_i L_i(w), d \rangle

    The inner gradient is linear in the samples' weights u, so its derivative by them does not depend on u.

    Args:
        losses: L with their graph, [B].
        parameters: w.
        direction: d, a tensor for each parameter.
        check: compare the products' sum with the inner gradient's product, which it equals for u = 1. An operator that
            cannot be differentiated twice may cut the graph without an error.

    Returns:
        p, [B].

    Raises:
        RuntimeError: the two differ.
    """
    u = torch.ones_like(losses, requires_grad=True)
    gradient = torch.autograd.grad(losses, parameters, u, create_graph=True, materialize_grads=True)
    total = torch.stack([(g * d).sum() for g, d in zip(gradient, direction, strict=True)]).sum()
    (found,) = torch.autograd.grad(total, u, retain_graph=True, allow_unused=True, materialize_grads=True)
    if check and (found.sum() - total).abs() > 0.1 * (found.abs().sum() + total.abs()):
        raise RuntimeError("an operator's derivative cannot be differentiated, as with once_differentiable")
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _follow(twin: L.LightningModule, module: L.LightningModule) -> None:
    """Give a copy the attributes that the module has by now: modes, numbers, tensors, and containers of such.

    Steps and hooks may keep them: a temperature, a running prior, a list of losses. Objects of a user's own classes
    stay as they were when the copy was made.
    """
    memo: dict[int, Any] = {}
    for own, copied in zip(module.modules(), twin.modules(), strict=True):
        mine, theirs = vars(own), vars(copied)
        for name, value in mine.items():
            # First, as it holds for most attributes: a copy of an immutable object is the object itself.
            if theirs.get(name, theirs) is not value and name not in _MODULES_OWN and _is_plain(value):
                detach_into(memo, value)
                theirs[name] = copy.deepcopy(value, memo)
        for name in theirs.keys() - mine.keys() - set(LOG_METHODS):
            del theirs[name]  # the copy's own step set it


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple, set, dict):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return isinstance(value, _PLAIN) or (isinstance(value, Tensor) and not isinstance(value, nn.Parameter))
