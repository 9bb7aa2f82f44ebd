import sys

import lightning as L
import pytest
import torch

from law_lightning import StrategyAgent
from law_lightning.data import DigitsDataModule
from law_lightning.models import MLP, ImageClassifier
from law_lightning.report import suspects
from zoo import make_trainer


@pytest.fixture
def small():
    """Digits, two steps an epoch, three stages: the smallest run that has everything."""
    data = ["data.train_size=128", "data.val_size=100", "data.batch_size=64", "model.network.hidden=[16]"]
    trainer = ["trainer.max_epochs=3", "trainer.accelerator=cpu"]
    return [*data, *trainer, "hydra/job_logging=none", "hydra/hydra_logging=none"]


@pytest.fixture
def small_search(small):
    search = [
        "search.episodes=2",
        "search.eval_every=1",
        "search.eval_seeds=1",
        "search.check_seeds=2",
        "search.progress=false",
    ]
    return [*small, "agent.num_stages=3", *search]


@pytest.fixture
def train_by_hand():
    """Trains as ``small`` does, without the commands; returns the Trainer, the module and the data."""

    def train(seed, *callbacks, data=None):
        L.seed_everything(seed)
        module = ImageClassifier(MLP((1, 8, 8), 10, hidden=(16,)))
        data = data or DigitsDataModule(train_size=128, val_size=100)
        trainer = make_trainer(callbacks, max_epochs=3)
        trainer.fit(module, datamodule=data)
        return trainer, module, data

    return train


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, caplog):
    """Runs a command's ``main`` in an empty folder and returns what it printed.

    Suspects are drawn where the arguments name ``suspects`` only: that takes a second.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        caplog.set_level("WARNING", name)  # the commands change it; pytest puts it back
    monkeypatch.chdir(tmp_path)

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["law", *arguments])
        with monkeypatch.context() as without_sheet:
            if not any(each.startswith("suspects=") for each in arguments):
                without_sheet.setattr(suspects, "draw_suspects", lambda *_: None)
            main()
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="session")
def strategy(tmp_path_factory):
    """The file of an untrained strategy whose weights differ from one."""
    agent = StrategyAgent(num_stages=3, warmup_stages=1, seed=1)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.3)
    path = tmp_path_factory.mktemp("strategy") / "strategy.safetensors"
    agent.save(path)
    return path
