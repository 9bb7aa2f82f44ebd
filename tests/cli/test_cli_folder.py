import pytest

from law_lightning.cli.folder import claim


def test_a_run_goes_on_only_with_its_own_settings(tmp_path):
    config = {"seed": 0, "run_dir": "a", "search": {"episodes": 5, "eval_every": 2}}
    claim(tmp_path, config, "state.pt", free=["run_dir", "search.episodes"])
    changed = {"seed": 1, "run_dir": "a", "search": {"episodes": 5, "eval_every": 2}}
    claim(tmp_path, changed, "state.pt", free=[])  # nothing was begun yet
    claim(tmp_path, config, "state.pt", free=[])
    (tmp_path / "state.pt").touch()

    more = {"seed": 0, "run_dir": "b", "search": {"episodes": 9, "eval_every": 2}}
    claim(tmp_path, more, "state.pt", free=["run_dir", "search.episodes"])
    with pytest.raises(ValueError, match=r"other settings: search\.episodes was 9, now 5; seed was 0, now 1"):
        claim(tmp_path, changed, "state.pt", free=["run_dir"])
    with pytest.raises(ValueError, match=r"law was absent, now \{\}"):
        claim(tmp_path, {**more, "law": {}}, "state.pt", free=[])


def test_a_run_of_before_goes_on_with_settings_that_came_later(tmp_path):
    before = {"agent": {"discount": 0.9}}
    claim(tmp_path, before, "state.pt", free=[])
    (tmp_path / "state.pt").touch()
    claim(tmp_path, {"agent": {"discount": 0.9, "imitation": 0.3}}, "state.pt", free=[])
    with pytest.raises(ValueError, match=r"agent\.imitation was 0\.3, now 0\.0"):
        claim(tmp_path, {"agent": {"discount": 0.9, "imitation": 0.0}}, "state.pt", free=[])


def test_a_run_of_before_had_the_phase_of_before(tmp_path):
    claim(tmp_path, {"agent": {"discount": 0.9}}, "state.pt", free=[])
    (tmp_path / "state.pt").touch()
    with pytest.raises(ValueError, match=r"agent\.phase_accuracy was training, now validation"):
        claim(tmp_path, {"agent": {"discount": 0.9, "phase_accuracy": "validation"}}, "state.pt", free=[])
    now = {"agent": {"discount": 0.9, "phase_accuracy": "training"}, "search": {"keep": "best"}, "command": "search"}
    claim(tmp_path, now, "state.pt", free=[])
