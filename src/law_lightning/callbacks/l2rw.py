"""Learning to Reweight Examples (Ren et al., ICML 2018, arXiv 1803.09050) for anyone's module."""

from __future__ import annotations

import torch
from torch import Tensor

from law_lightning.callbacks.clean_gradient import CleanGradientCallback
from law_lightning.capture.samples import Samples


class L2RWCallback(CleanGradientCallback):
    r"""``Trainer(callbacks=[L2RWCallback()])``: a sample weighs as much as a step on it would help on clean data.

    .. math:: w_i = \frac{\max(0, p_i)}{\sum_j \max(0, p_j)}, \qquad
        p_i = \langle \nabla L_i(\theta), \nabla L_{clean}(\theta) \rangle

    (Equations 8 to 11 of the paper: the look-ahead from weights of zero stays at :math:`\theta`, so its derivative
    by a weight is this product.) The products are exact, and no layer is rebuilt: see
    :meth:`law_lightning.second_network.probe.Probe.products`. As the weights sum up to 1, the loss is their weighted
    sum instead of a mean. Where no sample helps, all weigh 0 and the step's gradient is that of nothing, as in
    the paper.

    On several processes the gradient on clean data is the mean over all of them, and the sum is over all samples.

    Its arguments are those of :class:`CleanGradientCallback`.
    """

    _found: list[Tensor]

    def weights(self, samples: Samples, position: int) -> Tensor:
        """Weights [B] under which the mean loss is the sum of w_i L_i; zeros where no sample helps."""
        assert self._batches is not None
        assert self._probe is not None
        if position == 0:
            direction = self.shared(self._probe.gradient(self._batches.take()))
            self._found = self.products_along(direction)
        helps = reweighted(self._found[position], samples.valid)
        (total,) = self.shared([helps.sum()])
        return torch.where(helps > 0, helps * samples.divisor / total, 0)  # the mean's divisor cancels


def reweighted(products: Tensor, valid: Tensor | None = None) -> Tensor:
    """The positive part of the products, [B]: before they are divided by their sum (Equation 10 of the paper).

    Args:
        products: of gradients, [B]; what is not finite counts as no help.
        valid: samples that have a label, [B].
    """
    helps = products.float().nan_to_num(0, 0, 0).clamp_min(0)
    return helps if valid is None else helps * valid
