"""Learning to Reweight Examples (Ren et al., ICML 2018, arXiv 1803.09050) for any LightningModule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from law_lightning.callbacks.checks import refuse_second_network
from law_lightning.callbacks.weighting import WeightingCallback
from law_lightning.capture.part import Part
from law_lightning.capture.samples import Samples
from law_lightning.second_network.clean_gradient import CleanGradient
from law_lightning.weighting.base import unweighted


class L2RWCallback(WeightingCallback):
    r"""``Trainer(callbacks=[L2RWCallback()])``: a sample weighs as much as a step on it would help on clean data.

    .. math:: w_i = \frac{\max(0, p_i)}{\sum_j \max(0, p_j)}, \qquad
        p_i = \langle \nabla L_i(\theta), \nabla L_{clean}(\theta) \rangle

    (Equations 8 to 11 of the paper: the look-ahead from weights of zero stays at :math:`\theta`, so its derivative
    by a weight is this product.) The products are exact, and no layer is rebuilt: see
    :meth:`law_lightning.second_network.shared_copy.SharedCopy.products`. As the weights sum up to 1, the loss is
    their weighted sum instead of a mean. Where no sample helps, all weigh 0 and the step's gradient is zero, as in the
    paper.

    On several processes the gradient on clean data is the mean over all of them, and the sum is over all samples.

    Args:
        clean: a loader of data whose labels can be trusted, batched like the training's; None takes the Trainer's
            first validation loader. It is drawn from at random, in batches of the training's size.
        num_stages: of the history's records.
        warmup_stages: the first stages, in which every sample weighs 1.
        smoothing: see :class:`WeightingCallback`.
        total_steps: optimizer steps to cut into stages (see :class:`WeightingCallback`).
        options: ``clean_batch_size``, ``products`` and ``seed``, see
            :class:`~law_lightning.second_network.clean_gradient.CleanGradient`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        clean: DataLoader[Any] | None = None,
        *,
        num_stages: int = 20,
        warmup_stages: int = 0,
        smoothing: float = 0.5,
        total_steps: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            unweighted,
            num_stages=num_stages,
            warmup_stages=warmup_stages,
            smoothing=smoothing,
            total_steps=total_steps,
        )
        self._clean = CleanGradient(type(self).__name__, clean, **options)
        self._products: Iterator[Tensor] = iter(())

    @property
    def parts(self) -> dict[str, Part]:
        """Gradients on clean data beside the step."""
        return {"clean": self._clean}

    def check(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Raise an error where no copy of the module can run beside it."""
        refuse_second_network(trainer, module, type(self).__name__)

    def weights(self, samples: Samples) -> Tensor:
        """Weights [B] under which the mean loss is the sum of w_i L_i; zeros where no sample helps."""
        if self._clean.begins_step():
            self._products = iter(self._clean.products(self._clean.next_gradient()))
        helps = reweighted(next(self._products), samples.valid)
        (total,) = self._clean.mean([helps.sum()])
        return torch.where(helps > 0, helps * samples.divisor / total, 0)  # the mean's divisor cancels


def reweighted(products: Tensor, valid: Tensor | None = None) -> Tensor:
    """The positive part of the products, [B]: before they are divided by their sum (Equation 10 of the paper).

    Args:
        products: of gradients, [B]; one that is not finite counts as 0.
        valid: samples that have a label, [B].
    """
    helps = products.nan_to_num(0, 0, 0).clamp_min(0)
    return helps if valid is None else helps * valid
