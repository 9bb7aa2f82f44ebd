import errno
import importlib
import sys
import types

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from law_lightning import cli
from law_lightning.cli import app
from law_lightning.cli.build import build_model
from law_lightning.cli.folder import claim, save_corruption


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch):
    for name in ("hydra", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=r'need hydra, tqdm, .*pip install "law-lightning\[cli\]"'):
        importlib.reload(cli)


@pytest.mark.parametrize(
    ("error", "full", "shown"),
    [
        (MisconfigurationException("bad"), "0", SystemExit("law-search: bad")),
        (MisconfigurationException("bad"), "1", MisconfigurationException("bad")),
        (RuntimeError("a bug"), "0", RuntimeError("a bug")),  # not the user's: keeps its traceback
    ],
)
def test_errors_of_the_user_are_one_line(monkeypatch, error, full, shown):
    def task(config):
        raise error

    monkeypatch.setenv("HYDRA_FULL_ERROR", full)
    monkeypatch.setattr(app, "quiet", lambda: None)
    with pytest.raises(type(shown), match=f"^{shown}$"):
        app.guarded(task, "law-search")(OmegaConf.create({}))


def interrupted():
    """As a Trainer ends on Ctrl-C."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def full():
    raise OSError(errno.ENOSPC, "No space left on device", "file")


def ctrl_c():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        (ctrl_c, r"stopped\."),
        (interrupted, r"stopped\."),
        (full, r"\[Errno 28\] No space left on device: 'file'\. Make room on that disk, .*\."),
    ],
)
@pytest.mark.parametrize("resumes", [False, True])
def test_what_ends_a_command_says_how_to_go_on(monkeypatch, end, shown, resumes):
    monkeypatch.setattr(app, "quiet", lambda: None)
    again = "with run_dir=runs/a goes on after what was saved" if resumes else "starts over"
    with pytest.raises(SystemExit, match=rf"^law-any: {shown} The same command {again}\.$"):
        app.guarded(lambda config: end(), "law-any", resumes)(OmegaConf.create({"run_dir": "runs/a"}))
    with pytest.raises(SystemExit, match=r"^3$"):
        app.guarded(lambda config: sys.exit(3), "law-any", resumes)(OmegaConf.create({}))


def test_a_module_without_network_is_built_as_its_config_says():
    module = build_model({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3})
    assert module.weight.shape == (3, 2)


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
    with pytest.raises(ValueError, match=r"data\.corrupt_validation was False, now True"):
        claim(tmp_path, {**more, "data": {"corrupt_validation": True}}, "state.pt", free=[])
    added = {"agent": {"imitation": 0.3}, "data": {"corrupt_validation": False}}
    claim(tmp_path, more | added, "state.pt", free=[])  # earlier versions had no such settings


@pytest.mark.parametrize("note", [None, "8 of 40 training samples, label é"])
def test_where_validation_samples_come_from_is_printed_and_written(tmp_path, capsys, note):
    save_corruption(types.SimpleNamespace(validation_note=note), tmp_path)
    assert capsys.readouterr().out == (f"{note}\n" if note else "")
    assert [file.read_text(encoding="utf-8") for file in tmp_path.iterdir()] == ([f"{note}\n"] if note else [])
