"""Writes files as this version of the package does, to be kept for the versions after it.

Run it once for a new format, from the repository and with ``PYTHONPATH=src:tests/helpers``; files of earlier formats
stay as they are: ``python tests/old_files/write_old_files.py tests/old_files/format_N``.
"""

import json
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L
import torch

from law_lightning import LAWCallback, StrategyAgent, StrategySearch
from law_lightning.data import DigitsDataModule, UniformNoise
from law_lightning.models import MLP, ImageClassifier
from zoo import AdamCosine, fit

STEP, STAGES = 15, 2  # a checkpoint within the third stage of 6 steps, after the second


def agent(phase_accuracy="training"):
    """A small strategy that weighs from the start; those of format 1 followed the training accuracy."""
    made = StrategyAgent(
        num_stages=4, warmup_stages=1, hidden=(8,), epochs=1, episode_noise=2.0, phase_accuracy=phase_accuracy
    )
    made.actor.network[-1].bias.data.copy_(torch.tensor([-1.0, 0.5, 0.2, 0.1, 0.3]))
    return made


def search(run_dir, episodes):
    """A small search, always of the same settings."""
    return StrategySearch(
        agent(),
        episodes=episodes,
        eval_every=2,
        eval_seeds=1,
        progress=False,
        run_dir=run_dir,
        trainer_kwargs={"max_epochs": 4, "accelerator": "cpu"},
    ).run(
        lambda: ImageClassifier(MLP((1, 8, 8), 10, hidden=(8,))),
        partial(DigitsDataModule, train_size=60, val_size=50, batch_size=30, corruption=UniformNoise(0.4)),
    )


def law(mode="search"):
    return LAWCallback(agent(), mode, keep="target")


class SaveAt(L.Callback):
    """Writes one checkpoint, which holds no path, as those of a ModelCheckpoint do."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as run_dir:
        search(run_dir, episodes=2)
        for name in ("strategy.safetensors", "replay.pt", "search.pt"):
            (folder / name).write_bytes(Path(run_dir, name).read_bytes())
    expected = {"theta": StrategyAgent.load(folder / "strategy.safetensors").act(2, 0.5, 0.5).tolist()}
    for mode in ("search", "apply"):
        callback = law(mode)
        fit(AdamCosine, [callback, SaveAt(STEP, folder / f"{mode}.ckpt")])
        expected[mode] = [record["theta"] for record in callback.history[:STAGES]]
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    L.seed_everything(0, verbose=False)
    main(Path(sys.argv[1]))
