from dataclasses import asdict

import pytest

from law_lightning.report.records import Outcome, write_rows
from law_lightning.report.runs import find_runs
from law_lightning.report.stage_figures import by_settings
from run_folders import write_comparison, write_search, write_training


def test_runs_are_found_at_any_depth_and_sorted_by_kind(tmp_path):
    training, search = write_training(tmp_path / "z" / "deep" / "train"), write_search(tmp_path / "b")
    comparison = write_comparison(tmp_path / "x")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("seed: 0\n")
    runs = find_runs([tmp_path])
    expected = [("compare", comparison), ("search", search), ("train", training)]
    assert [(run.kind, run.folder) for run in runs] == expected
    assert [run.folder for run in find_runs([search, training, tmp_path])] == [comparison, search, training]  # once
    assert runs[2].title == "Digits (100 samples), uniform noise (rate 0.4), MLP: strategy general"
    assert [record["stage"] for record in runs[2].history] == [0, 1, 2, 3]


@pytest.mark.parametrize(("counts", "rare"), [((30, 30, 14), (2,)), ((30, 30, 15), ()), ((100, 50, 20, 9, 4), (3, 4))])
def test_rare_classes_come_from_what_was_left_of_them(tmp_path, counts, rare):
    folder = write_training(tmp_path / "run", counts)
    assert find_runs([folder])[0].rare == rare
    assert find_runs([folder], rare=[1, 0])[0].rare == (0, 1)


def test_runs_that_differ_in_their_seeds_alone_belong_together(tmp_path):
    write_training(tmp_path / "a", seed=1, command="train/1", run_dir="a")
    write_training(tmp_path / "b", seed=2, command="train/2", run_dir="b")
    write_training(tmp_path / "c", seed=1, law={"num_stages": 4})
    (first, together), (second, alone) = by_settings(find_runs([tmp_path]))
    assert [run.folder.name for run in together] == ["a", "b"]
    assert [run.folder.name for run in alone] == ["c"]
    assert first.endswith(f": {tmp_path / 'a'}")  # their titles would be the same
    assert second.endswith(f": {tmp_path / 'c'}")
    assert by_settings(together)[0][0] == together[0].title


def test_titles_are_words(tmp_path):
    noise = {"corruptions": [{"_target_": "data.LongTail", "imbalance": 50}, {"_target_": "PairNoise", "rate": 0.2}]}
    network = {"network": {"_target_": "my.cifar_resnet18"}}
    folder = write_training(tmp_path / "a", corruption=noise, model=network, strategy="runs/one/strategy.safetensors")
    expected = (
        "Digits (100 samples), long tail (imbalance 50) and pair noise (rate 0.2), cifar resnet18: strategy runs/one"
    )
    assert find_runs([folder])[0].title == expected


def test_a_plain_training_is_a_run_and_the_date_is_its_own(tmp_path):
    write_training(tmp_path / "a", strategy=None)
    (tmp_path / "a" / "history.csv").unlink()
    write_rows([asdict(Outcome("base", 0, 0.6, 0.7, None))], tmp_path / "a" / "outcome.csv")
    (run,) = find_runs([tmp_path])
    assert run.title.endswith(": plain training")
    assert (run.history, run.outcome) == ([], Outcome("base", 0, 0.6, 0.7, None))
    assert run.date.endswith(" (of its file)")
    (tmp_path / "a" / "date.txt").write_text("2020-01-02 03:04\n")
    assert run.date == "2020-01-02 03:04"


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "\x00"])
def test_a_damaged_configuration_is_named(tmp_path, text):
    write_training(tmp_path / "a")
    (tmp_path / "a" / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"a/config\.yaml cannot be read as a configuration.* Leave its folder"):
        find_runs([tmp_path])
