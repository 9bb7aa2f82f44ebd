"""The smoothed values of the training phase, and the reward of a stage (Equations 5, 8 and 9)."""

from __future__ import annotations

import math


def smooth(previous: float | None, value: float, decay: float) -> float:
    """Exponential moving average, which begins with the first value (Equation 5: l_smooth, acc_smooth).

    Args:
        previous: the average so far, None before the first value.
        value: the new value. One that is not finite leaves the average unchanged; as the first it counts as 0.
        decay: weight of the previous average, in [0, 1).

    Example:
        >>> smooth(smooth(None, 1.0, decay=0.5), 0.0, decay=0.5)
        0.5
    """
    if previous is None:
        return value if math.isfinite(value) else 0.0
    return decay * previous + (1.0 - decay) * value if math.isfinite(value) else previous


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
