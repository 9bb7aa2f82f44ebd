"""DNR: a reference network trains beside the target, and the difference of their accuracies is the reward."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.agent.ddpg import MOST_REWARD
from law_lightning.callbacks.checks import refuse_averages, refuse_search, refuse_validation
from law_lightning.callbacks.lockstep import LockstepCallback
from law_lightning.callbacks.staged import Record
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.second_network.evaluation import NO_PHASE, NO_REWARD, Evaluator
from law_lightning.second_network.reference import Reference, StepRecord, copy_tensors, tensors
from law_lightning.stages.statistics import StageStatistics
from law_lightning.weighting.base import Weighting


class RewardCallback(LockstepCallback):
    """Trains a reference beside the target and rewards stages, if it searches; a subclass weights.

    Args:
        weighting: see :class:`WeightingCallback`.
        mode: ``"search"``, or ``"apply"``: without a reference.
        keep: which network is in the user's module after a search.
        reward_growth: k of the reward's weight r_w = exp(k ce / ne) s (Equation 9).
        reward_scale: s.
        reference_record: what the reference gave at the stage ends (see :class:`LAWCallback`).
        options: of :class:`WeightingCallback`.

    Raises:
        ValueError: a bad argument.
    """

    second_key = "reference"

    def __init__(
        self,
        weighting: Weighting,
        mode: Literal["search", "apply"],
        keep: Literal["best", "target"],
        reward_growth: float,
        reward_scale: float,
        reference_record: dict[int, dict[str, float]] | None,
        **options: Any,
    ) -> None:
        if mode not in ("search", "apply"):
            raise ValueError(f"mode must be 'search' or 'apply', not {mode!r}.")
        if keep not in ("best", "target"):
            raise ValueError(f"keep must be 'best' or 'target', not {keep!r}.")
        if not math.isfinite(reward_growth) or not reward_scale > 0:
            raise ValueError(
                f"reward_growth must be finite and reward_scale above 0, not {reward_growth}, {reward_scale}."
            )
        if not reward_growth + math.log(reward_scale) < math.log(MOST_REWARD):  # exp of the growth may overflow
            raise ValueError(
                f"exp(reward_growth) * reward_scale must be below {MOST_REWARD:g}, or the rewards are too large to be "
                f"learned from: lower reward_growth={reward_growth} or reward_scale={reward_scale}."
            )
        if reference_record is not None and (mode == "apply" or keep == "best"):
            raise ValueError(
                "reference_record holds a reference's accuracies, not its network: use mode='search' and keep='target'."
            )
        super().__init__(weighting, **options)
        self.mode = mode
        self.keep = keep
        self.reward_growth = reward_growth
        self.reward_scale = reward_scale
        self.reference_record = reference_record
        self._reference_losses, self._is_recorded = StageStatistics(), False
        self._evaluator: Evaluator | None = None
        self._target_loss: Tensor | None = None
        self._last_accuracies: tuple[int, float, float] | None = None

    @property
    def reference(self) -> L.LightningModule | None:
        """The reference network; None in apply mode, and until the warm-up ends (one network trains for both)."""
        return self.second

    @property
    @abstractmethod
    def validates(self) -> bool:
        """Whether a stage's end needs the network's validation accuracy, also without a reference."""

    # -- before training -----------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything runs."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if self.mode == "apply":
            if self.validates:
                refuse_validation(trainer)
            return
        refuse_search(trainer, pl_module)
        if self.keep == "best":
            refuse_averages(trainer, type(self).__name__, "target")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the validation data on one batch."""
        self._last_accuracies, self._reference_losses = None, StageStatistics()
        record = self.reference_record
        self._is_recorded = record is not None and record.keys() >= set(range(self.warmup_stages, self.num_stages))
        if record is not None and not self._is_recorded:
            record.clear()  # of a fit that stopped early
        if record is not None and any(each.reduce_on_plateau for each in trainer.lr_scheduler_configs):
            raise MisconfigurationException(
                "The learning rate follows a validation metric of the target (ReduceLROnPlateau), and the reference "
                "takes the target's rate: what it gives differs from episode to episode, so it cannot be recorded. "
                "Search with seed_pool=0 or with another scheduler."
            )
        if self.mode == "search" or self.validates:
            self._evaluator = Evaluator(trainer, NO_REWARD if self.mode == "search" else NO_PHASE)
            self._evaluator([pl_module], limit=1)
        super().on_train_start(trainer, pl_module)

    # -- the lockstep --------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Fork the reference when the warm-up has ended: until then one network trained for both."""
        self._target_loss = None
        if self.mode == "search" and self._second is None and not self.in_warmup and not self._is_recorded:
            self._second = Reference(trainer, pl_module)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the target's loss, then let the reference take its step; then the stage may end."""
        if self._target_loss is not None:
            self._statistics.add_gap(self._target_loss.float())
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the target's step begins with (a second call in one step, as by LBFGS, changes nothing)."""
        if self._second is not None and self._record is None:
            self._record = self._second.begin_step(args, kwargs)

    def after_step(self, capture: LossCapture) -> None:
        """Note the target's unweighted loss, of the first loss where there are several."""
        searches = self.mode == "search" and not self.in_warmup
        if searches and self._target_loss is None and capture.samples:
            self._target_loss = capture.samples[0].mean_loss

    def follow(self, record: StepRecord, batch_idx: int) -> dict[str, Any]:
        """The reference takes the step that the target took, with plain losses."""
        assert self._second is not None
        result = self._second.step(record, batch_idx)
        if result.loss is not None:
            self._reference_losses.add_gap(result.loss.float())
        return result.output

    # -- the reward ----------------------------------------------------------------------------------------

    def _accuracies(self, module: L.LightningModule) -> tuple[float, float]:
        """Validation accuracies of target and reference; one network stands for both in the warm-up."""
        assert self._evaluator is not None
        if self._second is None:
            (accuracy,) = self._evaluator([module])
            return accuracy, accuracy
        target, reference = self._evaluator([module, self._second.module])
        return target, reference

    def _reference_gave(self, trainer: L.Trainer, accuracy: float) -> dict[str, float]:
        """The reference's accuracy and mean loss in the stage that ends: what was measured, or its record."""
        record = self.reference_record
        if self._is_recorded and not self.in_warmup:
            assert record is not None
            return record[self._stage]
        given, loss = {"accuracy": accuracy}, self._reference_losses.summary(trainer)["loss_gap"]
        if loss is not None:
            given["loss"] = loss
        if record is not None and not self.in_warmup:
            record[self._stage] = given
        return given

    def measure(self, trainer: L.Trainer, module: L.LightningModule, record: Record) -> tuple[float, float]:
        """Validate, once, for reward and phase (Equations 8 and 5): what there is to measure goes into the record."""
        record |= dict.fromkeys(("reward", "acc_target", "acc_reference", "weighted_loss_gap"))
        if self.mode == "search":
            assert self.schedule is not None
            target, reference = self._accuracies(module)
            given = self._reference_gave(trainer, reference)
            reference = given["accuracy"]
            if record["loss_gap"] is not None:  # so far the target's mean loss
                record["loss_gap"] = record["loss_gap"] - given["loss"] if "loss" in given else None
            if record["loss_gap"] is not None:
                record["weighted_loss_gap"] = record["loss_gap"] + record["weighted_loss"] - record["loss"]
            self._last_accuracies = (trainer.global_step, target, reference)
            weight = LF.reward_weight(record["step"], self.schedule.total_steps, self.reward_growth, self.reward_scale)
            record |= {
                "acc_target": target,
                "acc_reference": reference,
                "reward": LF.reward(target, reference, weight),
            }
        elif self._evaluator is not None:
            (record["acc_target"],) = self._evaluator([module])
        return super().measure(trainer, module, record)

    # -- afterwards ----------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the network that validates better in the user's module (``keep="best"``)."""
        if self.mode == "search":
            self._end_search(trainer, pl_module)
        super().on_train_end(trainer, pl_module)

    def _end_search(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._second is None and not self._is_recorded:
            self._second = Reference(trainer, pl_module)
        if self.keep == "target":
            return
        if self._last_accuracies is None or self._last_accuracies[0] != trainer.global_step:
            self._last_accuracies = (trainer.global_step, *self._accuracies(pl_module))
        self.choose(pl_module, *self._last_accuracies[1:])

    def release(self) -> None:
        """Take the reference off the Trainer; a plain module remains."""
        super().release()
        self._evaluator = self._target_loss = None

    # -- state ---------------------------------------------------------------------------------------------

    def fit_state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain Python."""
        return super().fit_state() | {
            "recorded": self.reference_record is not None,
            self.second_key: None if self._second is None else self._second.state_dict(),
            "accuracies": None if self._last_accuracies is None else list(self._last_accuracies),
        }

    def choose_late(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """By the accuracies at the last stage's end, if that was the last step."""
        step, target, reference = state["accuracies"] or (None, 0.0, 0.0)
        if step != trainer.global_step:
            super().choose_late(trainer, module, state)
        elif reference > target:
            copy_tensors(state[self.second_key]["tensors"], tensors(module))

    def _resume(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        if self.reference_record is not None or state.get("recorded"):
            raise MisconfigurationException(
                "A fit with reference_record=... cannot be resumed, as its checkpoints need not hold a reference: "
                "begin it anew."
            )
        if state["accuracies"] is not None:
            step, target, reference = state["accuracies"]
            self._last_accuracies = (int(step), float(target), float(reference))
        if state[self.second_key] is not None:
            self._second = Reference(trainer, module)
            self._second.load_state_dict(state[self.second_key])
        super()._resume(trainer, module, state)

    def process_state(self) -> dict[str, Any]:
        """What each process has for itself: tensors and plain Python."""
        return super().process_state() | {"reference_losses": self._reference_losses.state_dict()}

    def load_process_state(self, trainer: L.Trainer, own: dict[str, Any]) -> None:
        """Go on where :meth:`process_state` was taken on this process."""
        super().load_process_state(trainer, own)
        losses = own.get("reference_losses") or _no_losses(own["statistics"])
        self._reference_losses.load_state_dict(losses, trainer.strategy.root_device)


def _no_losses(statistics: dict[str, Any]) -> dict[str, Any]:
    """For files of before, whose loss gaps were kept instead of both losses: as many losses of the reference, of 0."""
    gap = statistics["sums"].get("gap")
    sums = {} if gap is None else {"gap": gap * gap.new_tensor([0.0, 1.0])}
    gaps = [torch.zeros_like(gap) for gap in statistics["gaps"]]
    return {"sums": sums, "pending": [], "gaps": gaps, "num_classes": 0}
