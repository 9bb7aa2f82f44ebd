"""``law-compare``: plain training, LAW and the compared methods, over seeds."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from law_lightning.agent.resolve import strategy_path
from law_lightning.cli.app import command
from law_lightning.cli.build import factories, plain, trainer_options
from law_lightning.cli.folder import claim, output_folder, save_corruption
from law_lightning.cli.trainings import METHODS, NEEDS, Training, method_callbacks, outcomes_of
from law_lightning.report.compare import needs_line, summarise, summary_table
from law_lightning.report.compare_figure import draw_comparison
from law_lightning.report.records import read_outcomes, write_rows
from law_lightning.utilities.progress import Progress

#: Settings that may change when a comparison is resumed in its folder.
_FREE = ("run_dir", "seeds", "strategy", "confidence", "workers")


@command("law_compare", resumes=True)
def main(config: DictConfig) -> float | None:
    """Train every method on every seed; finished trainings of an interrupted comparison are not repeated.

    Returns:
        The last method's mean gain in test accuracy after the last epoch, if base is among the methods.
    """
    folder, settings = output_folder(), plain(config)
    options = trainer_options(settings)
    _check(settings, options)
    digest = None
    if "law" in config.methods:
        rule = config.strategy == "general"  # which is no file
        digest = "general" if rule else hashlib.sha256(strategy_path(config.strategy).read_bytes()).hexdigest()
    for method in config.methods:
        method_callbacks(method, settings)  # a damaged strategy and bad options show now
    make_module, make_data, data = factories(config)
    file = folder / "compare.csv"
    first = getattr(rank_zero_only, "rank", 0) == 0  # a Trainer of several processes starts this program in each
    if first:
        claim(folder, {**settings, "strategy_sha256": digest}, state=file.name, free=_FREE)
        save_corruption(data, folder)

    seeds = range(config.first_seed, config.first_seed + config.seeds)
    wanted = [(method, seed) for seed in seeds for method in config.methods]
    saved = read_outcomes(file) if file.is_file() else []
    outcomes = {(outcome.method, outcome.seed): outcome for outcome in saved}
    trainings = [Training(*key, settings, make_module, make_data) for key in wanted if key not in outcomes]
    epochs = max(int(options.get("max_epochs") or 0), 1)
    done = (len(wanted) - len(trainings)) * epochs
    with Progress("compare", "epoch", len(wanted) * epochs, done, show=first) as progress:
        for outcome in outcomes_of(trainings, config.workers, progress.advance):
            outcomes[outcome.method, outcome.seed] = outcome
            if first:
                write_rows(map(asdict, outcomes.values()), file)
            text = f"last: {outcome.method} with seed {outcome.seed}"
            progress.set(len(outcomes.keys() & wanted) * epochs, text)

    chosen = [outcomes[key] for key in wanted]
    summaries = summarise(chosen, confidence=config.confidence)
    gains = [each.difference for each in summaries if each.epoch == "last" and each.difference is not None]
    gain = gains[-1] if gains else None
    if not first:
        return gain
    write_rows(map(asdict, summaries), folder / "summary.csv")
    text = summary_table(summaries, confidence=config.confidence)
    told = NEEDS | ({"law": "validation data, whose labels may be noisy"} if config.strategy == "general" else {})
    if needs := needs_line({method: told.get(method, "") for method in config.methods}):
        text += f"\n\n{needs}"
    (folder / "summary.txt").write_text(text + "\n", encoding="utf-8")
    figure = draw_comparison(chosen, folder / "compare.png", confidence=config.confidence)
    print(text)
    print(f"  seeds    {file}")
    print(f"  table    {folder / 'summary.csv'}, {folder / 'summary.txt'}")
    print(f"  figure   {figure}")
    return gain


def _check(config: dict[str, Any], trainer: dict[str, Any]) -> None:
    """Check the settings of a comparison; the ValueError names the one that is wrong."""
    methods, workers, confidence = config["methods"], config["workers"], config["confidence"]
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"methods={methods}: there is no method {method!r}; choose from {list(METHODS)}.")
    strategy, devices = trainer.get("strategy"), trainer.get("devices")
    one = devices in (None, 1, "1", "auto") and strategy in (None, "auto")
    for right, message in (
        (0 < len(methods) == len(set(methods)), f"methods={methods}: name at least one method, and each only once."),
        (
            "law" not in methods or config["strategy"] is not None,
            "No strategy is given: add strategy=PATH, the strategy.safetensors that law-search wrote into its run "
            "folder, or the name of a shipped strategy.",
        ),
        (config["seeds"] > 1, f"seeds={config['seeds']}: an interval needs at least 2 seeds; 5 or more are advised."),
        (config["first_seed"] >= 0, f"first_seed={config['first_seed']}: seeds are whole numbers from 0 on."),
        (0 < confidence < 1, f"confidence is {confidence}, but it must lie in (0, 1); 0.95 is usual."),
        (workers > 0, f"workers={workers}: at least one training runs at a time."),
        (
            workers <= 1 or one,
            f"workers={workers} runs trainings of one device side by side, but trainer.devices={devices} and "
            f"trainer.strategy={strategy} give each several processes: use workers=1, or a single device.",
        ),
    ):
        if not right:
            raise ValueError(message)
