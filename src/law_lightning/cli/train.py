"""``law-train``: one training, with a strategy or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from law_lightning import LAWCallback, WeightingCallback
from law_lightning.cli.app import command
from law_lightning.cli.build import factories, open_logger, plain, trainer_options
from law_lightning.cli.folder import claim, output_folder, save_corruption
from law_lightning.cli.trainings import fit_and_test
from law_lightning.data.base import LabelledDataModule
from law_lightning.data.corruption import CorruptionRecord
from law_lightning.report.records import Outcome, write_rows
from law_lightning.report.runs import CLEANED
from law_lightning.weighting import unweighted

#: Of a LAWCallback that trains the reference only to record its loss and accuracy: the strategy stays as it is. The
#: rule general has its own use of a reference.
_RECORD_REFERENCE = {"mode": "search", "explore": False, "learn": False, "recover": False, "keep": "target"}


@command("law_train")
def main(config: DictConfig) -> float:
    """Train once, then test the network of the last epoch and that of the best one by validation accuracy.

    With ``clean`` another network is trained after it, without the suspects of the first or with them relabelled.

    Returns:
        The best validation accuracy of the last training, so that Hydra's optimising sweepers can use it; 0 without
        validation data.
    """
    folder, clean = output_folder(), config.clean
    if config.reference and config.strategy is None:
        raise ValueError("reference=true trains a network beside one that a strategy weights: add strategy=PATH.")
    if config.suspects is not None and config.suspects < 0:
        raise ValueError(f"suspects, a number of samples, must be null or at least 0, not {config.suspects}.")
    if clean not in (None, *CLEANED):
        raise ValueError(f"clean is {clean!r}, but it must be null, drop or relabel.")
    make_module, _, data = factories(config)
    if clean is None:
        return _train(config, folder, make_module, data)[0]
    no_suspects = config.suspects == 0 or not make_module().automatic_optimization
    if no_suspects or not isinstance(data, LabelledDataModule):
        raise ValueError(
            f"clean={clean} takes the suspects of a training out of its data: it needs one of the package's data "
            "modules, automatic optimization, and not suspects=0. Other data sets are cleaned in Python, by "
            "law_lightning.data.cleaned."
        )
    _, watch = _train(config, folder, make_module, data)
    assert watch is not None, "there are suspects"
    suspects = watch.suspects(config.suspects)
    rank_zero_only(print)(f"Again, plainly, {CLEANED[clean]} ({len(suspects)}):")
    of_second = {"strategy": None, "reference": False, "suspects": 0, "clean": None, "cleaned": clean}
    again = OmegaConf.create({**plain(config), **of_second})
    return _train(again, folder / "cleaned", make_module, data.cleaned(suspects, relabel=clean == "relabel"))[0]


def _train(
    config: DictConfig, folder: Path, make_module: Callable[[], L.LightningModule], data: L.LightningDataModule
) -> tuple[float, WeightingCallback | None]:
    """Train once, test, and write all of it into the folder.

    Returns:
        The best validation accuracy, 0 without validation data; and the callback that knows the suspects, if one does.
    """
    rank_zero_only(claim)(folder, plain(config), state="outcome.csv", free=("logger", "suspects", "clean"))
    record = save_corruption(data, folder)
    law = None
    if config.strategy is not None:
        known = record is not None and len(record.indices) > 0
        of_reference = {} if config.strategy == "general" else _RECORD_REFERENCE
        extra = of_reference if config.reference else {"mode": "apply"}
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
        watch = None if config.suspects == 0 else _watch(callbacks, module)
        loggers = [CSVLogger(folder, name="", version=""), *([] if logger is None else [logger])]
        if watch is not None and watch not in callbacks:
            callbacks.insert(0, watch)
        trainer = L.Trainer(**{**options, "logger": loggers, "callbacks": callbacks})
        acc_last, acc_best, best_epoch = fit_and_test(trainer, module, data, best, config.test_metric)
        best_val = float(best.best_model_score or 0.0)
        if trainer.is_global_zero:
            print(f"  checkpoints  {checkpoints}")
            print(f"  metrics      {folder / 'metrics.csv'}")
            if law is not None:
                names = {"features": list(law.agent.features)}  # of theta's entries
                write_rows([stage | names for stage in law.history], folder / "history.csv")
                print(f"  stages       {folder / 'history.csv'}")
            outcome = Outcome("base" if law is None else "law", config.seed, acc_last, acc_best, best_epoch)
            write_rows([asdict(outcome)], folder / "outcome.csv")
            if watch is not None:
                _save_suspects(watch, config.suspects, data, record, folder)
            print(f"Test accuracy, last epoch: {100 * acc_last:.2f} %")
            if acc_best is not None:
                print(f"Test accuracy, best epoch by validation ({100 * best_val:.2f} %): {100 * acc_best:.2f} %")
    return best_val, watch


def _watch(callbacks: Sequence[Callback], module: L.LightningModule) -> WeightingCallback | None:
    """The callback that records the suspects: the training's own, or one that changes nothing; None where none can."""
    own = [each for each in callbacks if isinstance(each, WeightingCallback)]
    if own:
        return own[0]
    if not module.automatic_optimization:
        return None
    return WeightingCallback(unweighted, num_stages=1, total_steps=1)  # no stages, so a training of any length


def _save_suspects(
    watch: WeightingCallback, k: int | None, data: L.LightningDataModule, record: CorruptionRecord | None, folder: Path
) -> None:
    """Write the suspects, and a sheet of the first ones where the data are images; say how many, or why none."""
    from law_lightning.report.suspects import draw_suspects  # matplotlib takes long to import

    try:
        suspects = watch.suspects(k)
    except MisconfigurationException as error:
        print(f"  suspects     unknown: {error}")
        return
    path = folder / "suspects.csv"
    rows = [each | {"score": round(each["score"], 4)} for each in suspects]
    if isinstance(data, LabelledDataModule):  # whose training dataset has an order of its own
        rows = [data.source(row["index"]) | row for row in rows]
    write_rows(rows, path)
    known = ""
    if record is not None and suspects:
        wrong = set(record.indices.tolist())
        share = sum(each["index"] in wrong for each in suspects) / len(suspects)
        known = f", {100 * share:.1f} % of them wrong by the corruption's record"
    print(f"  suspects     {path}: {len(suspects)} labels that are likely wrong{known}")
    if (sheet := draw_suspects(data, suspects, folder / "suspects.png")) is not None:
        print(f"               {sheet}")
