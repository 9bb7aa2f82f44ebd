"""The equations of *Learning to Auto Weight* (LAW, AAAI 2020) as pure functions on tensors.

Nothing here holds state, draws random numbers or knows of Lightning; this file imports torch alone. Equation
numbers are the paper's. Shapes: ``B`` samples in a batch, ``C`` classes, ``F`` sample features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FEATURES = ("loss", "entropy", "density", "label")
"""The sample features of Equation 6, in its order."""

# A column counts as constant when its spread is within a float32 rounding error of its mean.
_RELATIVE_SPREAD = 1e-6


# -- sample features (Equation 6) ------------------------------------------------------------------------------


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
    """The class index, centred and scaled to [-1, 1] (Equation 6; docs/paper.md, choice 8).

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


def normalize_features(features: Tensor) -> Tensor:
    r"""Standardise every feature within the batch (Equation 6).

    .. math:: \hat f_{ik} = \frac{f_{ik} - \bar f_k}{\sigma_k}

    with the population deviation :math:`\sigma_k`. Degenerate input has a defined value: a feature that does not
    vary (a batch of one, one class, all losses equal) is 0 everywhere; an entry that is NaN or infinite takes no
    part in the mean and deviation and is 0 itself, so that weights are always finite.

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
    if features.device.type == "cpu" and len(features) and bool(finite.all()):  # the usual case; others would wait
        count: Tensor | int = len(features)
        mean = features.sum(dim=0) / count
        centred = features - mean
    else:
        known = features.where(finite, 0.0)
        count = finite.sum(dim=0).clamp_min(1)
        mean = known.sum(dim=0) / count
        centred = (known - mean) * finite
    variance = centred.square().sum(dim=0) / count
    # Columns so large that a sum overflows compare as False here, and become 0 as well.
    varies = variance > (mean * _RELATIVE_SPREAD).square().clamp_min(torch.finfo(features.dtype).tiny)
    return (centred * variance.rsqrt()).where(varies & variance.isfinite(), 0.0)


def sample_features(
    loss: Tensor,
    logits: Tensor,
    target: Tensor,
    names: Sequence[str] = FEATURES,
    valid: Tensor | None = None,
) -> Tensor:
    """The sample features f of Equation 6, normalised within the batch.

    Args:
        loss: per-sample losses, [B].
        logits: scores, [B, C].
        target: class indices, [B].
        names: which features, in which order; a subset of :data:`FEATURES`.
        valid: [B] of bool; a sample that is False here (an ignored target) takes no part and gets zeros.

    Returns:
        [B, F] in float32 with ``F = len(names)``.

    Raises:
        ValueError: a name is not one of :data:`FEATURES`.
    """
    columns: list[Tensor] = []
    logits = logits.float()
    for name in names:
        if name == "loss":
            columns.append(loss.float())
        elif name == "entropy":
            columns.append(entropy(logits))
        elif name == "density":
            columns.append(density(logits))
        elif name == "label":
            columns.append(label(target, logits.shape[1]))
        else:
            raise ValueError(f"Unknown sample feature {name!r}; the known ones are {', '.join(FEATURES)}.")
    features = torch.stack(columns, dim=1)
    if valid is not None:
        features = features.where(valid.unsqueeze(1), math.nan)
    return normalize_features(features)


# -- weights (Equations 3 and 7) -------------------------------------------------------------------------------


def sample_weights(features: Tensor, theta: Tensor) -> Tensor:
    r"""The weighting function (Equation 3).

    .. math:: K(f, \theta) = 1 + \tanh(\theta_{1..F} \cdot f + b), \qquad b = \theta_{F+1}

    Args:
        features: normalised sample features f, [B, F].
        theta: the action, [F + 1]: one weight per feature, then b.

    Returns:
        [B], each in (0, 2); exactly 1 for theta = 0.

    Raises:
        ValueError: theta is not [F + 1].

    Example:
        >>> sample_weights(torch.tensor([[0.5], [-0.5]]), torch.tensor([0.0, 0.0]))
        tensor([1., 1.])
    """
    if theta.shape != (features.shape[1] + 1,):
        raise ValueError(
            f"theta must have shape [{features.shape[1] + 1}] (one weight for each of the {features.shape[1]} "
            f"features, then b), not {list(theta.shape)}."
        )
    # A product and a sum, not a matrix product: autocast and TF32 would round the latter.
    return 1.0 + torch.tanh((features * theta[:-1]).sum(dim=1) + theta[-1])


def renormalize_weights(weights: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Weights with a mean of one: :math:`K_i / \bar K` (docs/paper.md, choice 6; not in the paper).

    Args:
        weights: K, [B], at least 0.
        valid: [B] of bool; a sample that is False here takes no part in the mean.

    Returns:
        [B]; as given where the mean is 0 (all weights are) or no sample is valid.

    Example:
        >>> renormalize_weights(torch.tensor([0.5, 1.5, 1.0, 1.0]) / 2)
        tensor([0.5000, 1.5000, 1.0000, 1.0000])
    """
    mean = weights.mean() if valid is None else (weights * valid).sum() / valid.sum()
    return torch.where(mean > 0, weights / mean, weights)


def weighted_loss(loss: Tensor, weights: Tensor) -> Tensor:
    r"""The target's loss (Equation 7): the mean of :math:`K \times L`.

    Args:
        loss: per-sample losses L, [B].
        weights: K, [B], treated as constants.

    Returns:
        A scalar.
    """
    return (weights.detach() * loss).mean()


# -- training phase (Equations 4 and 5) ------------------------------------------------------------------------


def smooth(previous: float | None, value: float, decay: float) -> float:
    """Exponential average; the first value stands for itself (Equation 5: l_smooth, acc_smooth).

    Args:
        previous: the average so far, None before the first value.
        value: the new value. One that is not finite leaves the average as it was.
        decay: share of the old average that stays, in [0, 1).

    Example:
        >>> smooth(smooth(None, 1.0, decay=0.5), 0.0, decay=0.5)
        0.5
    """
    if previous is None:
        return value if math.isfinite(value) else 0.0
    return decay * previous + (1.0 - decay) * value if math.isfinite(value) else previous


# -- reward (Equations 8 and 9) --------------------------------------------------------------------------------


def reward_weight(current_epoch: float, num_epochs: float, k: float = 1.0, s: float = 1.0) -> float:
    r"""The weight of a reward (Equation 9): later stages count more.

    .. math:: r_w = \exp(k \, ce / ne) \, s

    Args:
        current_epoch: ce, epochs done.
        num_epochs: ne, epochs in all.
        k: growth.
        s: scale.

    Raises:
        ValueError: there are no epochs, or more are done than there are.

    Example:
        >>> reward_weight(0, 10), round(reward_weight(10, 10, k=2.0, s=0.5), 4)
        (1.0, 3.6945)
    """
    if not 0 <= current_epoch <= num_epochs or num_epochs <= 0:
        raise ValueError(
            f"Need 0 <= current_epoch <= num_epochs and num_epochs > 0, not {current_epoch}, {num_epochs}."
        )
    return math.exp(k * current_epoch / num_epochs) * s


def reward(acc_target: float, acc_reference: float, weight: float = 1.0) -> float:
    r"""The duplicate-network reward (Equation 8).

    .. math:: r = r_w (acc_{target} - acc_{reference})

    What the two networks share (the batches, the noise, the difficulty) cancels.

    Args:
        acc_target: validation accuracy of the target, in [0, 1].
        acc_reference: validation accuracy of the reference, in [0, 1].
        weight: r_w of :func:`reward_weight`.

    Example:
        >>> reward(0.75, 0.5, weight=2.0)
        0.5
    """
    return weight * (acc_target - acc_reference)


# -- the strategy's update (Equations 10 to 13) ----------------------------------------------------------------


def n_step_returns(reward: Tensor, linked: Tensor, steps: int, discount: float) -> tuple[Tensor, Tensor]:
    r"""Discounted sums of the rewards of up to ``steps`` transitions in a row.

    .. math:: R_i = \sum_{k=0}^{n_i - 1} \gamma^k \, r_{i+k}, \qquad n_i \le n

    where the transitions i to i + n_i - 1 follow one another within an episode. With one step this is the reward of
    Equation 12; with as many as an episode has, its return (Sutton and Barto, *Reinforcement Learning*, chapter 7).

    Args:
        reward: r, [N], in the order in which the transitions were made.
        linked: whether transition i + 1 continues transition i, [N] of bool; the last entry is ignored.
        steps: n, at least 1.
        discount: gamma, in [0, 1].

    Returns:
        R, [N], and how many rewards each sums up, n_i, [N] of int64.

    Example:
        >>> n_step_returns(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([True, False, False]), steps=3, discount=0.5)
        (tensor([1.5000, 1.0000, 1.0000]), tensor([2, 1, 1]))
    """
    total, count = reward.clone(), torch.ones_like(reward, dtype=torch.int64)
    alive = torch.ones_like(linked)
    for k in range(1, min(steps, len(reward))):
        alive = alive[:-1] & linked[k - 1 : -1]  # i reaches i + k if it reached i + k - 1, which goes on
        total[:-k] += discount**k * reward[k:] * alive
        count[:-k] += alive
    return total, count


def deviation(values: Tensor) -> float:
    r"""The population deviation.

    .. math:: \sigma = \sqrt{\frac{1}{N} \sum_i \Big(r_i - \frac{1}{N} \sum_j r_j\Big)^2}

    Args:
        values: r, [N], at least one.

    Returns:
        The deviation; 0 where it is within a float32 rounding error of the mean.

    Example:
        >>> deviation(torch.tensor([1.0, 3.0]))
        1.0
    """
    values = values.double()
    found, mean = float(values.std(correction=0)), float(values.mean())
    return found if found > max(abs(mean) * _RELATIVE_SPREAD, 1e-12) else 0.0


def td_target(reward: Tensor, next_value: Tensor, done: Tensor, discount: float | Tensor) -> Tensor:
    r"""What the critic should say (Equation 12); nothing follows the last stage.

    .. math:: y_i = r_i + \gamma \, (1 - \mathrm{done}_i) \, Q(s_{i+1}, \mu(s_{i+1}))

    Args:
        reward: r, [N].
        next_value: Q at the next state, [N].
        done: whether the episode ended, [N], bool or 0/1.
        discount: gamma, in [0, 1]; gamma^n, [N], where r is an n-step return.

    Returns:
        [N], detached.
    """
    return (reward + discount * (1.0 - done.to(reward.dtype)) * next_value).detach()


def critic_loss(value: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the critic (Equation 11).

    Args:
        value: Q(s, a), [N].
        target: y of :func:`td_target`, [N].

    Returns:
        A scalar.
    """
    return (value - target).square().mean()


def actor_loss(value: Tensor) -> Tensor:
    """The actor ascends Q(s, mu(s)) (Equation 13).

    Args:
        value: Q at the actor's own actions, [N].

    Returns:
        A scalar, the negative mean.
    """
    return -value.mean()
