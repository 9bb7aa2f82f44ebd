"""Self-paced learning (Kumar et al., NeurIPS 2010; linear weights: Jiang et al., ACM MM 2014) as a weighting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
from torch import Tensor

from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.weighting.base import BaseWeighting


def self_paced_weights(loss: Tensor, age: float, kind: Literal["hard", "linear"] = "hard") -> Tensor:
    r"""The weights that minimise the self-paced objective for given losses.

    .. math:: v_i = [\ell_i < \lambda] \quad\text{(hard)}, \qquad
        v_i = \max(0, 1 - \ell_i / \lambda) \quad\text{(linear)}

    Args:
        loss: per-sample losses :math:`\ell`, [B].
        age: lambda, above 0: the loss below which a sample has weight.
        kind: the form of the weights.

    Returns:
        The weights, [B] in [0, 1]; 0 where a loss is not a number.
    """
    if kind == "hard":
        return (loss < age).to(loss.dtype)
    return (1 - loss / age).clamp(0, 1).nan_to_num(0)


@dataclass(eq=False)
class SelfPacedWeighting(BaseWeighting):
    """``WeightingCallback(SelfPacedWeighting(), warmup_stages=1)``: easy samples first, harder ones later.

    Args:
        kind: ``"hard"``: a sample weighs 1 or 0; ``"linear"``: it weighs less the greater its loss is.
        age: lambda in the first stage that is weighted, in nats; ``"auto"`` takes the median loss of that stage's first
            batch, so that half of the samples are learned from, as Kumar et al. begin.
        growth: factor on the age after every stage; Kumar et al. have 1.3.

    Raises:
        ValueError: an argument is out of its range.
    """

    kind: Literal["hard", "linear"] = "hard"
    age: float | Literal["auto"] = "auto"
    growth: float = 1.3

    def __post_init__(self) -> None:
        if self.kind not in ("hard", "linear"):
            raise ValueError(f"kind must be 'hard' or 'linear', not {self.kind!r}.")
        if self.age != "auto" and not (isinstance(self.age, (int, float)) and 0 < self.age < math.inf):
            raise ValueError(f"age must be 'auto' or a loss above 0, not {self.age!r}.")
        if not 1 <= self.growth < math.inf:
            raise ValueError(f"growth must be at least 1 and finite, not {self.growth}.")
        self._first: tuple[int, float] | None = None

    def start(self, trainer: L.Trainer) -> None:
        """Reset the age of an earlier fit."""
        self._first = None

    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor:
        """Weights [B] in [0, 1]."""
        if self._first is None:
            loss = samples.loss if samples.valid is None else samples.loss[samples.valid]
            age = float(loss[loss.isfinite()].float().median() if self.age == "auto" else self.age)
            if not age > 0:  # every loss is 0 or none is finite: this batch gives no age
                return self_paced_weights(samples.loss, math.inf, self.kind)
            self._first = (phase.stage, age)
        stage, age = self._first
        return self_paced_weights(samples.loss, age * self.growth ** (phase.stage - stage), self.kind)

    def state_dict(self) -> dict[str, Any]:
        """The first weighted stage, and its age."""
        return {"first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`."""
        self._first = state["first"]
