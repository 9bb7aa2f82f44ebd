"""Exploration in the space of theta: one offset for a whole episode and fresh noise at every stage, both decaying."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from law_lightning.utilities.randomness import OwnGenerator


class Exploration:
    """Gaussian noise added to the actor's theta.

    An offset that stays for an episode shows what a strategy does when it is kept up; noise at each stage tells
    the stages apart.

    Args:
        spread: of the noise on each entry of theta, beside that of b, [F + 1].
        episode_noise: standard deviation of an episode's offset, of b.
        stage_noise: standard deviation of a stage's noise, of b.
        decay: factor on both after every episode.
        seed: of the noise's own generator; the global random state is never touched.
    """

    def __init__(self, spread: Tensor, episode_noise: float, stage_noise: float, decay: float, seed: int) -> None:
        if min(episode_noise, stage_noise) < 0 or not 0 < decay <= 1:
            raise ValueError(
                f"Noise must be at least 0 and its decay in (0, 1], not {episode_noise}, {stage_noise}, {decay}."
            )
        self._spread = spread
        self.episode_noise = episode_noise
        self.stage_noise = stage_noise
        self.decay = decay
        self.seed = seed
        self._own = OwnGenerator(seed)
        self.episode = 0
        self.scale = 1.0
        self.offset = torch.zeros_like(spread)  # until the first episode starts

    def start_episode(self) -> None:
        """Draw the offset of a new episode; the noise decays with the episodes before it.

        What an episode draws depends on the seed and its number alone, so that workers can share episodes out.
        """
        self._own.reseed(self.seed, self.episode)
        self.scale = self.decay**self.episode
        self.offset = self._normal() * (self.episode_noise * self.scale)
        self.episode += 1

    def __call__(self, theta: Tensor) -> Tensor:
        """Theta with this episode's offset and fresh noise, [F + 1]."""
        return theta + self.offset + self._normal() * (self.stage_noise * self.scale)

    def _normal(self) -> Tensor:
        return torch.randn(len(self._spread), generator=self._own.generator) * self._spread

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next draws depend on."""
        return {
            "seed": self.seed,
            "episode": self.episode,
            "scale": self.scale,
            "offset": self.offset.clone(),
            "generator": self._own.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            ValueError: it is not the state of an exploration of this length.
        """
        numbers = (state.get("seed", 0), state["episode"])
        if not all(isinstance(number, int) and number < 2**63 for number in numbers) or state["episode"] < 0:
            raise ValueError("the exploration's seed and episode must be whole numbers")
        if state["offset"].shape != self.offset.shape or not isinstance(state["scale"], (int, float)):
            raise ValueError(
                f"the exploration's offset must have length {len(self._spread)}, and its scale be a number"
            )
        self.seed = state.get("seed", self.seed)  # files of before had none
        self.episode = state["episode"]
        self.scale = state["scale"]
        self.offset = state["offset"].clone()
        self._own.generator.set_state(state["generator"])
