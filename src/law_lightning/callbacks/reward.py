"""DNR: a reference network trains beside the target, and the difference of their accuracies is the reward."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from law_lightning import functional as LF
from law_lightning.agent.update import MOST_REWARD
from law_lightning.callbacks.checks import refuse_averages, refuse_search, refuse_validation
from law_lightning.callbacks.lockstep import LockstepCallback
from law_lightning.callbacks.staged import Record
from law_lightning.capture.loss_capture import LossCapture
from law_lightning.second_network.evaluation import NO_PHASE, NO_REWARD, Evaluator
from law_lightning.second_network.reference import Reference, StepRecord, copy_tensors, tensors
from law_lightning.second_network.trace import ReferenceTrace, TracedReference, fork_digest
from law_lightning.utilities.randomness import random_states
from law_lightning.weighting.base import Weighting


class RewardCallback(LockstepCallback):
    """Trains a reference beside the target and rewards stages, if it searches; a subclass weights.

    Args:
        weighting: see :class:`WeightingCallback`.
        mode: ``"search"``, or ``"apply"``: without a reference.
        keep: which network is in the user's module after a search.
        reward_growth: k of the reward's weight r_w = exp(k ce / ne) s (Equation 9).
        reward_scale: s.
        trace: keeps what the reference gives, or knows it.
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
        trace: ReferenceTrace | None,
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
        if trace is not None and (mode == "apply" or keep == "best"):
            raise ValueError("trace keeps a reference's course, not its network: use mode='search' and keep='target'.")
        super().__init__(weighting, **options)
        self.mode = mode
        self.keep = keep
        self.reward_growth = reward_growth
        self.reward_scale = reward_scale
        self.trace = trace
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
        self._last_accuracies = None
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
        if self.mode == "search" and self._second is None and not self.in_warmup:
            self._second = self._fork(trainer, pl_module, batch)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def _fork(self, trainer: L.Trainer, module: L.LightningModule, batch: Any) -> Reference | TracedReference:
        """The reference begins: a copy of the target, or what is known of such a copy's training."""
        if self.trace is None:
            return Reference(trainer, module)
        if any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs):
            raise MisconfigurationException(
                "The learning rate follows a validation metric of the target (ReduceLROnPlateau), and the reference "
                "follows the target's rate: it differs from episode to episode and cannot be kept. Search with "
                "seed_pool=0 or with another scheduler."
            )
        digest = fork_digest(trainer, module, batch, random_states())
        if self.trace.complete:
            return TracedReference(self.trace, digest)
        self.trace.begin(digest)
        return Reference(trainer, module)

    def before_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what the target's step begins with (a second call in one step, as by LBFGS, changes nothing)."""
        if self._second is not None and self._record is None:
            self._record = self._second.begin_step(args, kwargs)

    def after_step(self, capture: LossCapture) -> None:
        """Note the target's unweighted loss, of the first loss where there are several."""
        if self._record is not None and self._target_loss is None and capture.samples:
            self._target_loss = capture.samples[0].mean_loss

    def follow(self, record: StepRecord, batch_idx: int) -> dict[str, Any]:
        """The reference takes the step that the target took, with plain losses."""
        assert self._second is not None
        result = self._second.step(record, batch_idx)
        if self.trace is not None and not self.trace.complete:
            self.trace.losses.append(None if result.loss is None else result.loss.detach())
        if result.loss is not None and self._target_loss is not None:
            self._statistics.add_gap((self._target_loss - result.loss).float())
        return result.output

    # -- the reward ----------------------------------------------------------------------------------------

    def _accuracies(self, module: L.LightningModule) -> tuple[float, float]:
        """Validation accuracies of target and reference; one network stands for both in the warm-up."""
        assert self._evaluator is not None
        if self._second is None:
            (accuracy,) = self._evaluator([module])
            return accuracy, accuracy
        if isinstance(self._second, TracedReference):
            (target,) = self._evaluator([module])
            return target, self._second.accuracy(self._stage)
        target, reference = self._evaluator([module, self._second.module])
        if self.trace is not None:
            self.trace.accuracies[self._stage] = reference
        return target, reference

    def measure(self, trainer: L.Trainer, module: L.LightningModule, record: Record) -> tuple[float, float]:
        """Validate, once, for reward and phase (Equations 8 and 5): what there is to measure goes into the record."""
        record |= dict.fromkeys(("reward", "acc_target", "acc_reference", "weighted_loss_gap"))
        if record["loss_gap"] is not None:
            record["weighted_loss_gap"] = record["loss_gap"] + record["weighted_loss"] - record["loss"]
        if self.mode == "search":
            assert self.schedule is not None
            target, reference = self._accuracies(module)
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
        if self._second is None:
            self._second = self._fork(trainer, pl_module, None)
        if self.trace is not None:  # a training that was stopped early leaves it incomplete
            self.trace.complete = self.trace.complete or self._stage >= self.num_stages
        if isinstance(self._second, TracedReference) or self.keep == "target":
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
        state = super().fit_state()
        if self.trace is not None:  # see _resume_traced
            return state
        return state | {
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
        if self.trace is not None:
            self._resume_traced(trainer, module, state)
            return
        if state["accuracies"] is not None:
            step, target, reference = state["accuracies"]
            self._last_accuracies = (int(step), float(target), float(reference))
        if state[self.second_key] is not None:
            self._second = Reference(trainer, module)
            self._second.load_state_dict(state[self.second_key])
        super()._resume(trainer, module, state)

    def _resume_traced(self, trainer: L.Trainer, module: L.LightningModule, state: dict[str, Any]) -> None:
        """Begin a new episode where the warm-up of another one from the same seed ended: it is the same in all."""
        assert self.schedule is not None
        ended = trainer.global_step == self.schedule.end(self.warmup_stages - 1) if self.warmup_stages else False
        if "agent" in state or state["stage"] != self.warmup_stages or not ended:
            raise MisconfigurationException(
                "A fit that keeps its reference's course (trace=...) cannot be resumed in the middle: begin it anew."
            )
        self._start(trainer, module)
        super()._resume(trainer, module, state)
        self.start_stage(trainer, module)
