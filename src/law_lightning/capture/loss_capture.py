r"""Per-sample losses from any ``training_step``.

A :class:`~torch.overrides.TorchFunctionMode` intercepts torch's classification losses with a mean reduction, computes
them once more without the reduction, and returns the weighted mean (Equation 7)

.. math:: \frac{1}{n} \sum_i K_i L_i = \bar L + \frac{1}{n} \sum_i (K_i - 1) L_i

In this form weights of one give the plain loss's gradient bit for bit, whatever the reduction divides by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.overrides import TorchFunctionMode

from law_lightning._compat import is_transformed
from law_lightning.capture.losses import ARGUMENTS, TAKE_APART, check_target
from law_lightning.capture.samples import Samples

Weigh = Callable[[Samples], "Tensor | None"]

TWO_WAYS = (
    "A module takes part in one of two ways: (1) its training_step calls torch.nn.functional.cross_entropy, nll_loss "
    "or binary_cross_entropy_with_logits (or their torch.nn modules) with reduction='mean'; (2) its training_step "
    "returns a dict with 'loss' (a scalar) and, per sample, 'losses' [B], 'logits' [B, C] and 'target' [B]."
)


class LossCapture(TorchFunctionMode):
    """Intercepts every classification loss called within it and, where weights are given, weights it.

    Several losses in one step: a further loss on the same target tensor (an auxiliary head) shares the weights of
    the first; a loss on another target (mixup's second) is weighted by its own samples. Losses with another
    reduction, losses of logits that need no gradient and those within ``torch.vmap`` and the like are left alone.

    Args:
        weigh: gives the weights [B] of samples, or None to leave a loss as it is; by default all are left.
        training: leave alone losses whose logits need no gradient.
        attached: give ``weigh`` the samples with their graph, so that gradients may flow through the weights.
        check_labels: check beforehand for labels out of range, which a GPU does not name. It waits for the device, so
            it is for a first batch only.
        on_use: called with the gradient of a loss once it is part of a backward pass.

    Attributes:
        samples: one entry for each target seen, in order.
    """

    def __init__(
        self,
        weigh: Weigh | None = None,
        training: bool = True,
        attached: bool = False,
        check_labels: bool = False,
        on_use: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._weigh, self._training, self._attached = weigh, training, attached
        self._check_labels, self._on_use = check_labels, on_use
        self._targets: list[Tensor] = []  # referenced, so that no other tensor gets their addresses
        self._weights: list[Tensor | None] = []
        self.samples: list[Samples] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        take_apart = TAKE_APART.get(func)
        if take_apart is None:  # most calls
            return func(*args, **kwargs) if kwargs else func(*args)
        given = dict(zip(ARGUMENTS[func], args, strict=False)) | dict(kwargs or {})
        averaged = given.get("reduction", "mean") == "mean"
        old_style = given.get("size_average") is not None or given.get("reduce") is not None
        if not averaged or old_style or (self._training and not self.needs_gradient(given["input"])):
            return func(**given)
        target = given["target"]
        if is_transformed(given["input"]) or is_transformed(target):
            return func(**given)
        labels = (given["input"], target, given.get("ignore_index", -100))
        if self._check_labels:
            check_target(*labels)
        try:
            plain = func(**given)
        except IndexError:
            check_target(*labels)
            raise
        loss = take_apart(func, given)
        position = next((i for i, seen in enumerate(self._targets) if _same(seen, target)), len(self._targets))
        if position == len(self._targets):
            self._targets.append(target)
            self._add(loss.samples)
        return self._weighted(plain, position, loss.elements, loss.denominator)

    def needs_gradient(self, logits: Tensor) -> bool:
        """Whether a loss of these logits may be one that the module trains on."""
        return torch.is_grad_enabled() and logits.requires_grad

    def take_output(self, output: Any) -> Any:
        """The output of a step, with its ``loss`` weighted if it is the dict of the second way.

        A step that called a captured loss is weighted by that alone.

        Raises:
            MisconfigurationException: the dict's entries do not fit together.
        """
        if self.samples or not isinstance(output, Mapping) or "losses" not in output:
            return output
        losses, samples = explicit_samples(output)
        if self._check_labels:
            check_target(samples.logits, output["target"])
        self._add(samples)
        loss = self._weighted(output["loss"], 0, losses, len(losses))
        return output if loss is output["loss"] else {**output, "loss": loss}

    def _add(self, samples: Samples) -> None:
        """Record the samples of another target, and their weights."""
        detached = samples.detach()
        self.samples.append(detached)
        given = samples if self._attached else detached
        self._weights.append(None if self._weigh is None else self._weigh(given))

    def _weighted(self, plain: Tensor, position: int, elements: Tensor, denominator: Tensor | int) -> Tensor:
        """``plain``, the mean of the losses L [B, ...], with the weights of ``samples[position]`` (Equation 7)."""
        if self._on_use is not None and plain.requires_grad:
            plain.register_hook(self._on_use)
        weights = self._weights[position]
        if weights is None:
            return plain
        return plain + (excess_weights(weights, denominator, elements.ndim) * elements).sum()


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two targets are the same: a view of the same memory is, an equal copy is not."""
    return a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.stride() == b.stride())


def excess_weights(weights: Tensor, denominator: Tensor | int, ndim: int) -> Tensor:
    """(K - 1) / denominator, [B, 1, ...] of ``ndim`` dimensions."""
    return ((weights - 1.0) / denominator).reshape(-1, *[1] * (ndim - 1))


def explicit_samples(output: Mapping[str, Any]) -> tuple[Tensor, Samples]:
    """The losses [B], with their graph, and the samples of a step's dict; an error names what is wrong with it."""
    missing = [key for key in ("loss", "losses", "logits", "target") if not isinstance(output.get(key), Tensor)]
    if missing:
        raise MisconfigurationException(
            "The step returned a dict with per-sample 'losses' but without a tensor "
            f"{' and '.join(map(repr, missing))}. {TWO_WAYS}"
        )
    losses, logits, target = output["losses"], output["logits"], output["target"].detach()
    if losses.ndim != 1 or logits.ndim != 2 or target.shape != losses.shape or len(logits) != len(losses):
        raise MisconfigurationException(
            f"The step's dict has losses {list(losses.shape)}, logits {list(logits.shape)} and target "
            f"{list(target.shape)}; they must be [B], [B, C] and [B]."
        )
    valid = target != -100  # torch's default label of a sample to ignore
    return losses, Samples(losses, logits, target.where(valid, 0).long(), valid=valid)
