"""The strategy's update: returns, the critic's targets and the losses (Equations 10 to 13)."""

from __future__ import annotations

import torch
from torch import Tensor

from law_lightning.functional.features import RELATIVE_SPREAD

#: The bound of an imitation weight, so that no single action outweighs all others.
MAX_IMITATION = 20.0


def n_step_returns(reward: Tensor, linked: Tensor, steps: int, discount: float) -> tuple[Tensor, Tensor]:
    r"""Discounted sums of the rewards of up to ``steps`` consecutive transitions.

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
    reached = torch.ones_like(linked)
    for k in range(1, min(steps, len(reward))):
        reached = reached[:-1] & linked[k - 1 : -1]  # i reaches i + k if it reaches i + k - 1, and that one is linked
        total[:-k] += discount**k * reward[k:] * reached
        count[:-k] += reached
    return total, count


def deviation(values: Tensor) -> float:
    r"""The population standard deviation.

    .. math:: \sigma = \sqrt{\frac{1}{N} \sum_i \Big(r_i - \frac{1}{N} \sum_j r_j\Big)^2}

    Args:
        values: r, [N], at least one.

    Returns:
        The standard deviation; 0 where it is within a float32 rounding error of the mean.

    Example:
        >>> deviation(torch.tensor([1.0, 3.0]))
        1.0
    """
    values = values.double()
    found, mean = float(values.std(correction=0)), float(values.mean())
    return found if found > max(abs(mean) * RELATIVE_SPREAD, 1e-12) else 0.0


def td_target(reward: Tensor, next_value: Tensor, done: Tensor, discount: float | Tensor) -> Tensor:
    r"""The critic's target (Equation 12); after the last stage it is the reward alone.

    .. math:: y_i = r_i + \gamma \, (1 - \mathrm{done}_i) \, Q(s_{i+1}, \mu(s_{i+1}))

    Args:
        reward: r, [..., N].
        next_value: Q at the next state, [..., N].
        done: whether the episode ended, [..., N], bool or 0/1.
        discount: gamma, in [0, 1]; gamma^n, [..., N], where r is an n-step return.

    Returns:
        y, [..., N], detached.
    """
    return (reward + discount * (1.0 - done.to(reward.dtype)) * next_value).detach()


def critic_loss(value: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the critic (Equation 11).

    Args:
        value: Q(s, a), [..., N].
        target: y of :func:`td_target`, [..., N].

    Returns:
        The mean over the last dimension, [...].
    """
    return (value - target).square().mean(dim=-1)


def actor_loss(value: Tensor) -> Tensor:
    """The actor's loss: descending it ascends Q(s, mu(s)) (Equation 13).

    Args:
        value: Q at the actor's own actions, [..., N].

    Returns:
        The negative mean over the last dimension, [...].
    """
    return -value.mean(dim=-1)


def imitation_weight(advantage: Tensor) -> Tensor:
    r"""The weight of imitating an action that paid more, or less, than the strategy's own is expected to.

    .. math:: w_i = \min(e^{A_i}, 20), \qquad A_i = y_i - Q(s_i, \mu(s_i))

    (Peng et al., *Advantage-Weighted Regression*, 2019, with their bound.)

    Args:
        advantage: A, of any shape, from standardised rewards: the exponential assumes their scale.

    Returns:
        w, of the same shape, detached.

    Example:
        >>> imitation_weight(torch.tensor([0.0, 9.0]))
        tensor([ 1., 20.])
    """
    return advantage.detach().exp().clamp(max=MAX_IMITATION)


def imitation_loss(theta: Tensor, taken: Tensor, weight: Tensor) -> Tensor:
    r"""Squared distance of the strategy's actions from those that were taken, weighted.

    .. math:: \frac{1}{2 n} \sum_i w_i \lVert \mu(s_i) - \theta_i \rVert^2

    Args:
        theta: mu(s), [..., N, A].
        taken: the actions in the buffer, [..., N, A].
        weight: w of :func:`imitation_weight`, [..., N].

    Returns:
        The sum over N, divided as above, [...].
    """
    return 0.5 * (weight * (theta - taken).square().sum(dim=-1)).mean(dim=-1)
