import pytest
import torch
import wandb
from omegaconf import OmegaConf

import wandb_file
from law_lightning import StrategyAgent
from law_lightning.cli.search import main
from law_lightning.data.corruption import CorruptionRecord
from run_folders import rows


def test_search_writes_everything_into_its_folder_and_goes_on_there(command, small_search, tmp_path):
    small_search += ["corruption.rate=0.4", "seed=3"]
    command(main, *small_search, "run_dir=twice", "search.episodes=1")
    first = rows(tmp_path / "twice" / "metrics.csv")
    out = command(main, *small_search, "run_dir=twice")
    assert "Best strategy: " + (tmp_path / "twice" / "gain.txt").read_text() in out
    for name in ("strategy.safetensors", "replay.pt", "metrics.csv", "search.png"):
        assert (tmp_path / "twice" / name).is_file()
        assert str(tmp_path / "twice" / name) in out
    record = CorruptionRecord.load(tmp_path / "twice" / "corruption.pt")
    assert record.settings == {"rate": 0.4, "seed": 0, "exclude_true": False}
    assert (record.labels != record.true_labels).nonzero().flatten().equal(record.indices)
    saved = OmegaConf.load(tmp_path / "twice" / "config.yaml")
    assert (saved.agent.seed, saved.data.corruption.rate) == (3, 0.4)

    resumed = rows(tmp_path / "twice" / "metrics.csv")
    assert resumed[: len(first)] == first
    assert len(resumed) > len(first)
    assert "Best strategy" in command(main, *small_search, "run_dir=twice")
    assert rows(tmp_path / "twice" / "metrics.csv") == resumed
    command(main, *small_search, "run_dir=once")
    whole, parts = (
        StrategyAgent.load(tmp_path / name / "strategy.safetensors").state_dict() for name in ("once", "twice")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(SystemExit, match=r"law-search: .* other settings: .*trainer\.max_epochs was 3, now 4"):
        command(main, *small_search, "run_dir=twice", "trainer.max_epochs=4")


def test_sweep_gives_each_job_a_folder_and_a_wandb_run(command, small_search, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))  # copies of artifacts
    runs, finish = [], wandb.finish

    def close(exit_code=None):
        runs.append((wandb.run.id, wandb.run.config["corruption"]["rate"], exit_code, dict(wandb.run.summary)))
        finish(exit_code)

    monkeypatch.setattr(wandb, "finish", close)
    options = ["logger=wandb", "logger.offline=true", "run_dir=sweep"]
    command(main, "-m", *small_search, "corruption.rate=0.2,0.4", *options)
    assert [(rate, code) for _, rate, code, _ in runs] == [(0.2, 0), (0.4, 0)]
    for job, (identifier, rate, _, logged) in enumerate(runs):
        folder = tmp_path / "sweep" / str(job)
        assert CorruptionRecord.load(folder / "corruption.pt").settings["rate"] == rate
        assert StrategyAgent.load(folder / "strategy.safetensors").num_stages == 3
        assert len(list(folder.glob(f"wandb/offline-run-*/*{identifier}.wandb"))) == 1
        assert isinstance(logged["law/reward"], float | int)
        assert {key.split("/")[0] for key in logged} >= {"law", "agent", "search"}

        found = wandb_file.records(folder)
        run = found["run"][0]
        assert run.display_name == f"{job}: {' '.join([*small_search, f'corruption.rate={rate}'])}"[:128]
        assert (run.job_type, list(run.tags)) == ("search", ["digits", "uniform_noise", "mlp"])
        logged_rows, axes = wandb_file.rows(found), wandb_file.axes(found)
        for prefixes, axis, values in (
            (("law/", "agent/"), "law/stage", range(6)),
            (("search/",), "search/episode", range(3)),
        ):
            measured = [row for row in logged_rows if any(key.startswith(prefixes) for key in row)]
            assert [float(row[axis]) for row in measured] == [*values]  # the last episode's number is that of the check
            assert {axes[key] for row in measured for key in row if key.startswith(prefixes)} == {axis}
        assert wandb_file.files(found) == {"strategy": {"strategy.safetensors"}, "figures": {"search.png"}}
