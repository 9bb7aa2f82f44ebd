"""The sample features f (Equation 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FEATURES = ("loss", "entropy", "density", "label")
"""The sample features of Equation 6, in its order."""

#: A column counts as constant when its spread is within a float32 rounding error of its mean.
RELATIVE_SPREAD = 1e-6


def entropy(logits: Tensor) -> Tensor:
    r"""Entropy of the predicted distribution, in nats (Equation 6).

    .. math:: H_i = -\sum_c p_{ic} \log p_{ic}, \qquad p_i = \mathrm{softmax}(z_i)

    Args:
        logits: scores :math:`z`, [B, C].

    Returns:
        [B], between 0 (certain; also the value for one class) and :math:`\log C` (uniform).

    Example:
        >>> entropy(torch.zeros(2, 4)).exp().round()
        tensor([4., 4.])
    """
    terms: Tensor = torch.special.entr(logits.softmax(dim=1))
    return terms.sum(dim=1)


def density(logits: Tensor) -> Tensor:
    r"""Mean inner product of a sample's logits with those of the others in the batch (Equation 6).

    .. math:: \rho_i = \frac{1}{n - 1} \sum_{j \ne i} \langle z_i, z_j \rangle
        = \frac{\langle z_i, \sum_j z_j - z_i \rangle}{n - 1}

    The right-hand side is linear in the batch: no n x n matrix is formed.

    Args:
        logits: scores :math:`z`, [B, C].

    Returns:
        [B]; 0 for a batch of one, which has no others.

    Example:
        >>> density(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
        tensor([1., 1., 0.])
    """
    others = logits.sum(dim=0, keepdim=True) - logits
    return (logits * others).sum(dim=1) / max(logits.shape[0] - 1, 1)


def label(target: Tensor, num_classes: int) -> Tensor:
    """The class index, centred and scaled to [-1, 1] (Equation 6; docs/paper.md, choice 9).

    Args:
        target: class indices, [B].
        num_classes: C.

    Returns:
        [B] in float32; 0 where there is only one class.

    Example:
        >>> label(torch.tensor([0, 1, 2]), num_classes=3)
        tensor([-1.,  0.,  1.])
    """
    if num_classes < 2:
        return torch.zeros(target.shape, device=target.device)
    return target.float() * (2.0 / (num_classes - 1)) - 1.0


def margin(logits: Tensor, target: Tensor) -> Tensor:
    r"""By how much the label is predicted above the likeliest other class (not in the paper).

    .. math:: m_i = p_{iy_i} - \max_{c \ne y_i} p_{ic}

    Args:
        logits: scores, [B, C].
        target: class indices y, [B].

    Returns:
        [B] in [-1, 1]: negative where the prediction contradicts the label; 1 where there is only one class.

    Example:
        >>> margin(torch.tensor([[0.0, 0.0], [9.0, -9.0]]), torch.tensor([0, 1])).round()
        tensor([ 0., -1.])
    """
    probabilities = logits.softmax(dim=1)
    at_label = target.clamp(0, logits.shape[1] - 1).unsqueeze(1)  # an ignored target may be outside
    own = probabilities.gather(1, at_label).squeeze(1)
    others = probabilities.scatter(1, at_label, 0.0)
    return own - others.amax(dim=1)


def normalize_features(features: Tensor) -> Tensor:
    r"""Standardise every feature within the batch (Equation 6).

    .. math:: \hat f_{ik} = \frac{f_{ik} - \bar f_k}{\sigma_k}

    with the population standard deviation :math:`\sigma_k`. Degenerate input has a defined value: a feature that does
    not vary (a batch of one, one class, all losses equal) is 0 everywhere; an entry that is NaN or infinite is left out
    of the mean and the deviation and is 0 itself, so that weights are always finite.

    Args:
        features: [B, F].

    Returns:
        [B, F], finite.

    Example:
        >>> normalize_features(torch.tensor([[-3.0, 5.0], [3.0, 5.0], [float("nan"), 5.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.],
                [ 0.,  0.]])
    """
    finite = features.isfinite()
    known, count = features.where(finite, 0.0), finite.sum(dim=0).clamp_min(1)
    mean = known.sum(dim=0) / count
    centred = (known - mean) * finite
    variance = centred.square().sum(dim=0) / count
    # Columns so large that a sum overflows compare as False here, and become 0 as well.
    varies = variance > (mean * RELATIVE_SPREAD).square().clamp_min(torch.finfo(features.dtype).tiny)
    return (centred * variance.rsqrt()).where(varies & variance.isfinite(), 0.0)


KNOWN_FEATURES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "loss": lambda loss, logits, target: loss.float(),
    "entropy": lambda loss, logits, target: entropy(logits),
    "density": lambda loss, logits, target: density(logits),
    "label": lambda loss, logits, target: label(target, logits.shape[1]),
    "margin": lambda loss, logits, target: margin(logits, target),
}
"""All sample features by name: functions of losses [B], logits [B, C] in float32 and class indices [B] that return [B].

Those that the paper does not have are taken as they are, not standardised. An entry that is added is a new feature, in
each process that imports the file which adds it.
"""


def sample_features(
    loss: Tensor, logits: Tensor, target: Tensor, names: Sequence[str] = FEATURES, valid: Tensor | None = None
) -> Tensor:
    """The sample features f: those of the paper normalised within the batch (Equation 6), the margin as it is.

    Args:
        loss: per-sample losses, [B].
        logits: scores, [B, C].
        target: class indices, [B].
        names: which features, in which order; a subset of :data:`KNOWN_FEATURES`.
        valid: [B] of bool; a sample that is False here (an ignored target) is left out, and its features are 0.

    Returns:
        [B, F] in float32 with ``F = len(names)``.

    Raises:
        ValueError: a name is not one of :data:`KNOWN_FEATURES`.
    """
    for name in names:
        if name not in KNOWN_FEATURES:
            raise ValueError(f"Unknown sample feature {name!r}; the known ones are {', '.join(KNOWN_FEATURES)}.")
    logits = logits.float()
    features = torch.stack([KNOWN_FEATURES[name](loss, logits, target) for name in names], dim=1)
    if valid is not None:
        features = features.where(valid.unsqueeze(1), math.nan)
    normalized = normalize_features(features)
    plain = [k for k, name in enumerate(names) if name not in FEATURES]
    normalized[:, plain] = features[:, plain].nan_to_num(0.0, 0.0, 0.0)
    return normalized
