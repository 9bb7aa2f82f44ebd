import pytest

from law_lightning.cli.folder import claim


def test_a_run_goes_on_only_with_its_own_settings(tmp_path):
    config = {"seed": 0, "run_dir": "a", "search": {"episodes": 5, "eval_every": 2}}
    changed = config | {"seed": 1}
    for each in (config, changed, config):  # nothing was begun yet
        claim(tmp_path, each, "state.pt", free=[])
    (tmp_path / "state.pt").touch()

    more = {"seed": 0, "run_dir": "b", "search": {"episodes": 9, "eval_every": 2}}
    claim(tmp_path, more, "state.pt", free=["run_dir", "search.episodes"])
    with pytest.raises(ValueError, match=r"other settings: search\.episodes was 9, now 5; seed was 0, now 1"):
        claim(tmp_path, changed, "state.pt", free=["run_dir"])
    with pytest.raises(ValueError, match=r"law was absent, now \{\}"):
        claim(tmp_path, {**more, "law": {}}, "state.pt", free=[])


def test_an_older_run_goes_on_with_settings_that_came_later(tmp_path):
    before = {"discount": 0.9}
    claim(tmp_path, {"agent": before}, "state.pt", free=[])
    (tmp_path / "state.pt").touch()
    with pytest.raises(ValueError, match=r"agent\.phase_accuracy was training, now validation"):
        claim(tmp_path, {"agent": {**before, "phase_accuracy": "validation"}}, "state.pt", free=[])
    later = {"phase_accuracy": "training", "imitation": 0.3}
    claim(tmp_path, {"agent": before | later, "search": {"keep": "best"}, "command": "search"}, "state.pt", free=[])
    with pytest.raises(ValueError, match=r"agent\.imitation was 0\.3, now 0\.0"):
        claim(tmp_path, {"agent": {**before, "imitation": 0.0}}, "state.pt", free=["search", "command"])
