"""MentorNet (Jiang et al., ICML 2018, arXiv 1712.05055) as a weighting: a predefined curriculum, or a learned one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from law_lightning.capture.samples import Samples
from law_lightning.stages.schedule import TrainingPhase
from law_lightning.utilities.randomness import OwnGenerator
from law_lightning.weighting.base import BaseWeighting

#: The epochs that a mentor tells apart, whatever a training's number of stages: percent of the training.
EPOCHS = 100


class MentorInputs(NamedTuple):
    """The inputs of a mentor.

    Attributes:
        loss: [N].
        difference: the loss less the moving percentile of losses, [N].
        label: class indices, [N].
        epoch: how much of the training is done, in percent, 0 to 99, [N].
    """

    loss: Tensor
    difference: Tensor
    label: Tensor
    epoch: Tensor


def predefined_curriculum(difference: Tensor, softness: float) -> Tensor:
    r"""The weights that minimise the paper's predefined objective (its Equations 5 and 6).

    .. math:: v_i = \min(1, \max(0, 1 - (\ell_i - \lambda_1) / \lambda_2)), \qquad
        v_i = [\ell_i \le \lambda_1] \text{ for } \lambda_2 = 0

    where :math:`\ell_i` is a sample's loss, :math:`\lambda_1` the moving percentile and :math:`\lambda_2` the softness.

    Args:
        difference: :math:`\ell_i - \lambda_1`, [B].
        softness: :math:`\lambda_2`, at least 0.

    Returns:
        The weights, [B] in [0, 1]; 0 where a loss is not a number.
    """
    if softness == 0:
        return (difference <= 0).to(difference.dtype)
    return (1 - difference / softness).clamp(0, 1).nan_to_num(0)


class MentorNetwork(nn.Module):
    """The mentor of the data-driven curriculum (Figure 2 of the paper), which maps its inputs to a weight.

    A bidirectional LSTM reads loss and difference; with embeddings of label and epoch its states go through a layer of
    20 units with tanh to a weight in (0, 1). The embedding of the epoch is random and stays so, as published.

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
        self.hidden = nn.Linear(2 + 5 + 2, 20)
        self.out = nn.Linear(20, 1)

    def forward(self, inputs: MentorInputs) -> Tensor:
        """The logits of the weights, [N], in float32: not every CPU has an LSTM in the half precision of a fit."""
        course = torch.stack([inputs.loss, inputs.difference], dim=1).float().unsqueeze(1)
        label = self.label(inputs.label.clamp(max=self.label.num_embeddings - 1))
        epoch = self.epoch(inputs.epoch.clamp(0, EPOCHS - 1))
        with torch.autocast(course.device.type, enabled=False):
            _, (states, _) = self.course(course)
            features = torch.cat([label, epoch, states.transpose(0, 1).flatten(1)], dim=1)
            logits: Tensor = self.out(torch.tanh(self.hidden(features)))
        return logits.squeeze(1)

    def learn(self, inputs: MentorInputs, wanted: Tensor, steps: int = 2000, lr: float = 0.01, seed: int = 0) -> float:
        """Learn a curriculum: minimise the cross-entropy to given weights, in batches of 256.

        Args:
            inputs: of N samples seen in earlier trainings.
            wanted: the weights to learn, [N] in [0, 1]: for a data-driven curriculum, whether the label was right.
            steps: of Adam.
            lr: its rate.
            seed: of the batches.

        Returns:
            The cross-entropy on all N samples afterwards, in nats.
        """
        optimizer = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=lr)
        generator = torch.Generator().manual_seed(seed)
        wanted = wanted.float()
        for _ in range(steps):
            rows = torch.randint(len(wanted), (min(256, len(wanted)),), generator=generator)
            loss = F.binary_cross_entropy_with_logits(
                self(MentorInputs(*(column[rows] for column in inputs))), wanted[rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float(F.binary_cross_entropy_with_logits(self(inputs), wanted))


class MentorNetWeighting(BaseWeighting):
    """``WeightingCallback(MentorNetWeighting())``: a mentor weights samples by the course of their losses.

    The predefined curriculum (PD) is the one that the published network was taught: every sample weighs 1 during the
    burn-in, then the samples up to lambda_1 do, and towards the end those above it weigh less the farther they are.
    The moving percentile is that of a process's own batches. The epoch advances with the callback's stages.

    Args:
        mentor: a :class:`MentorNetwork` that has learned (MentorNet DD); None for the predefined curriculum.
        percentile: share of a batch whose losses lie below lambda_1, in (0, 1). The published commands have 0.75 for
            20 % and 40 % of wrong labels and 0.5 for 80 %.
        burn_in: share of the training in which every sample that is not dropped weighs 1: epochs 0 to 18 of 100 in
            the published curriculum; 0.18 in the published commands of DD.
        softness: lambda_2 of the predefined curriculum once it is soft, in nats; 0 keeps it hard.
        soft_from: share of the training after which it is.
        dropout: share of each batch that is left out at random, until ``dropout_until`` and afterwards.
        dropout_until: share of the training.
        decay: of the moving percentile, which begins at 0.
        seed: of what is left out.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        mentor: MentorNetwork | None = None,
        *,
        percentile: float = 0.75,
        burn_in: float = 0.19,
        softness: float = 1.0,
        soft_from: float = 0.9,
        dropout: tuple[float, float] = (0.5, 0.05),
        dropout_until: float = 0.17,
        decay: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not 0 < percentile < 1:
            raise ValueError(f"percentile must be in (0, 1), not {percentile}.")
        if not softness >= 0:
            raise ValueError(f"softness must be at least 0, not {softness}.")
        if len(dropout) != 2 or not all(0 <= rate < 1 for rate in (*dropout, decay)):
            raise ValueError(f"The two rates of dropout and decay must be in [0, 1), not {dropout} and {decay}.")
        if not all(0 <= share <= 1 for share in (burn_in, soft_from, dropout_until)):
            raise ValueError(
                "burn_in, soft_from and dropout_until must be in [0, 1], not "
                f"{burn_in}, {soft_from} and {dropout_until}."
            )
        self.mentor = mentor
        self.percentile = percentile
        self.burn_in = burn_in
        self.softness = softness
        self.soft_from = soft_from
        self.dropout = dropout
        self.dropout_until = dropout_until
        self.decay = decay
        self.seed = seed
        self.threshold = torch.zeros(())
        self._own = OwnGenerator(seed)

    def start(self, trainer: L.Trainer) -> None:
        """Begin anew, each process with draws of its own."""
        self.threshold = torch.zeros(())
        self._own.reseed(self.seed, trainer.global_rank)

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
        stay = max(int(len(loss) * (1 - self.dropout[done >= self.dropout_until])), 1)
        kept = torch.zeros(len(loss))
        kept[torch.randperm(len(loss), generator=self._own.generator)[:stay]] = 1
        return weights * kept.to(weights.device)

    def state_dict(self) -> dict[str, Any]:
        """Moving percentile, random state, and the mentor's parameters."""
        mentor = None if self.mentor is None else {k: v.cpu().clone() for k, v in self.mentor.state_dict().items()}
        return {"threshold": self.threshold.cpu(), "generator": self._own.generator.get_state(), "mentor": mentor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.threshold = state["threshold"]
        self._own.generator.set_state(state["generator"])
        if self.mentor is not None and state["mentor"] is not None:
            self.mentor.load_state_dict(state["mentor"])
