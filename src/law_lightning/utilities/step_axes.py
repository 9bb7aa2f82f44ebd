"""Metrics that are counted in stages or episodes, beside those that are counted in the Trainer's steps."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from lightning.pytorch.loggers import Logger, WandbLogger

#: The metrics whose axis Weights & Biases knows, for each of its loggers.
_defined: WeakKeyDictionary[Logger, frozenset[str]] = WeakKeyDictionary()


def log_over(axis: str, logger: Logger, scalars: Mapping[str, float], step: int | None = None) -> None:
    """Log scalars; Weights & Biases draws them over one of them and not over the Trainer's step.

    Args:
        axis: its key in ``scalars``, such as ``law/stage``.
        logger: any logger.
        scalars: numbers by their log keys.
        step: for the loggers that know no other axis.
    """
    if isinstance(logger, WandbLogger):
        known = _defined.get(logger, frozenset())
        # By their whole names: of law/* and the logger's own *, W&B takes one at random.
        for name in scalars.keys() - known:
            logger.experiment.define_metric(name, step_metric=axis)
        _defined[logger] = known | scalars.keys()
    logger.log_metrics(dict(scalars), step=step)
