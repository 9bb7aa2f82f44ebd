"""Benchmarks print their figures, not what Lightning remarks on every small training."""

import logging
import warnings


def quiet() -> None:
    """Silence warnings and Lightning's notes in this process."""
    warnings.filterwarnings("ignore")
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
