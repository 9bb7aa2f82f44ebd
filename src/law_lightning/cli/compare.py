"""``law-compare``: plain training, LAW and the compared methods, over seeds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from law_lightning.cli.app import launch, output_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: Settings that may change when a comparison goes on in its folder.
_FREE = ("run_dir", "seeds", "strategy", "confidence", "workers")


def main() -> None:
    """Entry point of ``law-compare``."""
    launch(compare, "law_compare")


def compare(config: DictConfig) -> float | None:
    """Train every method on every seed; finished trainings of an interrupted comparison are not repeated.

    Returns:
        The last method's mean gain in test accuracy after the last epoch, if base is among the methods.
    """
    from tqdm.auto import tqdm

    from law_lightning.cli.build import factories, plain, trainer_options
    from law_lightning.cli.checks import (
        comparison_seeds,
        interval_confidence,
        known_methods,
        own_processes,
        strategy_file,
    )
    from law_lightning.cli.folder import claim, save_corruption
    from law_lightning.cli.jobs import Training, outcomes_of
    from law_lightning.cli.methods import method_table
    from law_lightning.report.compare import summarise
    from law_lightning.report.compare_figure import draw_comparison
    from law_lightning.report.records import read_outcomes, write_outcomes, write_rows
    from law_lightning.report.table import comparison_table, summary_rows, told_table

    folder = output_folder()
    seeds = comparison_seeds(config.first_seed, config.seeds)
    confidence = interval_confidence(config.confidence)
    names = known_methods(config.methods, list(method_table(None, {}, {})))
    strategy = strategy_file(config.strategy) if "law" in names else None
    law, given = plain(config.law), plain(config.method)
    table = method_table(strategy, law, given)
    for name in names:
        table[name].make()  # a damaged strategy and bad options show now
    make_module, make_data, data = factories(config)
    options = trainer_options(config)
    workers = own_processes(config.workers, options)
    digest = None if strategy is None else hashlib.sha256(strategy.read_bytes()).hexdigest()
    records_file = folder / "compare.csv"
    claim(folder, {**plain(config), "strategy_sha256": digest}, state=records_file.name, free=_FREE)
    save_corruption(data, folder)

    wanted = [(name, seed) for seed in seeds for name in names]
    outcomes = read_outcomes(records_file) if records_file.is_file() else []
    done = {(outcome.method, outcome.seed) for outcome in outcomes}
    epochs = max(int(options.get("max_epochs") or 0), 1)
    trainer = plain(config.trainer)
    trainings = [
        Training(name, seed, strategy, law, given, make_module, make_data, trainer)
        for name, seed in wanted
        if (name, seed) not in done
    ]
    with tqdm(total=len(wanted) * epochs, unit="epoch", desc="compare", dynamic_ncols=True) as bar:
        bar.update((len(wanted) - len(trainings)) * epochs)
        for training, outcome in outcomes_of(trainings, workers, bar.update):
            outcomes.append(outcome)
            write_outcomes(outcomes, records_file)
            bar.set_postfix(method=training.method, seed=training.seed)
            finished = len({(each.method, each.seed) for each in outcomes} & set(wanted))
            bar.update(finished * epochs - bar.n)

    chosen = [outcome for key in wanted for outcome in outcomes if (outcome.method, outcome.seed) == key]
    summaries = summarise(chosen, confidence=confidence)
    write_rows(summary_rows(summaries), folder / "summary.csv")
    text = comparison_table(summaries, confidence=confidence) + told_table({name: table[name].told for name in names})
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    figure = draw_comparison(chosen, folder / "compare.png", confidence=confidence)
    print(text)
    print(f"  seeds    {records_file}")
    print(f"  table    {folder / 'summary.csv'}, {folder / 'summary.txt'}")
    print(f"  figure   {figure}")
    gains = [s.difference.mean for s in summaries if s.epoch == "last" and s.difference is not None]
    return gains[-1] if gains else None
