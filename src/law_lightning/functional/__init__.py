"""The equations of *Learning to Auto Weight* (LAW, AAAI 2020) as pure functions on tensors.

Nothing here holds state, draws random numbers or knows of Lightning; these files import torch alone. Equation numbers
are the paper's. Shapes: ``B`` samples in a batch, ``C`` classes, ``F`` sample features.
"""

from law_lightning.functional.features import (
    FEATURES,
    density,
    entropy,
    label,
    normalize_features,
    sample_features,
)
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
    "actor_loss",
    "critic_loss",
    "density",
    "deviation",
    "entropy",
    "imitation_loss",
    "imitation_weight",
    "label",
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
