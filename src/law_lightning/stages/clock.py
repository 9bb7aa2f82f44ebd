"""3SM, stage-based search: the current stage of a fit, its training phase, and a record of each finished stage."""

from __future__ import annotations

import math
from typing import Any

from law_lightning import functional as LF
from law_lightning.stages.schedule import StageSchedule, TrainingPhase

Record = dict[str, Any]

#: Upper limit of l_smooth, in units of the loss of a uniform guess: beyond it a training has diverged.
MAX_LOSS = 10.0
#: Upper limit of l_smooth and acc_smooth in a state that is loaded; those of a fit are far below.
MAX_SMOOTH = 1e6


class StageClock:
    """Counts the stages of a fit.

    Args:
        num_stages: T_max.
        warmup_stages: the first stages, in which every sample weighs 1.
        smoothing: weight of the previous average in l_smooth and acc_smooth, in [0, 1).

    Attributes:
        schedule: the stages of the fit; None before it begins.
        stage: T, from 0; ``num_stages`` when all have ended.
        phase: s_T (Equation 5), constant throughout a stage. Before anything was learned the loss is that of a uniform
            guess and the accuracy 0.
        history: a record per finished stage, as plain numbers.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, num_stages: int, warmup_stages: int, smoothing: float) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), not {smoothing}.")
        StageSchedule(num_stages, num_stages, warmup_stages)  # checks them
        self.num_stages = num_stages
        self.warmup_stages = warmup_stages
        self.smoothing = smoothing
        self.start(None)

    def start(self, schedule: StageSchedule | None) -> None:
        """A fit begins."""
        self.schedule = schedule
        self.stage = 0 if schedule is None else schedule.stage(0)
        self.phase = TrainingPhase(self.stage, self.num_stages, loss_smooth=1.0, acc_smooth=0.0)
        self.history: list[Record] = []

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the fit."""
        assert self.schedule is not None
        return self.schedule.total_steps

    @property
    def in_warmup(self) -> bool:
        """Whether every sample weighs 1 for now."""
        return self.stage < self.warmup_stages

    @property
    def is_over(self) -> bool:
        """Whether all stages have ended."""
        return self.stage >= self.num_stages

    def is_due(self, step: int) -> bool:
        """Whether the stage ends with this number of optimizer steps done."""
        return not self.is_over and self.schedule is not None and step >= self.schedule.end(self.stage)

    def reached(self, step: int) -> int:
        """How many stages a training of this number of optimizer steps has reached."""
        assert self.schedule is not None
        return self.schedule.stage(step - 1) + 1 if step else 0

    def next_phase(self, loss: float, accuracy: float, noise: float = 0.0) -> TrainingPhase:
        """s_{T+1} after a stage of this loss, in the unit of l_smooth, this accuracy, in [0, 1], and label noise."""
        phase, following = self.phase, self._following
        old = (phase.loss_smooth, phase.acc_smooth, phase.noise_smooth) if self.history else (None, None, None)
        smooth = [LF.smooth(*pair, self.smoothing) for pair in zip(old, (loss, accuracy, noise), strict=True)]
        return TrainingPhase(min(following, self.num_stages - 1), self.num_stages, *smooth)

    @property
    def _following(self) -> int:
        assert self.schedule is not None
        return self.schedule.following(self.stage)

    def advance(self, record: Record, phase: TrainingPhase) -> None:
        """The stage has ended and the next one begins in ``phase``."""
        self.history.append(record)
        self.phase = phase
        self.stage = self._following

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "total_steps": self.total_steps,
            "num_stages": self.num_stages,
            "stage": self.stage,
            "loss_smooth": self.phase.loss_smooth,
            "acc_smooth": self.phase.acc_smooth,
            "noise_smooth": self.phase.noise_smooth,
            "history": [dict(record) for record in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`.

        Raises:
            ValueError: the state is invalid.
        """
        state = {"noise_smooth": 0.0} | state  # earlier versions had none
        stage, names = state["stage"], ("loss_smooth", "acc_smooth", "noise_smooth")
        smooth = [state[name] for name in names]
        if not isinstance(stage, int) or not 0 <= stage <= self.num_stages:
            raise ValueError(f"invalid stage {stage!r}")
        if not all(abs(value) <= MAX_SMOOTH for value in smooth):
            raise ValueError(f"invalid {', '.join(names)} {smooth}")
        entries = [value for record in state["history"] for value in record.values()]
        flat = [value for entry in entries for value in (entry if isinstance(entry, list) else [entry])]
        if not all(value is None or isinstance(value, (int, float)) for value in flat):
            raise ValueError("its history holds more than numbers")
        self.stage = stage
        self.phase = TrainingPhase(min(stage, self.num_stages - 1), self.num_stages, *map(float, smooth))
        self.history = [dict(record) for record in state["history"]]


def phase_loss(record: Record, relative: bool) -> float:
    """A stage's mean training loss within :data:`MAX_LOSS`; ``relative``: in units of log C, a uniform guess's loss.

    Without the limit a training that diverges would give the strategy's networks arbitrarily large inputs.
    """
    classes = len(record["weight_per_class"])
    chance = math.log(classes) if classes > 1 else 1.0
    loss = float(min(max(record["loss"] / chance, -MAX_LOSS), MAX_LOSS))
    return loss if relative else loss * chance
