"""Weight parameters by stage, which is what every rival searches: the actions that LAW has."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from law_lightning import Samples, TrainingPhase, WeightingCallback
from law_lightning import functional as LF

Vector = NDArray[np.float64]
#: theta of every stage, [NUM_STAGES, NUM_PARAMETERS].
Schedule = NDArray[np.float64]

NUM_STAGES = 20
WARMUP_STAGES = 2
NUM_PARAMETERS = len(LF.FEATURES) + 1
BOUND = 3.0

#: Fixed before any of them was tried here: they count samples of high loss for little.
HANDMADE = {
    "constant_1": (-1.0, 0.0, 0.0, 0.0, -1.0),
    "constant_2": (-2.0, 0.0, 0.0, 0.0, -1.0),
    "constant_3": (-3.0, 0.0, 0.0, 0.0, -2.0),
}


def weighting_callback(schedule: Schedule) -> WeightingCallback:
    """A callback that trains with LAW's weighting, its stages and warm-up, and a theta fixed for each stage."""
    thetas = torch.as_tensor(schedule, dtype=torch.float32)

    def weighting(samples: Samples, phase: TrainingPhase) -> Tensor:
        with torch.no_grad():
            features = LF.sample_features(samples.loss, samples.logits, samples.target, LF.FEATURES, samples.valid)
            return LF.sample_weights(features, thetas[phase.stage])

    return WeightingCallback(weighting, num_stages=NUM_STAGES, warmup_stages=WARMUP_STAGES)


def constant(vector: Vector) -> Schedule:
    """The same theta [5] at every stage."""
    return np.tile(np.asarray(vector, dtype=np.float64), (NUM_STAGES, 1))


def linear(vector: Vector) -> Schedule:
    """From theta_start to theta_end, [10] together, over the stages after the warm-up."""
    start, end = np.split(np.asarray(vector, dtype=np.float64), 2)
    share = np.linspace(0.0, 1.0, NUM_STAGES - WARMUP_STAGES)[:, None]
    return np.vstack([np.tile(start, (WARMUP_STAGES, 1)), (1 - share) * start + share * end])


def nothing() -> Schedule:
    """Weights of one throughout."""
    return np.zeros((NUM_STAGES, NUM_PARAMETERS))


def uniform(rng: np.random.Generator) -> Schedule:
    """A random theta for every stage."""
    return rng.uniform(-BOUND, BOUND, (NUM_STAGES, NUM_PARAMETERS))
