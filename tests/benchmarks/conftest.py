import logging
import sys
from pathlib import Path

import pytest

# The scripts import each other as they do when run: from their own folder. One is called as a module of the tests is.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def loggers():
    """The scripts silence Lightning in their process, which here is that of other tests too."""
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric", "torchrl")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
