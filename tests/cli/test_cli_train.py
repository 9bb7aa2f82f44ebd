import csv

import lightning as L
import pytest
import torch

from law_lightning import LAWCallback
from law_lightning.cli.train import main
from law_lightning.data import DigitsDataModule
from law_lightning.models import MLP, ImageClassifier
from zoo import make_trainer


def by_hand(*callbacks, seed=0):
    """The same training without the command."""
    L.seed_everything(seed)
    module = ImageClassifier(MLP((1, 8, 8), 10, hidden=(16,)))
    trainer = make_trainer(callbacks, max_epochs=3)
    trainer.fit(module, datamodule=DigitsDataModule(train_size=128, val_size=100))
    return module.state_dict()


def saved(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]


def test_plain_training_is_plain_lightning(command, small, tmp_path):
    out = command(main, *small, "run_dir=run")
    expected, got = by_hand(), saved(tmp_path / "run")
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert "Test accuracy, last epoch:" in out
    assert "best epoch by validation" in out
    assert (tmp_path / "run" / "metrics.csv").is_file()
    assert (tmp_path / "run" / "config.yaml").is_file()
    assert not (tmp_path / "run" / "history.csv").exists()


def test_training_with_a_strategy_is_the_callback(command, small, strategy, tmp_path):
    command(main, *small, f"strategy={strategy}", "run_dir=run")
    expected, got = by_hand(LAWCallback(str(strategy), mode="apply")), saved(tmp_path / "run")
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    plain = by_hand()
    assert not all(torch.equal(got[key], plain[key]) for key in plain)
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_loggers_write_into_the_run_folder(command, small, tmp_path, logger):
    command(main, *small, f"logger={logger}", "run_dir=run")
    assert any((tmp_path / "run" / logger).iterdir())


def test_missing_strategy_is_one_line(command, small):
    with pytest.raises(SystemExit, match=r"^law-train: No strategy file at .*none\.pt"):
        command(main, *small, "strategy=none.pt")


def test_a_foreign_strategy_file_is_one_line(command, small, tmp_path):
    (tmp_path / "foreign.pt").write_text("no strategy")
    with pytest.raises(SystemExit, match=r"^law-train: .*foreign\.pt"):
        command(main, *small, "strategy=foreign.pt")
