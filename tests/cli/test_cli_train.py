import re

import pytest
import torch

import wandb_file
from law_lightning import LAWCallback
from law_lightning.cli.compare import main as compare
from law_lightning.cli.train import main
from law_lightning.data import CorruptionRecord, DigitsDataModule, UniformNoise
from law_lightning.report.runs import find_runs
from law_lightning.utilities.files import load_state, save_state
from run_folders import rows
from tiny_data import write_cifar
from zoo import assert_identical, differ


def saved(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]


def test_training_is_plain_lightning_with_the_callback_or_without(command, small, strategy, tmp_path, train_by_hand):
    out = command(main, *small, "run_dir=plain")
    command(main, *small, f"strategy={strategy}", "run_dir=law")
    assert_identical(train_by_hand(0)[1].state_dict(), saved(tmp_path / "plain"))
    law = LAWCallback(str(strategy), mode="apply")
    assert_identical(train_by_hand(0, law)[1].state_dict(), saved(tmp_path / "law"))
    assert differ(saved(tmp_path / "plain"), saved(tmp_path / "law"))
    assert "Test accuracy, last epoch:" in out
    assert "best epoch by validation" in out
    assert {file.name for file in (tmp_path / "plain").iterdir()} >= {"metrics.csv", "config.yaml"}
    assert not (tmp_path / "plain" / "history.csv").exists()
    history = rows(tmp_path / "law" / "history.csv")
    assert len(history) == 3
    assert "weight_wrong" not in history[-1]  # no label is


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_loggers_write_into_the_run_folder(command, small, tmp_path, logger):
    command(main, *small, f"logger={logger}", "run_dir=run")
    assert any((tmp_path / "run" / logger).iterdir())


def test_wandb_draws_stages_over_stages_and_keeps_both_test_accuracies(command, small, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))  # copies of artifacts
    options = ["logger=wandb", "logger.offline=true", "logger.tags=[mine]", "strategy=general", "law.num_stages=6"]
    out = command(main, *small, *options, "suspects=null", "run_dir=run")
    found = wandb_file.records(tmp_path / "run")
    run = found["run"][0]
    assert (run.job_type, list(run.tags), run.display_name) == ("train", ["mine"], "")
    logged, axes = wandb_file.rows(found), wandb_file.axes(found)
    stages = [row for row in logged if "law/weight/mean" in row]
    assert [int(row["law/stage"]) for row in stages] == [*range(6)]
    assert {axes[key] for row in stages for key in row if key.startswith("law/")} == {"law/stage"}
    assert not {"train/loss", "val/acc", "test/acc"} & axes.keys()  # over the Trainer's step
    (tests,) = [row for row in logged if "test/acc_last" in row]
    assert f"last epoch: {100 * float(tests['test/acc_last']):.2f} %" in out
    assert f"%): {100 * float(tests['test/acc_best']):.2f} %" in out
    assert wandb_file.files(found) == {"suspects": {"suspects.csv", "suspects.png"}}
    table = rows(tmp_path / "run" / "metrics.csv")
    assert [float(row["test/acc_last"]) for row in table if row["test/acc_last"]] == [float(tests["test/acc_last"])]


@pytest.mark.parametrize("rule", [False, True])
def test_a_reference_beside_it_changes_nothing_but_the_record(command, small, strategy, rule, tmp_path):
    options = ["strategy=general", "law.num_stages=6"] if rule else [f"strategy={strategy}"]
    for name, extra in (("alone", []), ("beside", ["reference=true"])):
        command(main, *small, *options, "corruption.rate=0.5", f"run_dir={name}", *extra)
    assert_identical(saved(tmp_path / "alone"), saved(tmp_path / "beside"))
    for a, b in zip(*(rows(tmp_path / name / "history.csv") for name in ("alone", "beside")), strict=True):
        assert a["theta"] == b["theta"]
        assert (a["reward"], b["reward"] != "") == ("", True)
    assert float(b["loss_gap"]) != 0.0
    assert 0 < float(a["weight_wrong"]) < 2  # of the wrong labels
    assert float(a["weight_wrong"]) != float(a["weight_clean"])
    assert CorruptionRecord.load(tmp_path / "alone" / "corruption.pt").settings["rate"] == 0.5


def test_without_validation_data_there_is_a_last_epoch_only(command, small, strategy, tmp_path, monkeypatch):
    write_cifar(tmp_path / "data", monkeypatch, train=60, test=20)
    options = [option for option in small if not option.startswith("data.")]
    options += ["data=cifar10", "data.batch_size=20", "data.num_workers=0", "split=full"]
    with pytest.warns(UserWarning, match="There is no validation data, whose accuracy this strategy follows"):
        command(main, *options, f"strategy={strategy}", "run_dir=none")
    state = load_state(strategy, "strategy")
    state["hparams"]["phase_accuracy"] = "training"
    save_state(tmp_path / "of_training.pt", "strategy", state)
    options.append(f"strategy={tmp_path / 'of_training.pt'}")
    out = command(main, *options, "run_dir=one")
    assert "last epoch" in out
    assert "best epoch" not in out
    out = command(compare, *options, "seeds=2", "run_dir=both")
    assert "law" in out
    assert "best" not in out
    assert [row["acc_best"] for row in rows(tmp_path / "both" / "compare.csv")] == [""] * 4
    assert command(compare, *options, "seeds=2", "run_dir=both") == out  # goes on from what was saved


def test_it_names_the_labels_that_are_likely_wrong(command, small, strategy, tmp_path):
    out = command(main, *small, "corruption.rate=0.5", f"strategy={strategy}", "suspects=5", "run_dir=law")
    assert re.search(r"5 labels that are likely wrong, \d+\.0 % of them wrong by the corruption's record", out)
    found = rows(tmp_path / "law" / "suspects.csv")
    labels = CorruptionRecord.load(tmp_path / "law" / "corruption.pt").labels
    assert [list(row) for row in found] == [["row", "index", "given", "predicted", "score"]] * 5
    assert all(int(row["given"]) == labels[int(row["index"])] != int(row["predicted"]) for row in found)
    assert (tmp_path / "law" / "suspects.png").stat().st_size > 5000
    command(main, *small, "corruption.rate=0.5", "run_dir=plain")
    assert 0 < len(rows(tmp_path / "plain" / "suspects.csv")) < 128
    assert "law/" not in (tmp_path / "plain" / "metrics.csv").read_text()
    assert "suspects" not in command(main, *small, "suspects=0", "run_dir=none")
    with pytest.raises(SystemExit, match=r"plain holds a run with other settings: corruption.*rate was 0\.5"):
        command(main, *small, "corruption.rate=0.4", "run_dir=plain")
    with pytest.raises(SystemExit, match="suspects, a number of samples, must be null or at least 0, not -1"):
        command(main, *small, "suspects=-1")


def test_it_trains_again_on_cleaned_labels(command, small, tmp_path, train_by_hand):
    out = command(main, *small, "corruption.rate=0.5", "clean=drop", "suspects=40", "run_dir=run")
    _, again = out.split("Again, plainly, without its suspects (40):")
    assert again.count("Test accuracy") == 2
    named = [{key: int(row[key]) for key in ("index", "predicted")} for row in rows(tmp_path / "run" / "suspects.csv")]
    data = DigitsDataModule(train_size=128, val_size=100, corruption=UniformNoise(0.5))
    data.setup()
    trained = train_by_hand(0, data=data.cleaned(named))[1]
    assert_identical(trained.state_dict(), saved(tmp_path / "run" / "cleaned"))
    assert {"outcome.csv", "metrics.csv", "config.yaml"} <= {file.name for file in (tmp_path / "run/cleaned").iterdir()}
    (run,) = find_runs([tmp_path / "run" / "cleaned"])
    assert run.title.endswith(": trained again without its suspects")
    with pytest.raises(SystemExit, match=r"clean=relabel takes the suspects .* not suspects=0"):
        command(main, *small, "clean=relabel", "suspects=0")
    with pytest.raises(SystemExit, match="clean is 'all', but it must be null, drop or relabel"):
        command(main, *small, "clean=all")
