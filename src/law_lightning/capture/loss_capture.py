r"""Per-sample losses from any ``training_step``.

A :class:`~torch.overrides.TorchFunctionMode` intercepts torch's classification losses. Those with a mean reduction are
computed once more without it, and become the weighted mean (Equation 7)

.. math:: \frac{1}{n} \sum_i K_i L_i = \bar L + \frac{1}{n} \sum_i (K_i - 1) L_i

In this form weights of one give the plain loss's gradient bit for bit, whatever the reduction divides by. Losses that
are summed up or not reduced keep their values: only the gradient :math:`g_i` of each sample's loss becomes
:math:`g_i + (K_i - 1) g_i`, whatever the step computes from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from law_lightning._compat import is_transformed
from law_lightning.capture.losses import TAKE_APART, arguments, check_target, explicit_samples, weighted
from law_lightning.capture.samples import Samples

Weigh = Callable[[Samples], "Tensor | None"]
KEEPS = ("sum", "none")  # reductions of torch's losses under which they keep their values


class _Target:
    """The samples of one target and, once ``known``, their weights; None for ones.

    ``sure``: they are of a loss that is sure to be one, not of one that keeps its value.
    """

    def __init__(self, target: Tensor, samples: Samples, sure: bool) -> None:
        self.target = target  # referenced, so that no other tensor gets its address
        self.samples, self.sure = samples, sure
        self.known = False
        self.weights: Tensor | None = None


class _Use:
    """One loss on a target, by its reduction; ``active`` until ``weighted`` or a dict replaces it."""

    def __init__(self, of: _Target, reduction: str) -> None:
        self.of, self.reduction = of, reduction
        self.active, self.whole = True, False  # whole: the elements are (K - 1) L already

    def excess(self, denominator: Tensor | int, ndim: int) -> Tensor | None:
        """What an element's gradient is multiplied by, [B, 1, ...] of ``ndim`` dimensions or []; None for zeros."""
        if not self.active or self.of.weights is None:
            return None
        if self.whole:
            return torch.ones((), device=self.of.weights.device)
        return excess_weights(self.of.weights, denominator, ndim)


class _Scaled(torch.autograd.Function):
    """``plain`` with the gradient of plain + sum (K - 1) L, for weights K that are known when it is computed.

    Where the elements L are not reduced, with that of each L + (K - 1) L.
    """

    @staticmethod
    def forward(ctx: Any, plain: Tensor, elements: Tensor, denominator: Tensor | int, use: _Use) -> Tensor:
        ctx.shape, ctx.denominator, ctx.use = elements.shape, denominator, use
        return plain.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        excess = ctx.use.excess(ctx.denominator, len(ctx.shape))
        if excess is None:
            return gradient, None, None, None
        return gradient, (gradient * excess.to(gradient.dtype)).expand(ctx.shape), None, None


class LossCapture(TorchFunctionMode):
    """Intercepts every classification loss called within it and, where weights are given, weights it.

    Several losses in one step: a further loss on the same target tensor (an auxiliary head) shares the weights of
    the first; a loss on another target (mixup's second) is weighted by its own samples. Losses of logits that need no
    gradient and those within ``torch.vmap`` and the like are left alone.

    A loss that keeps its value may be only a part of another, so its weights are computed when the step is over. If a
    mean loss or :func:`~law_lightning.capture.losses.weighted` follows on its target, or the step returns a dict, the
    samples are those of that.

    Args:
        weigh: gives the weights [B] of samples, or None to leave a loss as it is; by default all are left.
        training: leave alone losses whose logits need no gradient.
        attached: samples come with their graph.
        differentiable: gradients flow through the weights, which are therefore found at once.
        check_labels: check beforehand for labels out of range, which a GPU does not name. It waits for the device, so
            it is for a first batch only.
        on_use: called once a loss is part of a backward pass with two numbers, [2]: what the loss contributes to what
            is differentiated, plain and weighted, if that is linear in it.
        index: gives the index [B] of a loss's samples in the dataset, by its target, or None.

    Attributes:
        left: names of functions that were called and left alone, though one may take them for the step's loss.
    """

    #: Whether losses with a mean reduction keep their values, too.
    late = False

    def __init__(
        self,
        weigh: Weigh | None = None,
        training: bool = True,
        attached: bool = False,
        differentiable: bool = False,
        check_labels: bool = False,
        on_use: Callable[[Tensor], None] | None = None,
        index: Callable[[Tensor, Samples], Tensor | None] | None = None,
    ) -> None:
        super().__init__()
        self._weigh, self._training = weigh, training
        self._attached, self._differentiable = attached, differentiable
        self._check_labels, self._on_use, self._index = check_labels, on_use, index
        self._targets: list[_Target] = []
        # Not in a _Use, which the graph refers to: a circle would keep its memory.
        self._nodes: list[tuple[Node | None, _Use]] = []
        self.left: set[str] = set()

    @property
    def samples(self) -> list[Samples]:
        """One entry for each target seen, in order."""
        return [each.samples for each in self._targets]

    @functools.cached_property
    def weighed(self) -> list[tuple[Samples, Tensor | None]]:
        """The samples, detached, and their weights, None for ones; only to be read once the step is over."""
        return [
            (each.samples.detach(), None if each.weights is None else each.weights.detach()) for each in self._targets
        ]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in TAKE_APART:  # most calls
            return func(*args, **kwargs) if kwargs else func(*args)
        given, take_apart, own = arguments(func, args, kwargs), TAKE_APART[func], func is weighted
        if take_apart is None or (self._training and not self.needs_gradient(given["losses" if own else "input"])):
            if take_apart is None or not torch.is_grad_enabled():
                self.left.add(func.__name__)
            return func(**given)
        labels = (given["logits" if own else "input"], given["target"], given.get("ignore_index", -100))
        if is_transformed(labels[0]) or is_transformed(labels[1]):
            return func(**given)
        if self._check_labels:
            check_target(*labels)
        try:
            plain = func(**given)
        except IndexError:
            check_target(*labels)
            raise
        # What is computed beside the plain loss is not part of the step: within torch.utils.checkpoint, whose hooks
        # count what a step saves, it would not be there when the step is computed again.
        with saved_tensors_hooks(_as_it_is, _as_it_is):
            elements, denominator, samples = take_apart(func, given, plain)
            if own:
                self._replace_parts(plain)
            reduction = "own" if own else given["reduction"]
            use = _Use(self._target_of(given["target"], samples, reduction not in KEEPS), reduction)
            return self._weighted(plain, use, elements, denominator)

    def needs_gradient(self, logits: Tensor) -> bool:
        """Whether a loss of these logits may be one that the module trains on."""
        return torch.is_grad_enabled() and logits.requires_grad

    def take_output(self, output: Any) -> Any:
        """The output of a step, with its ``loss`` weighted if it is the dict of the third way.

        To be called when the step is over. A step that called a mean loss or ``weighted`` is weighted by that alone;
        where there is a dict, losses that keep their values are left alone.

        Raises:
            MisconfigurationException: the dict's entries do not fit together.
        """
        uses = [use for _, use in self._nodes]
        if isinstance(output, Mapping) and "losses" in output and all(use.reduction in KEEPS for use in uses):
            losses, samples = explicit_samples(output)
            if self._check_labels:
                check_target(samples.logits, output["target"])
            self._drop(uses)
            use = _Use(self._target_of(output["target"], samples, sure=True), "mean")
            loss = self._weighted(output["loss"], use, losses, len(losses), losses)
            output = output if loss is output["loss"] else {**output, "loss": loss}
        self._settle()
        return output

    def leads_past(self, loss: Tensor) -> bool:
        """Whether a loss depends on a leaf of the graph in another way than through the losses that were captured."""
        captured = {node for node, use in self._nodes if use.active and node is not None}
        return any(hasattr(node, "variable") for node in _ancestors(loss, captured))

    def _target_of(self, target: Tensor, samples: Samples, sure: bool) -> _Target:
        """The entry of a target, which has its first samples, or those of the first loss that is ``sure`` to be one."""
        samples = samples if self._attached else samples.detach()
        if self._index is not None:
            samples = replace(samples, index=self._index(target, samples))
        for seen in self._targets:
            if _same(seen.target, target):
                if sure and not seen.sure and not self._is_final(seen):
                    seen.samples, seen.sure, seen.known = samples, True, False
                return seen
        self._targets.append(_Target(target, samples, sure))
        return self._targets[-1]

    def _settle(self) -> None:
        """Find the weights of all targets so far, in their order."""
        for each in self._targets:
            if not each.known:
                each.known = True
                each.weights = None if self._weigh is None else self._weigh(each.samples)

    def _drop(self, uses: Iterable[_Use]) -> None:
        """Let these losses have no effect, nor a target that has no other and was not weighed for good."""
        for use in uses:
            use.active = False
        kept = {use.of for _, use in self._nodes if use.active}
        self._targets = [each for each in self._targets if each in kept or self._is_final(each)]

    def _is_final(self, target: _Target) -> bool:
        """Whether its weights were found and stay: those with a graph may have been found too early."""
        return target.known and (target.sure or not self._differentiable)

    def _replace_parts(self, losses: Tensor) -> None:
        """Drop captured losses that these losses, of the user's own, are computed from: each is weighted once."""
        captured = {node: use for node, use in self._nodes if node is not None}
        if not captured:
            return
        parts = [captured[node] for node in _ancestors(losses, captured) if node in captured]
        if any(use.reduction == "mean" for use in parts):
            raise MisconfigurationException(
                "weighted() was given losses that are computed from a torch loss with reduction='mean', which is "
                "weighted itself: call that with reduction='none'."
            )
        self._drop(parts)

    def _weighted(
        self, plain: Tensor, use: _Use, elements: Tensor, denominator: Tensor | int, own: Tensor | None = None
    ) -> Tensor:
        """A loss with the weights of its samples; ``own`` are the losses in a dict, whose mean is part of ``plain``."""
        value, of = plain, use.of
        if use.reduction == "mean" or self._differentiable:
            self._settle()
        if self.late or (self._weigh is not None and use.reduction != "mean"):
            if self._differentiable and of.weights is not None:
                elements = excess_weights(of.weights, denominator, elements.ndim) * elements
                use.whole = True
            value = _Scaled.apply(plain, elements, denominator, use)
        elif use.reduction != "mean":
            value = plain.clone()  # the step may change it in place
        elif of.weights is not None:
            value = plain + (excess_weights(of.weights, denominator, elements.ndim) * elements).sum()
        self._nodes.append(((value if own is None else own).grad_fn, use))
        if self._on_use is not None and value.requires_grad:
            change = (value - plain).detach()
            part = plain.detach() if own is None else own.detach().mean().expand_as(change)
            value.register_hook(functools.partial(_note, self._on_use, use, torch.stack([part, part + change])))
        return value


def _note(on_use: Callable[[Tensor], None], use: _Use, contributions: Tensor, gradient: Tensor) -> None:
    if use.active:
        on_use((contributions * gradient).reshape(2, -1).sum(dim=1))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _ancestors(tensor: Tensor, without: Iterable[Node]) -> Iterator[Node]:
    """The nodes of the graph that a tensor is computed from; what comes before those of ``without`` is left out."""
    waiting, seen, ends = [tensor.grad_fn], set[Node](), set(without)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if node not in ends:
            waiting += [following for following, _ in node.next_functions]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two targets are the same: a view of the same memory is, an equal copy is not."""
    return a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.stride() == b.stride())


def excess_weights(weights: Tensor, denominator: Tensor | int, ndim: int) -> Tensor:
    """(K - 1) / denominator, [B, 1, ...] of ``ndim`` dimensions."""
    return ((weights - 1.0) / denominator).reshape(-1, *[1] * (ndim - 1))
