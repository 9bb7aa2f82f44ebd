import pytest
import torch
import wandb
from lightning.pytorch.loggers import WandbLogger
from omegaconf import OmegaConf

from law_lightning import StrategyAgent
from law_lightning.cli.search import main
from law_lightning.data.corruption import CorruptionRecord


def test_search_writes_everything_into_its_folder(command, small_search, tmp_path):
    out = command(main, *small_search, "corruption.rate=0.4", "seed=3", "run_dir=run")
    run = tmp_path / "run"
    for name in ("strategy.safetensors", "replay.pt", "metrics.csv", "search.png"):
        assert (run / name).is_file()
        assert str(run / name) in out
    assert StrategyAgent.load(run / "strategy.safetensors").num_stages == 3
    record = CorruptionRecord.load(run / "corruption.pt")
    assert record.settings == {"rate": 0.4, "seed": 0, "exclude_true": False}
    assert (record.labels != record.true_labels).nonzero().flatten().equal(record.indices)
    saved = OmegaConf.load(run / "config.yaml")
    assert (saved.agent.seed, saved.data.corruption.rate) == (3, 0.4)


def test_the_same_command_goes_on(command, small_search, tmp_path, rows):
    command(main, *small_search, "run_dir=twice", "search.episodes=1")
    first = rows(tmp_path / "twice" / "metrics.csv")
    command(main, *small_search, "run_dir=twice")
    command(main, *small_search, "run_dir=once")
    resumed = rows(tmp_path / "twice" / "metrics.csv")
    assert resumed[: len(first)] == first
    assert len(resumed) > len(first)
    again = command(main, *small_search, "run_dir=twice")
    assert rows(tmp_path / "twice" / "metrics.csv") == resumed
    assert "Best strategy" in again
    whole, parts = (
        StrategyAgent.load(tmp_path / name / "strategy.safetensors").state_dict() for name in ("once", "twice")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(SystemExit, match=r"law-search: .* other settings: .*trainer\.max_epochs was 3, now 4"):
        command(main, *small_search, "run_dir=twice", "trainer.max_epochs=4")


def test_sweep_gives_each_job_a_folder_and_a_wandb_run(command, small_search, tmp_path, monkeypatch):
    logged, runs, codes = [], [], []
    log_metrics, finish = WandbLogger.log_metrics, wandb.finish

    def log(self, metrics, step=None):
        logged.append((self.experiment.id, metrics))
        log_metrics(self, metrics, step)

    def close(exit_code=None):
        runs.append((wandb.run.id, wandb.run.config["corruption"]["rate"]))
        codes.append(exit_code)
        finish(exit_code)

    monkeypatch.setattr(WandbLogger, "log_metrics", log)
    monkeypatch.setattr(wandb, "finish", close)
    wandb_options = ["logger=wandb", "logger.offline=true"]
    command(main, "-m", *small_search, "corruption.rate=0.2,0.4", *wandb_options, "run_dir=sweep")
    assert codes == [0, 0]
    assert [rate for _, rate in runs] == [0.2, 0.4]
    assert runs[0][0] != runs[1][0]
    for job, (identifier, rate) in enumerate(runs):
        folder = tmp_path / "sweep" / str(job)
        assert CorruptionRecord.load(folder / "corruption.pt").settings["rate"] == rate
        assert StrategyAgent.load(folder / "strategy.safetensors").num_stages == 3
        assert len(list(folder.glob(f"wandb/offline-run-*/*{identifier}.wandb"))) == 1
        metrics = [row for each, row in logged if each == identifier]
        rewards = [row["law/reward"] for row in metrics if "law/reward" in row]
        assert rewards
        assert all(isinstance(reward, float | int) for reward in rewards)
        for prefix in ("agent/", "search/"):
            assert any(key.startswith(prefix) for row in metrics for key in row)


def test_ddp_in_a_sweep_is_refused(command, small_search, tmp_path):
    with pytest.raises(SystemExit, match=r"trainer\.strategy=ddp_spawn does not work in a sweep .* without -m"):
        command(main, "-m", *small_search, "trainer.strategy=ddp_spawn", "seed=1,2", "run_dir=sweep")
    assert not list(tmp_path.glob("sweep/*/strategy.safetensors"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corruption.rate=1.5"], r"1\.5.*\[0, 1\].*\(config key: corruption\)"),
        (["data=arrays", "data.path=none.npz"], r"none\.npz"),
        (["data=arrays"], r"data\.path must be given: add data\.path="),
        (["model.lr=-1"], "lr is -1"),
        (["agent.actor_lr=0"], "actor_lr"),
        (["search.episodes=0"], "episodes"),
        (["trainer.max_epochs=-1"], "max_epochs"),
        (["agent.num_stages=100"], "100"),
    ],
)
def test_bad_input_is_one_line(command, small_search, tmp_path, overrides, message):
    arguments = [*small_search, *overrides, "run_dir=run"]
    if "data=arrays" in overrides:
        arguments = [argument for argument in arguments if not argument.startswith("data.train_size")]
    with pytest.raises(SystemExit, match=f"^law-search: .*{message}"):
        command(main, *arguments)
    assert not (tmp_path / "run" / "strategy.safetensors").exists()
