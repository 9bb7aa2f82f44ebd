"""The rule ``general`` at the end of a stage: noise, classes, and the way back to the reference. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.capture.part import Part
from law_lightning.second_network.evaluation import Evaluator, Predictions
from law_lightning.second_network.reference import Reference
from law_lightning.stages.clock import Record
from law_lightning.weighting.law import LAWWeighting


class GeneralRule(Part):
    """What the rule needs beside theta, which is :func:`law_lightning.functional.general_theta`.

    Args:
        weighting: gets shifts and ratios of classes.
        reference: the target goes on from it where it is worse; None never does.

    Attributes:
        strength: factor on theta, halved whenever the target goes on from the reference.
    """

    def __init__(self, weighting: LAWWeighting, reference: Reference | None) -> None:
        self._weighting, self._reference = weighting, reference
        self.strength = 1.0

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A fit begins, without shifts and ratios of classes."""
        self.strength = 1.0
        self._weighting.margin_shift = self._weighting.class_ratio = None

    def after_step(self, capture: LossCapture) -> None:
        """Refuse samples that have no margin, at the first step."""
        if not all(samples.one_label for samples in capture.samples):
            raise MisconfigurationException(
                "The rule general weighs a sample by the margin of its one label, but here a sample has several "
                "labels, many positions, or a label spread over classes. Give one-hot labels as class indices "
                "(y.argmax(1)); for others let a strategy learn from other features: LAWCallback(StrategyAgent())."
            )

    def measure(self, evaluator: Evaluator | None, record: Record) -> float:
        """The label noise: the confident error on the validation data, or that in training if it is larger.

        The training labels may be noisier than those of the validation data, but a network that has fitted them no
        longer contradicts them. A network that is weighted by its own predictions becomes confident in them, so the
        reference's predictions are taken where the target may go on from it. Without validation data there is only
        the error in training.
        """
        self._predictions: list[Predictions] = [] if evaluator is None else evaluator.predictions()
        if self._predictions:
            chosen = self._predictions[0 if self._reference is None else -1]
            held_out = LF.confident_error(chosen.confidence, chosen.accuracy)
            record["confident_error"] = max(record["confident_error"], held_out)
        return float(record["confident_error"])

    def end_stage(self, history: Sequence[Record], record: Record) -> None:
        """Follow the classes, and let the target go on from the reference where it validates worse."""
        counts, margins = torch.tensor(record["count_per_class"]), record["margin_per_class"]
        margin = torch.tensor([0.0 if each is None else each for each in margins], dtype=torch.float64)
        mean = (margin * counts).sum() / counts.sum().clamp_min(1)
        self._weighting.margin_shift = (mean - margin).where(counts > 0, 0.0).float()

        seen = zip_longest(*(each["count_per_class"] for each in [*history, record]), fillvalue=0)  # heads may differ
        given = torch.tensor([sum(column) for column in seen])
        if self._predictions:
            wanted = torch.bincount(self._predictions[0].target, minlength=len(given))[: len(given)]
            self._weighting.class_ratio = LF.class_ratio(wanted, given)

        accuracies = [each.accuracy for each in self._predictions]
        worse = self._reference is not None and len(accuracies) == 2 and LF.is_worse(*accuracies)
        record["recovered"] = int(worse)
        if worse and self._reference is not None:
            self._reference.restore_target()
            self.strength /= 2

    def state_dict(self) -> dict[str, Any]:
        """The strength, and what the weighting was given."""
        given = [self._weighting.margin_shift, self._weighting.class_ratio]
        return {"strength": self.strength, "of_classes": [None if each is None else each.cpu() for each in given]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`.

        Raises:
            ValueError: a number in it is out of its range.
        """
        given: list[Tensor | None] = state["of_classes"]
        if not 0 < state["strength"] <= 1 or not all(each is None or each.isfinite().all() for each in given):
            raise ValueError("the rule's numbers are out of their range")
        self.strength = float(state["strength"])
        self._weighting.margin_shift, self._weighting.class_ratio = given
