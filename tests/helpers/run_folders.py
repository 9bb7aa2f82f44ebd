"""Run folders as the commands leave them, with numbers of a test's choice."""

import csv

import torch
from omegaconf import OmegaConf

from law_lightning.data import CorruptionRecord
from law_lightning.report.records import write_rows


def rows(path):
    """A CSV table as dictionaries of text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_config(folder, config):
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    return folder


def write_training(folder, counts=(30, 30, 4), **config):
    """A folder of law-train: four stages on three classes, of which ``counts`` samples are left."""
    usual = {
        "data": {"_target_": "law_lightning.data.DigitsDataModule", "train_size": 100},
        "corruption": {"_target_": "law_lightning.data.UniformNoise", "rate": 0.4},
        "model": {"network": {"_target_": "law_lightning.models.MLP"}},
        "seed": 0,
        "strategy": "general",
    }
    history = [
        {
            "stage": stage,
            "accuracy": 0.5,
            "weight_mean": 1.0,
            "theta": [0.1 * stage, -stage, 0.0, 2.0 * stage, -0.5 * stage],
            "weight_per_class": [1.0, 1.0 + 0.1 * stage, None],
        }
        for stage in range(4)
    ]
    _write_config(folder, usual | config)
    write_rows(history, folder / "history.csv")
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    empty = torch.zeros(0, dtype=torch.int64)
    CorruptionRecord(labels, labels, empty, "none", {}, torch.arange(len(labels))).save(folder / "corruption.pt")
    return folder


def write_comparison(folder, **config):
    """A folder of law-compare."""
    _write_config(folder, {"seeds": 5, "first_seed": 1000, "trainer": {"max_epochs": 60}} | config)
    (folder / "summary.txt").write_text("method  mean %\nlaw      87.91\n")
    (folder / "compare.png").write_bytes(b"picture of a comparison")
    return folder


def write_search(folder, metrics="episode,return,gain\n0,1.0,\n1,1.0,0.05\n2,1.0,0.0825\n3,1.0,0.01\n", **config):
    """A folder of law-search; ``metrics`` is its table of episodes."""
    _write_config(folder, {"seed": 3, "search": {"episodes": 4}} | config)
    (folder / "metrics.csv").write_text(metrics)
    (folder / "search.png").write_bytes(b"picture of a search")
    return folder
