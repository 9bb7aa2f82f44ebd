"""The second network of Co-teaching: other initial parameters, the same batches, weights after its forward pass.

Each of two networks is weighted by the other's losses, so one of them must run forward before its own weights are
known. That is the peer: its weights enter when its gradient is computed, after the forward pass of the user's network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from law_lightning._compat import reset_of
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.samples import Samples
from law_lightning.second_network.second_network import SecondNetwork, StepRecord, copy_tensors, tensors
from law_lightning.utilities.randomness import replaying


class LateCapture(LossCapture):
    """A :class:`LossCapture` whose weights are given after the step, by :meth:`settle`, but before the gradient.

    The losses keep their unweighted values; their gradients are those of the weighted ones.
    """

    late = True

    def settle(self, weights: Sequence[Tensor | None]) -> None:
        """Give the weights [B], or None for ones, of each entry of ``samples``."""
        for each, given in zip(self._targets, weights, strict=True):
            each.weights = given


class Peer(SecondNetwork):
    """A second network with the optimizer, precision and strategy of the user's, from other initial parameters.

    Args:
        begin_with: a module whose parameters and buffers the copy begins with; None redraws its parameters.
        seed: of what is drawn.

    Attributes:
        samples: what the peer's forward pass of the present step revealed, an entry for each loss; none between steps.
        weights: to be set before the batch ends: for each entry of ``samples`` [B], or None for ones.
        check_labels: see :class:`LossCapture`.
    """

    def __init__(self, begin_with: L.LightningModule | None, seed: int) -> None:
        super().__init__()
        self._begin_with, self._seed = begin_with, seed
        self._end_step()

    def _end_step(self) -> None:
        self.samples: list[Samples] = []
        self.weights: list[Tensor | None] = []
        self._capture, self._output = LateCapture(), None

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Copy the user's module, with other initial parameters.

        Raises:
            MisconfigurationException: see :func:`redraw_parameters`; or the given module is not like the user's.
        """
        super().start(trainer, module)
        self.check_labels = True
        self._end_step()
        self.fork()
        self.before_module_hook("on_train_start")

    def _prepare(self, twin: L.LightningModule) -> None:
        if self._begin_with is None:
            redraw_parameters(twin, self._seed)
        else:
            self._check_given(self._begin_with)
            copy_tensors(tensors(self._begin_with), tensors(twin))

    def _check_given(self, given: L.LightningModule) -> None:
        mine, theirs = (
            {name: value.shape for name, value in (*each.named_parameters(), *each.named_buffers())}
            for each in (self._target, given)
        )
        if given is self._target:
            raise MisconfigurationException("peer is the module that is fitted; it must be a second one.")
        if type(given) is not type(self._target) or list(mine.items()) != list(theirs.items()):
            differing = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
            raise MisconfigurationException(
                f"peer must be a {type(self._target).__name__} like the one that is fitted, but it is a "
                f"{type(given).__name__}" + (f" that differs in {', '.join(differing[:5])}." if differing else ".")
            )

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the step forward, as the peer's losses are to weigh those of the user's network.

        It begins from the present random states and leaves them as they are. Thus both networks get the same batch even
        where ``training_step`` augments or mixes it at random.
        """
        if self._output is not None:
            raise MisconfigurationException(self.several_evaluations())
        super().before_step(args, kwargs)
        assert self._record is not None
        self._follow_target()
        self._capture = LateCapture(check_labels=self.check_labels)
        shared = getattr(self._trainer.strategy.model, "require_backward_grad_sync", True)
        with replaying(), self._sharing(shared):
            self._output = self._forward(self._record, self._capture)
        self.samples = self._capture.samples

    def several_evaluations(self) -> str:
        """The error for an optimizer that evaluates a batch several times."""
        return (
            f"The optimizer of {type(self._target).__name__}, {type(self.optimizer).__name__}, runs training_step "
            "several times in one step. In co-teaching two networks take turns in each batch: use an optimizer "
            "that runs it once (SGD, Adam, ...)."
        )

    def learn(self, record: StepRecord, batch_idx: int) -> dict[str, Any]:
        """Run backward what :meth:`before_step` ran forward, with ``weights``, and step if the user's network did."""
        self._capture.settle(self.weights)
        self.check_labels = False
        given: dict[str, Any] = {}

        def closure() -> Tensor | None:
            with torch.enable_grad():
                given.update(self._backward(self._output, batch_idx))
            return given.get("loss")

        with replaying():
            self._run(closure, record, batch_idx)
        self._end_step()
        return given

    def close(self) -> None:
        """Take the peer off the accelerator and the Trainer; a plain module remains."""
        super().close()
        self._end_step()


def redraw_parameters(module: nn.Module, seed: int) -> None:
    """Redraw the parameters of a network, by the ``reset_parameters`` of each submodule that has some.

    Submodules whose own parameters are all frozen stay as they are. The global random states are not touched.

    Raises:
        MisconfigurationException: a submodule has parameters but no ``reset_parameters``.
    """
    parts = {
        name or "the module itself": part
        for name, part in module.named_modules()
        if any(parameter.requires_grad for parameter in part.parameters(recurse=False))
    }
    resets = {name: reset_of(part) for name, part in parts.items()}
    if lacking := [name for name, reset in resets.items() if reset is None]:
        raise MisconfigurationException(
            f"Co-teaching needs a second {type(module).__name__} with other initial parameters, but these parts have "
            f"parameters and no reset_parameters() to redraw them: {', '.join(lacking)}. Give them one, or pass "
            f"a second module: CoTeachingCallback(..., peer={type(module).__name__}(...))."
        )
    with replaying(), torch.no_grad():
        torch.manual_seed(seed)
        for reset in reversed(resets.values()):  # a module after its submodules, as in a constructor
            reset()  # type: ignore[misc]
