import logging
import sys

import pytest

#: Digits, two steps an epoch, three stages: the smallest run that has everything.
SMALL = (
    "data.train_size=128",
    "data.val_size=100",
    "data.batch_size=64",
    "model.network.hidden=[16]",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
#: The options of a search as small.
SMALL_SEARCH = (
    *SMALL,
    "agent.num_stages=3",
    "search.episodes=2",
    "search.eval_every=1",
    "search.eval_seeds=1",
    "search.progress=false",
)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs a command's ``main`` in an empty folder and returns what it printed."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    monkeypatch.chdir(tmp_path)

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["law", *arguments])
        main()
        return capsys.readouterr().out

    yield call
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def strategy(tmp_path_factory):
    """The file of an untrained strategy whose weights differ from one."""
    import torch

    from law_lightning import StrategyAgent

    agent = StrategyAgent(num_stages=3, warmup_stages=1, seed=1)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.3)
    path = tmp_path_factory.mktemp("strategy") / "strategy.safetensors"
    agent.save(path)
    return path


@pytest.fixture
def small():
    return SMALL


@pytest.fixture
def small_search():
    return SMALL_SEARCH
