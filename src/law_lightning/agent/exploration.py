"""Exploration in the space of theta: one offset for a whole episode and fresh noise at every stage, both decaying."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from law_lightning.utilities.randomness import reseed


class Exploration:
    """Gaussian noise added to the actor's theta.

    An offset that is constant over an episode shows the effect of a consistent change; noise at each stage separates
    the effects of the stages. The draws of an episode depend on the seed and its number alone, so that several workers
    can run episodes.

    Args:
        spread: of the noise on each entry of theta, relative to that on b, [F + 1].
        episode_noise: standard deviation of an episode's offset of b.
        stage_noise: standard deviation of a stage's noise on b.
        decay: factor on both after every episode.
        seed: of the noise's own generator; the global random state is never touched.
    """

    def __init__(self, spread: Tensor, episode_noise: float, stage_noise: float, decay: float, seed: int) -> None:
        self._spread = spread.clone()
        self.episode_noise = episode_noise
        self.stage_noise = stage_noise
        self.decay = decay
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self.episode = 0
        self.offset = torch.zeros_like(spread)  # until the first episode starts

    def start_episode(self) -> None:
        """Draw the offset of a new episode; the noise decays with the episodes before it."""
        reseed(self._generator, self.seed, self.episode)
        self.episode += 1
        self.offset = self._normal() * (self.episode_noise * self.scale)

    @property
    def scale(self) -> float:
        """The factor by which the noise has decayed in this episode."""
        return float(self.decay ** max(self.episode - 1, 0))

    def __call__(self, theta: Tensor) -> Tensor:
        """Theta with this episode's offset and fresh noise, [F + 1]."""
        return theta + self.offset + self._normal() * (self.stage_noise * self.scale)

    def _normal(self) -> Tensor:
        return torch.randn(len(self._spread), generator=self._generator) * self._spread

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next draws depend on."""
        offset, generator = self.offset.clone(), self._generator.get_state()
        return {"seed": self.seed, "episode": self.episode, "offset": offset, "generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`."""
        self.seed = int(state.get("seed", self.seed))  # earlier versions' files had none
        self.episode = int(state["episode"])
        self.offset = torch.zeros_like(self.offset).copy_(state["offset"])
        self._generator.set_state(state["generator"])
