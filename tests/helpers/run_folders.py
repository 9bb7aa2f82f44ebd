"""Run folders as the commands leave them, with numbers of a test's choice."""

import torch
from omegaconf import OmegaConf

from law_lightning.data import CorruptionRecord
from law_lightning.report.records import write_rows


def record(stage, warmup=1, **changes):
    """A stage of a training on three classes."""
    theta = [0.0] * 5 if stage < warmup else [0.1 * stage, -1.0, 0.0, 2.0, -0.5]
    values = {"loss_gap": None if stage < warmup else 0.25 * stage, "weight_per_class": [1.0, 1.0 + 0.1 * stage, None]}
    return {"stage": stage, "accuracy": 0.5, "weight_mean": 1.0, "theta": theta, **values, **changes}


def write_training(folder, history=None, corruption="UniformNoise", seed=0, counts=(30, 30, 4)):
    """A folder of law-train."""
    folder.mkdir(parents=True)
    config = {
        "data": {"_target_": "law_lightning.data.DigitsDataModule", "train_size": 100},
        "corruption": {"_target_": f"law_lightning.data.{corruption}", "rate": 0.4},
        "model": {"network": {"_target_": "law_lightning.models.MLP"}},
        "trainer": {"max_epochs": 3},
        "seed": seed,
        "strategy": "<b>strategy</b>",
    }
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    write_rows([record(stage) for stage in range(4)] if history is None else history, folder / "history.csv")
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    empty = torch.zeros(0, dtype=torch.int64)
    CorruptionRecord(labels, labels, empty, "none", {}, torch.arange(len(labels))).save(folder / "corruption.pt")
    return folder


def write_comparison(folder):
    """A folder of law-compare."""
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"first_seed": 1000, "trainer": {"max_epochs": 3}}), folder / "config.yaml")
    (folder / "summary.txt").write_text("method  gain\nlaw < base & more\n")
    (folder / "compare.png").write_bytes(b"\x89PNG picture")
    return folder


def write_search(folder):
    """A folder of law-search."""
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"search": {"episodes": 7}, "seed": 1}), folder / "config.yaml")
    (folder / "search.png").write_bytes(b"\x89PNG search")
    return folder
