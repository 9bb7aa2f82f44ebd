"""A copy of the user's module that shares its parameters: it says what a step would give, and takes none.

For methods that need more of a step than its losses: the gradient at these or at other parameters, and how much each
sample's loss changes along a direction.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import lightning as L
import torch
import torch.autograd.forward_ad as fw
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from law_lightning._compat import function_of_node
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.samples import Samples
from law_lightning.second_network.duplicate import duplicate, refresh
from law_lightning.second_network.layers import LayerOutputs
from law_lightning.second_network.step import StepRecord
from law_lightning.second_network.tangents import TangentCapture
from law_lightning.utilities.randomness import replaying

Mode = Literal["forward", "double_backward"]


class _Step(nn.Module):
    """``training_step`` as a forward pass, which ``torch.func.functional_call`` can give other parameters."""

    def __init__(self, module: L.LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.training_step(*args, **kwargs)


class Probe:
    """Runs ``training_step`` beside a training. Nothing of it is touched: random states, buffers, gradients, logs.

    Args:
        trainer: the Trainer, in the course of a fit.
        module: the user's module.
        mode: how :meth:`products` differentiates: ``"forward"`` (a pass with dual numbers), or
            ``"double_backward"`` for networks with operators that have no forward-mode derivative.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule, mode: Mode = "forward") -> None:
        self._trainer = trainer
        self._module = module
        self.mode = mode
        self.renew()

    def renew(self) -> None:
        """Copy the module anew: what its hooks and steps keep on it is then known, and what the copy kept is gone."""
        self._twin = duplicate(self._trainer, self._module)
        self._step = _Step(self._twin)

    def parameters(self) -> list[nn.Parameter]:
        """The module's parameters that are trained."""
        return [parameter for parameter in self._module.parameters() if parameter.requires_grad]

    def gradient(self, step: StepRecord, at: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The gradient of a step's own loss.

        Args:
            step: its arguments, and the random states to run it from.
            at: parameters to take it at, as :meth:`parameters`; by default the module's.

        Returns:
            A tensor for each parameter; zeros for one that the loss does not depend on.
        """
        step = step.copy()
        with self._running(step, at), torch.enable_grad(), LossCapture() as capture:
            output = capture.take_output(self._twin.training_step(*step.args, **step.kwargs))
            loss = output["loss"] if isinstance(output, Mapping) else output
            parameters = [parameter for parameter in self._twin.parameters() if parameter.requires_grad]
            if loss is None:
                return [torch.zeros_like(parameter) for parameter in parameters]
            return self.gradient_of(loss, parameters)

    def gradient_of(self, loss: Tensor, parameters: Sequence[Tensor], retain_graph: bool = False) -> list[Tensor]:
        """The gradient of a loss, scaled on its way through the network as the Trainer does it in float16.

        Args:
            loss: a scalar.
            parameters: to differentiate by.
            retain_graph: the loss's graph is needed once more.

        Returns:
            A tensor for each parameter; zeros for one that the loss does not depend on.

        Raises:
            MisconfigurationException: the graph is needed once more, but the network was compiled to be rid of it.
        """
        scaler = self._scaler
        if scaler is not None:
            loss = loss * scaler.get_scale()
        try:
            found = torch.autograd.grad(loss, list(parameters), retain_graph=retain_graph, allow_unused=True)
        except RuntimeError as error:
            if "donated buffer" not in str(error):
                raise
            raise MisconfigurationException(
                f"The network of {type(self._module).__name__} is compiled to free what its backward pass needs after "
                "one gradient, but two are taken here: set torch._functorch.config.donated_buffer = False before the "
                "network runs for the first time."
            ) from error
        pairs = zip(found, parameters, strict=True)
        gradients = [torch.zeros_like(parameter) if each is None else each for each, parameter in pairs]
        return gradients if scaler is None else [gradient / scaler.get_scale() for gradient in gradients]

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        scaler: torch.amp.GradScaler | None = getattr(self._trainer.precision_plugin, "scaler", None)
        return scaler

    def shared(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over all processes of the Trainer."""
        if self._trainer.world_size == 1:
            return list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        flat = self._trainer.strategy.reduce(flat, reduce_op="mean")
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def products(
        self, step: StepRecord, direction: Sequence[Tensor], layers: LayerOutputs | None = None
    ) -> list[Tensor]:
        r"""How much each sample's loss changes along a direction: its gradient's inner product with the direction.

        .. math:: p_i = \langle \nabla_w L_i(w), d \rangle

        All samples' products are one directional derivative of the losses, so no sample needs a gradient of its own.

        Args:
            step: as for :meth:`gradient`; run from the same random states as the training's step, it has the same
                dropout.
            direction: d, a tensor for each parameter.
            layers: what the layers gave when the training took this step, if it has.

        Returns:
            For each loss that the step calls with a target of its own: p, [B].

        Raises:
            MisconfigurationException: an operator of the network cannot be differentiated in this way.
        """
        step = step.copy()
        if self._scaler is not None:  # in float16 a small direction would vanish on its way
            length = torch.stack([each.abs().max() for each in direction]).max().clamp_min(torch.finfo().tiny)
            direction = [each / length for each in direction]
        try:
            with self._running(step, None):
                if self.mode == "forward":
                    found = self._forward(step, direction, layers or LayerOutputs())
                else:
                    found = self._backward(step, direction)
            return found if self._scaler is None else [each.float() * length for each in found]
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_unsupported(error):
                raise
            raise MisconfigurationException(_unsupported(type(self._module).__name__, self.mode, error)) from error

    def _forward(self, step: StepRecord, direction: Sequence[Tensor], layers: LayerOutputs) -> list[Tensor]:
        # The parameters need no gradient here, so there is no graph, which would cost a third of a step. Yet gradients
        # are enabled, so that a loss that the step computes without one is seen to be such.
        with torch.enable_grad(), fw.dual_level():
            tangents = iter(direction)
            duals = {
                f"module.{name}": fw.make_dual(parameter.detach(), next(tangents).to(parameter.dtype))
                for name, parameter in self._twin.named_parameters()
                if parameter.requires_grad
            }
            found: list[Tensor] = []

            def note(samples: Samples) -> None:
                tangent = fw.unpack_dual(samples.loss).tangent
                found.append(torch.zeros_like(samples.loss) if tangent is None else tangent.detach().clone())

            with TangentCapture(note, layers) as capture:
                capture.take_output(torch.func.functional_call(self._step, duals, step.args, step.kwargs))
        return found

    def _backward(self, step: StepRecord, direction: Sequence[Tensor]) -> list[Tensor]:
        losses: list[Tensor] = []
        with torch.enable_grad(), LossCapture(lambda samples: losses.append(samples.loss), attached=True) as capture:
            capture.take_output(self._twin.training_step(*step.args, **step.kwargs))
            parameters = [parameter for parameter in self._twin.parameters() if parameter.requires_grad]
            found = []
            for loss in losses:
                # The gradient is linear in u, the weights of the samples: its derivative by them does not depend on u.
                u = torch.ones_like(loss, requires_grad=True)
                gradient = torch.autograd.grad(loss, parameters, u, create_graph=True, allow_unused=True)
                terms = [(g * d).sum() for g, d in zip(gradient, direction, strict=True) if g is not None]
                (product,) = torch.autograd.grad(torch.stack(terms).sum(), u, retain_graph=True)
                found.append(product)
        return found

    @contextmanager
    def _running(self, step: StepRecord, at: Sequence[Tensor] | None) -> Iterator[None]:
        """The copy as the module is now, at its parameters or at others."""
        mine, theirs = _tensors(self._module), _tensors(self._twin)
        if _shapes(mine) != _shapes(theirs):  # a hook has added something to the module
            self.renew()
            theirs = _tensors(self._twin)
        refresh(self._twin, self._module)
        others = None if at is None else iter(at)
        with torch.no_grad():
            for own, copied in zip(mine.values(), theirs.values(), strict=True):
                if isinstance(own, nn.Parameter):  # shared, not copied
                    copied.requires_grad_(own.requires_grad)
                    copied.data = own.data if others is None or not own.requires_grad else next(others)
                else:
                    copied.copy_(own)
        eager = torch.compiler.set_stance("force_eager")  # compiled code knows of no duals
        with replaying(step.random), self._trainer.precision_plugin.train_step_context(), eager:
            yield


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """All that a copy is given values of, by name."""
    return dict(itertools.chain(module.named_parameters(), module.named_buffers()))


def _shapes(tensors: dict[str, Tensor]) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in tensors.items()]


def _is_unsupported(error: RuntimeError) -> bool:
    text = str(error)
    words = ("forward AD", "forward mode", "not implemented", "double backward", "donated buffers", "require grad")
    return any(each in text for each in words)


def _unsupported(name: str, mode: Mode, error: Exception) -> str:
    first, function = str(error).split("\n")[0], _function_of(error)
    where = f" (in {function})" if function else ""
    if mode == "forward":
        return (
            f"The training_step of {name} uses an operator that torch cannot differentiate in forward mode{where}: "
            f"{first} Use products='double_backward', which needs no forward mode, or another operator (for attention, "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH))."
        )
    return (
        f"The training_step of {name} uses an operator that torch cannot differentiate twice{where}: {first} "
        "Use another operator, or products='forward' if it has a forward-mode derivative."
    )


def _function_of(error: Exception) -> str:
    """The autograd.Function of the user's that raised, which torch's message does not name."""
    place, found = error.__traceback__, ""
    while place is not None:
        node = place.tb_frame.f_locals.get("self")  # its node in the graph knows it
        found = function_of_node(node) or found
        place = place.tb_next
    return found
