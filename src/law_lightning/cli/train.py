"""``law-train``: one training, with a strategy or without."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf

from law_lightning import LAWCallback
from law_lightning.cli.app import command
from law_lightning.cli.build import factories, open_logger, plain, trainer_options
from law_lightning.cli.folder import CONFIG_FILE, output_folder, save_corruption
from law_lightning.cli.trainings import fit_and_test
from law_lightning.report.records import write_rows

#: Of a LAWCallback that trains the reference only to record its loss and accuracy: the strategy stays as it is.
_RECORD_REFERENCE = {"mode": "search", "explore": False, "learn": False, "recover": False, "keep": "target"}


@command("law_train")
def main(config: DictConfig) -> float:
    """Train once, then test the network of the last epoch and that of the best one by validation accuracy.

    Returns:
        The best validation accuracy, so that Hydra's optimising sweepers can use it; 0 without validation data.
    """
    folder = output_folder()
    if config.reference and config.strategy is None:
        raise ValueError("reference=true trains a network beside one that a strategy weights: add strategy=PATH.")
    make_module, _, data = factories(config)
    record = save_corruption(data, folder)
    law = None
    if config.strategy is not None:
        known = record is not None and len(record.indices) > 0
        extra = _RECORD_REFERENCE if config.reference else {"mode": "apply"}
        law = LAWCallback(config.strategy, **{**plain(config.law), "analyse_labels": known, **extra})
    checkpoints = folder / "checkpoints"
    best = ModelCheckpoint(
        checkpoints, filename="best", monitor=config.val_metric, mode="max", enable_version_counter=False
    )
    # Not save_last: it copies the checkpoint saved last, which is that of the best epoch.
    last = ModelCheckpoint(checkpoints, filename="last", enable_version_counter=False)
    options = trainer_options(config)
    callbacks = [*options.pop("callbacks", []), *([] if law is None else [law]), best, last]

    with open_logger(config, folder) as logger:
        L.seed_everything(config.seed, workers=True, verbose=False)
        module = make_module()
        loggers = [CSVLogger(folder, name="", version=""), *([] if logger is None else [logger])]
        trainer = L.Trainer(**{**options, "logger": loggers, "callbacks": callbacks})
        acc_last, acc_best = fit_and_test(trainer, module, data, best, config.test_metric)
        best_val = float(best.best_model_score or 0.0)
        if trainer.is_global_zero:
            OmegaConf.save(config, folder / CONFIG_FILE, resolve=True)
            print(f"  checkpoints  {checkpoints}")
            print(f"  metrics      {folder / 'metrics.csv'}")
            if law is not None:
                write_rows(law.history, folder / "history.csv")
                print(f"  stages       {folder / 'history.csv'}")
            print(f"Test accuracy, last epoch: {100 * acc_last:.2f} %")
            if acc_best is not None:
                print(f"Test accuracy, best epoch by validation ({100 * best_val:.2f} %): {100 * acc_best:.2f} %")
    return best_val
