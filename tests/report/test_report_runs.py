import pytest
import torch
from omegaconf import OmegaConf

from law_lightning.data import CorruptionRecord
from law_lightning.report.stage_figures import by_settings
from law_lightning.report.runs import find_runs, rare_classes
from run_folders import write_comparison, write_search, write_training


def test_runs_are_found_at_any_depth_and_sorted_by_kind(tmp_path):
    training, search = write_training(tmp_path / "z" / "deep" / "train"), write_search(tmp_path / "b")
    comparison = write_comparison(tmp_path / "x")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("seed: 0\n")
    runs = find_runs([tmp_path])
    assert [(run.kind, run.folder) for run in runs] == [
        ("compare", comparison),
        ("search", search),
        ("train", training),
    ]
    assert [run.folder for run in find_runs([search, training, tmp_path])] == [comparison, search, training]  # once
    assert runs[2].title == "DigitsDataModule (train_size 100), UniformNoise (rate 0.4), MLP"
    assert [record["stage"] for record in runs[2].history] == [0, 1, 2, 3]


def test_rare_classes_come_from_what_was_left_of_them(tmp_path):
    assert find_runs([write_training(tmp_path / "a", counts=(30, 30, 14))])[0].rare == (2,)
    assert find_runs([write_training(tmp_path / "b", counts=(30, 30, 15))])[0].rare == ()
    assert find_runs([tmp_path / "a"], rare=[1, 0])[0].rare == (0, 1)


def test_the_rare_classes_of_a_long_tail():
    labels = torch.repeat_interleave(torch.arange(5), torch.tensor([100, 50, 20, 9, 4]))
    empty = torch.zeros(0, dtype=torch.int64)
    assert rare_classes(CorruptionRecord(labels, labels, empty, "", {}, torch.arange(len(labels)))) == [3, 4]


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no run folder .*none: check runs="):
        find_runs([tmp_path / "none"])


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(ValueError, match="can be reported: expected are folders that law-search"):
        find_runs([tmp_path])


@pytest.mark.parametrize("index", [-1, 3])
def test_a_rare_class_that_is_none_of_the_datas(tmp_path, index):
    write_training(tmp_path / "a")
    with pytest.raises(ValueError, match=rf"rare names class {index}, but .* has the 3 classes 0 to 2"):
        find_runs([tmp_path], rare=[index])


def test_runs_of_other_settings_are_not_averaged(tmp_path):
    write_training(tmp_path / "a", seed=1)
    write_training(tmp_path / "b", seed=2)
    write_training(tmp_path / "c", seed=1)
    config = OmegaConf.load(tmp_path / "c" / "config.yaml")
    config.strategy = "another"
    OmegaConf.save(config, tmp_path / "c" / "config.yaml")
    (first, together), (second, alone) = by_settings(find_runs([tmp_path]))
    assert [run.folder.name for run in together] == ["a", "b"]
    assert [run.folder.name for run in alone] == ["c"]
    assert first.endswith(f": {tmp_path / 'a'}")  # their titles would be the same
    assert second.endswith(f": {tmp_path / 'c'}")
    assert by_settings(together)[0][0] == together[0].title


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "\x00"])
def test_a_damaged_configuration_is_named(tmp_path, text):
    write_training(tmp_path / "a")
    (tmp_path / "a" / "config.yaml").write_text(text)
    with pytest.raises(
        ValueError, match=r"a/config\.yaml (cannot be read as|holds no) .*configuration.* Leave its folder"
    ):
        find_runs([tmp_path])
