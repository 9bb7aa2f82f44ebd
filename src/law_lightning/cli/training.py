"""One training of a comparison, and its outcome."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint

from law_lightning.report.records import Outcome


def train_once(
    method: str,
    seed: int,
    make_module: Callable[[], L.LightningModule],
    make_data: Callable[[], L.LightningDataModule],
    callbacks: Sequence[Callback],
    trainer_options: dict[str, Any],
    on_epoch: Callable[[], object],
) -> Outcome:
    """Train from scratch and test twice: as the last epoch left the network, and as its best epoch did.

    The best epoch is the one with the highest validation accuracy; test data choose nothing. Where all data are
    trained on there is none.

    Args:
        method: Name of the method, for the outcome.
        seed: Decides everything random.
        make_module: Makes a fresh network.
        make_data: Makes the data module.
        callbacks: What the method adds to the Trainer.
        trainer_options: Arguments of the Trainer.
        on_epoch: Called after each training epoch.
    """
    L.seed_everything(seed, workers=True, verbose=False)
    module, data = make_module(), make_data()
    options = dict(trainer_options)
    with tempfile.TemporaryDirectory() as folder:
        best: ModelCheckpoint = ModelCheckpoint(
            folder, filename="{epoch}", monitor="val/acc", mode="max", save_weights_only=True
        )
        tick = LambdaCallback(on_train_epoch_end=lambda trainer, module: on_epoch())
        trainer = L.Trainer(
            **{
                **options,
                "logger": False,
                "callbacks": [*options.get("callbacks", []), *callbacks, best, tick],
            }
        )
        trainer.fit(module, datamodule=data)
        acc_last = accuracy_on_test(trainer, module, data, None)
        if not best.best_model_path:
            return Outcome(method, seed, acc_last, None, None)
        acc_best = accuracy_on_test(trainer, module, data, best.best_model_path)
        best_epoch = int(best.best_model_path.rsplit("epoch=", 1)[-1].removesuffix(".ckpt").split("-")[0])
        return Outcome(method, seed, acc_last, acc_best, best_epoch)


def accuracy_on_test(
    trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule, checkpoint: str | None
) -> float:
    """The accuracy on the test data, in [0, 1]; of the module as it is, or as a checkpoint holds it.

    Raises:
        ValueError: If the module's ``test_step`` logs no ``test/acc``.
    """
    metrics = trainer.test(module, datamodule=data, ckpt_path=checkpoint, verbose=False)[0]
    if "test/acc" not in metrics:
        raise ValueError(
            f"{type(module).__name__}.test_step logs {sorted(metrics)}, but the commands need 'test/acc': "
            "the share of test samples that are classified right, in [0, 1]."
        )
    return float(metrics["test/acc"])
