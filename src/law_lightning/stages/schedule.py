"""3SM, stage-based search: a training run is cut into T_max stages; one strategy holds for a whole stage."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class StageSchedule:
    """Which stage an optimizer step belongs to.

    Where the steps do not divide evenly, stages differ by at most one step.

    Args:
        total_steps: optimizer steps of the whole run (accumulation already counted).
        num_stages: T_max.
        warmup_stages: the first stages, in which every sample weighs 1.
        may_be_short: allow fewer steps than stages; some stages then have no step, the first among them.

    Raises:
        ValueError: fewer steps than stages, no stages, or nothing left after the warm-up.

    Example:
        >>> schedule = StageSchedule(total_steps=10, num_stages=3, warmup_stages=1)
        >>> schedule.boundaries
        (3, 6, 10)
        >>> [schedule.stage(step) for step in range(10)]
        [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    """

    total_steps: int
    num_stages: int = 20
    warmup_stages: int = 0
    may_be_short: bool = False

    def __post_init__(self) -> None:
        if self.num_stages < 1:
            raise ValueError(f"num_stages must be at least 1, not {self.num_stages}.")
        if not 0 <= self.warmup_stages < self.num_stages:
            raise ValueError(
                f"warmup_stages must be at least 0 and below num_stages={self.num_stages}, not {self.warmup_stages}."
            )
        if self.total_steps < (1 if self.may_be_short else self.num_stages):
            raise ValueError(
                f"The training has {self.total_steps} optimizer steps, fewer than its {self.num_stages} stages: train "
                f"longer (max_epochs, max_steps) or set num_stages to at most {self.total_steps}."
            )

    @property
    def boundaries(self) -> tuple[int, ...]:
        """For every stage, how many optimizer steps are done at its end."""
        return tuple(map(self.end, range(self.num_stages)))

    def stage(self, step: int) -> int:
        """The stage of a zero-based optimizer step; steps past the end stay in the last."""
        return min(bisect_right(self.boundaries, step), self.num_stages - 1)

    def end(self, stage: int) -> int:
        """How many optimizer steps are done at the end of ``stage``."""
        return self.total_steps * (stage + 1) // self.num_stages

    def following(self, stage: int) -> int:
        """The next stage that has a step; ``num_stages`` after the last."""
        return bisect_right(self.boundaries, self.end(stage))


@dataclass(frozen=True)
class TrainingPhase:
    """s_T, where the training is (Equation 5), as plain numbers; constant throughout a stage.

    Attributes:
        stage: T, from 0.
        num_stages: T_max.
        loss_smooth: smoothed training loss divided by log C; 1 is the loss of an untrained network. With LAWCallback
            and ``StrategyAgent(relative_loss=False)`` as it is.
        acc_smooth: smoothed training accuracy, in [0, 1]; with LAWCallback the validation accuracy of the target,
            unless the agent's ``phase_accuracy`` is ``"training"``.
        noise_smooth: smoothed :func:`law_lightning.functional.confident_error` of the validation predictions, or of
            the training's if that is larger (not in the paper); 0 where nothing measures it.
    """

    stage: int
    num_stages: int
    loss_smooth: float
    acc_smooth: float
    noise_smooth: float = 0.0

    @property
    def numbers(self) -> list[float]:
        """All that is not the stage, in order."""
        return [self.loss_smooth, self.acc_smooth, self.noise_smooth]
