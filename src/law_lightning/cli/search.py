"""``law-search``: learn a strategy over many episodes."""

from __future__ import annotations

from contextlib import nullcontext

from hydra.utils import instantiate
from lightning import seed_everything
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from law_lightning.cli.app import command
from law_lightning.cli.build import factories, open_logger, plain, trainer_options
from law_lightning.cli.folder import claim, output_folder, save_corruption
from law_lightning.report.search_figure import draw_search
from law_lightning.search.workers import launched_outside

#: Settings that may change when a search is resumed in its folder; some are of other commands or versions.
_FREE = (
    "run_dir", "logger", "search.episodes", "search.progress", "search.workers", "strategy", "methods",
    "search.cache_dir", "search.check_seeds",
)  # fmt: skip


@command("law_search", resumes=True)
def main(config: DictConfig) -> float:
    """Search in the run folder, or resume the search that was started there.

    Returns:
        The best strategy's gain in validation accuracy on fresh seeds, so that Hydra's optimising sweepers can use it.
    """
    folder = output_folder()
    first = getattr(rank_zero_only, "rank", 0) == 0  # torchrun and SLURM start this program once a worker
    run_dir = str(dict(OmegaConf.to_container(config))["run_dir"])  # type: ignore[arg-type]
    if "${now:" in run_dir and launched_outside():  # each process reads the time for itself
        raise ValueError("Under torchrun and SLURM the workers must share one folder: add run_dir=PATH.")
    seed_everything(config.seed, workers=True, verbose=False)
    make_module, make_data, data = factories(config)
    agent = instantiate(config.agent, _convert_="all")
    run = instantiate(config.search, _partial_=True, _convert_="all")
    options = trainer_options(config)
    if first:
        claim(folder, plain(config), state="search.pt", free=_FREE)
        save_corruption(data, folder)

    with open_logger(config, folder) if first else nullcontext() as logger:
        result = run(agent, trainer_kwargs=options, law_kwargs=plain(config.law), run_dir=folder, logger=logger).run(
            make_module, make_data
        )
        if first:  # before the logger, which keeps it, is closed
            figure = draw_search(result.history, folder / "search.png", result.gain)

    if first:
        found = (
            result.gain or f"{100 * result.best_gain:+.2f} points of validation accuracy on the seeds it was chosen by"
        )
        print(f"Best strategy: {found}")
        for name, file in {"strategy": "strategy.safetensors", "replay": "replay.pt", "metrics": "metrics.csv"}.items():
            print(f"  {name:8}  {folder / file}")
        print(f"  figure    {figure}")
    return float(result.gain.mean if result.gain else result.best_gain)
