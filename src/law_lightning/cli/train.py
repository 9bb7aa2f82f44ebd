"""``law-train``: one training, with a strategy or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from law_lightning.cli.app import launch, output_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of ``law-train``."""
    launch(train, "law_train")


def train(config: DictConfig) -> float:
    """Train once, then test the network of the last epoch and that of the best one by validation accuracy.

    Returns:
        The best validation accuracy, so that Hydra's optimising sweepers can use it; 0 without validation data.
    """
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from omegaconf import OmegaConf

    from law_lightning.cli import methods
    from law_lightning.cli.build import factories, plain, trainer_options
    from law_lightning.cli.checks import strategy_file
    from law_lightning.cli.folder import CONFIG_FILE, save_corruption
    from law_lightning.cli.loggers import open_logger
    from law_lightning.cli.training import accuracy_on_test
    from law_lightning.report.records import write_rows

    folder = output_folder()
    strategy = None if config.strategy is None else strategy_file(config.strategy)
    make_module, _, data = factories(config)
    record = save_corruption(data, folder)
    weighting = None
    if strategy is not None:
        known = record is not None and len(record.indices) > 0
        law_options = {**plain(config.law), "analyse_labels": known}
        weighting = methods.law(strategy, law_options, mode="search" if config.reference else "apply")
    elif config.reference:
        raise ValueError("reference=true trains a network beside one that a strategy weights: add strategy=PATH.")
    options = trainer_options(config)
    best = ModelCheckpoint(
        folder / "checkpoints", filename="best", monitor="val/acc", mode="max", enable_version_counter=False
    )
    # Not save_last: it copies the checkpoint saved last, which is that of the best epoch.
    last = ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False)
    callbacks = [*options.pop("callbacks", []), *([] if weighting is None else [weighting]), best, last]

    with open_logger(config, folder) as logger:
        L.seed_everything(config.seed, workers=True, verbose=False)
        module = make_module()
        loggers = [CSVLogger(folder, name="", version=""), *([] if logger is None else [logger])]
        trainer = L.Trainer(**{**options, "logger": loggers, "callbacks": callbacks})
        trainer.fit(module, datamodule=data)
        acc_last = accuracy_on_test(trainer, module, data, None)
        best_file = best.best_model_path  # none where all data are trained on
        acc_best = accuracy_on_test(trainer, module, data, best_file) if best_file else None

    best_val = float(best.best_model_score or 0.0)
    if trainer.is_global_zero:
        OmegaConf.save(config, folder / CONFIG_FILE, resolve=True)
        print(f"Test accuracy, last epoch: {100 * acc_last:.2f} %")
        if acc_best is not None:
            print(f"Test accuracy, best epoch by validation ({100 * best_val:.2f} %): {100 * acc_best:.2f} %")
        print(f"  checkpoints  {folder / 'checkpoints'}")
        print(f"  metrics      {folder / 'metrics.csv'}")
        if weighting is not None:
            write_rows(weighting.history, folder / "history.csv")
            print(f"  stages       {folder / 'history.csv'}")
    return best_val
