"""MentorNet (Jiang et al., ICML 2018, arXiv 1712.05055) as a weighting: a predefined curriculum, or a learned one."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.utilities.randomness import reseed
from law_lightning.weighting.base import BaseWeighting

#: The epochs that a mentor distinguishes: percent of the training, whatever its number of stages.
EPOCHS = 100


class MentorInputs(NamedTuple):
    """The inputs of a mentor, each [N]."""

    loss: Tensor
    difference: Tensor  # the loss less the moving percentile of losses
    label: Tensor  # class indices
    epoch: Tensor  # how much of the training is done, in percent, 0 to 99


def predefined_curriculum(difference: Tensor, softness: float) -> Tensor:
    r"""The weights that minimise the paper's predefined objective (its Equations 5 and 6).

    .. math:: v_i = \min(1, \max(0, 1 - (\ell_i - \lambda_1) / \lambda_2)), \qquad
        v_i = [\ell_i \le \lambda_1] \text{ for } \lambda_2 = 0

    Args:
        difference: a sample's loss less the moving percentile, :math:`\ell_i - \lambda_1`, [B].
        softness: :math:`\lambda_2`, at least 0.

    Returns:
        The weights, [B] in [0, 1]; 0 where a loss is not a number.
    """
    if softness == 0:
        return (difference <= 0).to(difference.dtype)
    return (1 - difference / softness).clamp(0, 1).nan_to_num(0)


class MentorNetwork(nn.Module):
    """The mentor of the data-driven curriculum (Figure 2 of the paper): a network from its inputs to a weight.

    A bidirectional LSTM reads loss and difference; its states, with embeddings of label and epoch, go through a layer
    of 20 units with tanh to a weight in (0, 1). The embedding of the epoch is random and not trained, as published.

    Args:
        num_labels: classes that the mentor distinguishes; 1 ignores the label, as the published models do.
    """

    def __init__(self, num_labels: int = 1) -> None:
        super().__init__()
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, not {num_labels}.")
        self.label = nn.Embedding(num_labels, 2)
        self.epoch = nn.Embedding(EPOCHS, 5)
        self.epoch.weight.requires_grad_(False)
        self.course = nn.LSTM(2, 1, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(2 + 5 + 2, 20), nn.Tanh(), nn.Linear(20, 1))

    def forward(self, inputs: MentorInputs) -> Tensor:
        """The logits of the weights, [N], in float32: not every CPU has an LSTM in the half precision of a fit."""
        course = torch.stack([inputs.loss, inputs.difference], dim=1).float().unsqueeze(1)
        label = self.label(inputs.label.clamp(max=self.label.num_embeddings - 1))
        epoch = self.epoch(inputs.epoch.clamp(0, EPOCHS - 1))
        with torch.autocast(course.device.type, enabled=False):
            _, (states, _) = self.course(course)
            logits: Tensor = self.head(torch.cat([label, epoch, *states], dim=1))
        return logits.squeeze(1)

    def learn(self, inputs: MentorInputs, wanted: Tensor, steps: int = 2000) -> float:
        """Learn a curriculum: minimise the cross-entropy to given weights, with Adam in batches of 256.

        Args:
            inputs: of N samples seen in earlier trainings.
            wanted: the weights to learn, [N] in [0, 1]: for a data-driven curriculum, whether the label was right.
            steps: optimizer steps.

        Returns:
            The cross-entropy on all N samples afterwards, in nats.
        """
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)  # the embedding of the epoch has no gradient
        generator, wanted = torch.Generator().manual_seed(0), wanted.float()
        for _ in range(steps):
            rows = torch.randint(len(wanted), (min(256, len(wanted)),), generator=generator)
            batch = MentorInputs(*(column[rows] for column in inputs))
            loss = F.binary_cross_entropy_with_logits(self(batch), wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float(F.binary_cross_entropy_with_logits(self(inputs), wanted))


@dataclass(eq=False)
class MentorNetWeighting(BaseWeighting):
    """``WeightingCallback(MentorNetWeighting())``: a mentor weights samples by their losses.

    In the predefined curriculum (PD) every sample weighs 1 during the burn-in, then those with a loss up to lambda_1
    do, and towards the end those above it weigh less the farther they are above it. lambda_1 is a moving percentile of
    the losses in a process's own batches. The epoch advances with the callback's stages.

    Args:
        mentor: a trained :class:`MentorNetwork` (MentorNet DD); None for the predefined curriculum.
        percentile: share of a batch whose losses lie below lambda_1, in (0, 1).
        burn_in: share of the training in which every sample that is not dropped weighs 1; the published commands of DD
            have 0.18.
        softness: lambda_2 of the predefined curriculum once it is soft, in nats; 0 keeps it hard.
        soft_from: share of the training after which it is soft.
        dropout: shares of each batch that are left out at random, before ``dropout_until`` and after it.
        dropout_until: share of the training.
        decay: weight of the previous value in the moving percentile, which begins at 0.
        seed: of the dropout.

    Raises:
        ValueError: an argument is out of its range.
    """

    mentor: MentorNetwork | None = None
    _: KW_ONLY
    percentile: float = 0.75
    burn_in: float = 0.19
    softness: float = 1.0
    soft_from: float = 0.9
    dropout: tuple[float, float] = (0.5, 0.05)
    dropout_until: float = 0.17
    decay: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.percentile < 1:
            raise ValueError(f"percentile must be in (0, 1), not {self.percentile}.")
        if not self.softness >= 0:
            raise ValueError(f"softness must be at least 0, not {self.softness}.")
        rates, shares = (*self.dropout, self.decay), (self.burn_in, self.soft_from, self.dropout_until)
        if len(rates) != 3 or not all(0 <= rate < 1 for rate in rates):
            raise ValueError(f"The two rates of dropout and decay must be in [0, 1), not {rates}.")
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"burn_in, soft_from and dropout_until must be in [0, 1], not {shares}.")
        self.threshold = torch.zeros(())
        self._generator = torch.Generator().manual_seed(self.seed)

    def start(self, trainer: L.Trainer) -> None:
        """Reset the percentile and the generator, which differs by process."""
        self.threshold = torch.zeros(())
        reseed(self._generator, self.seed, trainer.global_rank)

    @torch.no_grad()
    def __call__(self, samples: Samples, phase: TrainingPhase) -> Tensor:
        """Weights [B] in [0, 1]."""
        loss, done = samples.loss.float(), phase.stage / phase.num_stages
        known = loss.isfinite() if samples.valid is None else loss.isfinite() & samples.valid
        before = self.threshold.to(loss.device)
        here = loss.where(known, math.nan).nanquantile(self.percentile)
        self.threshold = (self.decay * before + (1 - self.decay) * here).where(known.any(), before)
        difference = loss - self.threshold
        if done < self.burn_in:
            weights = torch.ones_like(loss)
        elif self.mentor is None:
            weights = predefined_curriculum(difference, self.softness if done >= self.soft_from else 0.0)
        else:
            epoch = torch.full_like(samples.target, int(EPOCHS * done))
            inputs = MentorInputs(loss, difference, samples.target, epoch)
            weights = self.mentor.to(loss.device)(inputs).sigmoid().nan_to_num(0)
        count = max(int(len(loss) * (1 - self.dropout[done >= self.dropout_until])), 1)
        kept = torch.zeros(len(loss))
        kept[torch.randperm(len(loss), generator=self._generator)[:count]] = 1
        return weights * kept.to(weights.device)

    def state_dict(self) -> dict[str, Any]:
        """Moving percentile and random state; the mentor does not change in a fit."""
        return {"threshold": self.threshold.cpu(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`."""
        self.threshold = state["threshold"]
        self._generator.set_state(state["generator"])
