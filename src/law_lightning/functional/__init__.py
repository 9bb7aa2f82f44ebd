"""The equations of *Learning to Auto Weight* (LAW, AAAI 2020) as pure functions on tensors.

Nothing here holds state or depends on Lightning, and the same arguments give the same results; these files import
torch alone. By the paper's equation numbers, with B samples in a batch, C classes, F sample features and N transitions:

===========  ========================  ============================================================
Equation 3   :func:`sample_weights`    K = 1 + tanh(theta . f + b): f [B, F], theta [F + 1] -> [B]
Equation 5   :func:`smooth`            l_smooth and acc_smooth of the training phase
Equation 6   :func:`sample_features`   f = [loss, entropy, density, label], normalised: -> [B, F]
Equation 7   :func:`weighted_loss`     the mean of K x L: [B], [B] -> scalar
Equation 8   :func:`reward`            r = r_w (acc_target - acc_reference)
Equation 9   :func:`reward_weight`     r_w = exp(k ce / ne) s
Equation 11  :func:`critic_loss`       the mean of (Q - y)^2: [N], [N] -> scalar
Equation 12  :func:`td_target`         y = r + gamma Q(s', mu(s')): [N]
Equation 13  :func:`actor_loss`        the mean of -Q(s, mu(s)): [N] -> scalar
===========  ========================  ============================================================

Not in the paper: the rule ``general`` (:func:`margin`, :func:`confident_error`, :func:`general_theta`,
:func:`class_ratio`, :func:`is_worse`) and :func:`gain_interval`.
"""

from law_lightning.functional.features import (
    FEATURES,
    KNOWN_FEATURES,
    density,
    entropy,
    label,
    margin,
    normalize_features,
    sample_features,
)
from law_lightning.functional.gains import gain_interval
from law_lightning.functional.label_noise import class_ratio, confident_error, general_theta, is_worse
from law_lightning.functional.rewards import reward, reward_weight, smooth
from law_lightning.functional.update import (
    actor_loss,
    critic_loss,
    deviation,
    imitation_loss,
    imitation_weight,
    n_step_returns,
    td_target,
)
from law_lightning.functional.weights import renormalize_weights, sample_weights, weighted_loss

__all__ = [
    "FEATURES",
    "KNOWN_FEATURES",
    "actor_loss",
    "class_ratio",
    "confident_error",
    "critic_loss",
    "density",
    "deviation",
    "entropy",
    "gain_interval",
    "general_theta",
    "imitation_loss",
    "imitation_weight",
    "is_worse",
    "label",
    "margin",
    "n_step_returns",
    "normalize_features",
    "renormalize_weights",
    "reward",
    "reward_weight",
    "sample_features",
    "sample_weights",
    "smooth",
    "td_target",
    "weighted_loss",
]
