"""How many optimizer steps the stages of a fit have."""

from __future__ import annotations

import math

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from law_lightning.callbacks.checks import callbacks_of
from law_lightning.stages.clock import StageClock
from law_lightning.stages.schedule import StageSchedule


def check_end(trainer: L.Trainer, total_steps: int | None, patience_factor: int | None) -> None:
    """Raise a MisconfigurationException where neither the training nor its stages would end (see ``schedule_of``)."""
    if _has_no_end(trainer) and total_steps is None and not _stops_early(trainer, patience_factor):
        raise MisconfigurationException(
            "LAW cuts a training into stages, so it must end: set max_epochs or max_steps in the Trainer, which "
            "has max_epochs=-1, or give the stages a length of their own by the callback's total_steps."
        )


def schedule_of(
    trainer: L.Trainer,
    num_stages: int,
    warmup_stages: int,
    total_steps: int | None = None,
    patience_factor: int | None = None,
) -> StageSchedule:
    """The stages of a fit that is about to begin.

    They are cut from ``total_steps`` if these are given, else from all steps of the fit; with a ``patience_factor`` and
    an EarlyStopping from that many times its patience, if this is less.

    Raises:
        MisconfigurationException: the number of its steps is not known, or is smaller than that of its stages.
    """
    short = bool(getattr(trainer, "fast_dev_run", False)) and num_stages > 1
    total: float
    if total_steps is not None and not short:
        total = total_steps
    else:
        limit = math.inf if patience_factor is None or short else patience_factor * _steps_of_patience(trainer)
        whole = math.inf if limit < math.inf and _has_no_end(trainer) else _steps(trainer)
        total = min(max(limit, num_stages), whole)
        if total < whole:
            _note_early_stopping(trainer, int(total), int(total) * warmup_stages // num_stages)
    try:
        schedule = StageSchedule(int(total), num_stages, warmup_stages, may_be_short=short)
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error
    if short:
        rank_zero_info(
            f"fast_dev_run: its optimizer steps, at most {total}, fall into {min(int(total), num_stages)} of LAW's "
            f"{num_stages} stages, the last among them; the others are passed over."
        )
    return schedule


def warn_of_unreached(trainer: L.Trainer, who: str, clock: StageClock, patience_factor: int | None) -> None:
    """Warn at the end of a fit that was shorter than its stages, unless EarlyStopping ended it after the warm-up.

    ``who`` is the callback.
    """
    steps = trainer.global_step
    reached = clock.reached(steps)
    weighted = reached > clock.warmup_stages
    if reached == clock.num_stages or (weighted and _stops_early(trainer, patience_factor)):
        return
    plain = f", none after the warm-up of {clock.warmup_stages}: every sample weighed 1"
    found = f"{reached} of {clock.num_stages} stages" + ("" if weighted else plain)
    rank_zero_warn(
        f"The training took {steps} of the {clock.total_steps} optimizer steps that {who} cut into stages, and reached "
        f"{found}. By default their length is that of max_epochs, max_steps and the data. A training that ended before "
        "(EarlyStopping, max_time) is right as it is, with the weights of these stages. To pass through all stages in "
        f"fewer steps, which changes the training, give their number: {who}(..., total_steps=...)."
    )


def _has_no_end(trainer: L.Trainer) -> bool:
    """Whether nothing but another callback ends a fit."""
    return trainer.max_epochs == -1 and trainer.max_steps == -1


def _stops_early(trainer: L.Trainer, patience_factor: int | None) -> bool:
    """Whether the stages follow an EarlyStopping."""
    return patience_factor is not None and bool(callbacks_of(trainer, EarlyStopping))


def _steps_of_patience(trainer: L.Trainer) -> float:
    """Optimizer steps from the best validation until EarlyStopping ends a fit; infinite if none does, or if unknown."""
    patience = min((each.patience for each in callbacks_of(trainer, EarlyStopping)), default=math.inf)
    batches = trainer.val_check_batch  # infinite for data without a length, None where the clock decides
    if batches is None:
        return math.inf
    return float(max(1, patience) * batches * (trainer.check_val_every_n_epoch or 1) / _accumulation(trainer))


def _note_early_stopping(trainer: L.Trainer, total: int, warmup_steps: int) -> None:
    of_loss = any("loss" in each.monitor for each in callbacks_of(trainer, EarlyStopping))
    better = " Monitor an accuracy: weights raise the loss on noisy validation labels." if of_loss else ""
    rank_zero_info(
        f"With EarlyStopping {_steps_of_patience(trainer):g} optimizer steps without progress end this fit, so its "
        f"stages are cut from {total}: weights begin after {warmup_steps}.{better}"
    )


def _accumulation(trainer: L.Trainer) -> int:
    """Batches an optimizer step, of a fit that is about to begin."""
    factors = {n for each in callbacks_of(trainer, GradientAccumulationScheduler) for n in each.scheduling.values()}
    if len(factors) > 1:
        raise MisconfigurationException(
            "With a GradientAccumulationScheduler that changes the accumulation, the number of steps is not known "
            "beforehand, and LAW cannot cut them into stages: use accumulate_grad_batches, or give the stages a length "
            "of their own by the callback's total_steps."
        )
    batches: int = max({trainer.accumulate_grad_batches, *factors})
    return batches


def _steps(trainer: L.Trainer) -> float:
    """Optimizer steps of a fit that is about to begin."""
    now = trainer.accumulate_grad_batches
    trainer.accumulate_grad_batches = _accumulation(trainer)  # a scheduler itself sets it when the first epoch begins
    try:
        total = trainer.estimated_stepping_batches
    finally:
        trainer.accumulate_grad_batches = now
    if not 0 < total < math.inf:  # -1 or inf: unknown
        raise MisconfigurationException(
            "LAW cuts a training into stages, so the number of its steps must be known: give the Trainer "
            "max_steps, the training data a length, or the callback total_steps."
        )
    return total
