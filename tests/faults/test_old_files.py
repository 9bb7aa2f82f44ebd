"""Files of earlier versions are read, and a training or search goes on from them; files of later ones are named.

What goes on need not be bit for bit what the earlier version would have given: see ``old_files/write_old_files.py``.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent
from law_lightning.agent.resolve import strategy_path
from law_lightning.callbacks import resume
from law_lightning.utilities.files import load_state, save_state
from methods import METHODS
from zoo import AdamCosine, fit, loaders, make_trainer

OLD_FILES = Path(__file__).parents[1] / "old_files"
sys.path.append(str(OLD_FILES))
import write_old_files as write  # noqa: E402

FORMATS = [path for path in sorted(OLD_FILES.glob("format_*")) if path.is_dir()]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def old(request):
    return request.param


def expected(old, name):
    return json.loads((old / "expected.json").read_text())[name]


def test_files_of_the_present_format_are_there():
    assert FORMATS[-1].name == f"format_{resume.STATE_FORMAT}"
    for old in FORMATS:
        callbacks = torch.load(old / "search.ckpt", weights_only=True)["callbacks"]
        assert f"format_{next(iter(callbacks.values()))['format']}" == old.name


def test_a_strategy_and_a_replay_are_read_and_learned_from(old):
    agent, buffer = StrategyAgent.load(strategy_path(old)), ReplayBuffer.load(old / "replay.pt")
    theta = agent.act(2, 0.5, 0.5)
    torch.testing.assert_close(theta, torch.tensor(expected(old, "theta")))
    assert len(buffer) == 2 * 3  # two episodes of three stages after the warm-up
    assert all(value == value for value in agent.full_data_update(buffer).values())
    assert not torch.equal(agent.act(2, 0.5, 0.5), theta)
    # It follows the training accuracy, as the first ones did: it applies without validation data.
    applied = LAWCallback(old, mode="apply")
    make_trainer([applied]).fit(AdamCosine(), loaders()[0])
    assert [record["acc_target"] for record in applied.history] == [None] * agent.num_stages


def test_a_search_goes_on(old, tmp_path, monkeypatch):
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    before = load_state(old / "search.pt", "search")
    with monkeypatch.context() as patched:
        patched.setattr(write.agent, "__defaults__", ("validation",))
        with pytest.raises(MisconfigurationException, match="its agent has phase_accuracy='training'"):
            write.search(tmp_path, episodes=4)
    (tmp_path / "strategy.safetensors").unlink(missing_ok=True)
    write.search(tmp_path, episodes=2)  # has come to its end: only the file that is missing is written
    written = StrategyAgent.load(tmp_path / "strategy.safetensors")
    assert torch.equal(written.act(2, 0.5, 0.5), StrategyAgent.load(strategy_path(old)).act(2, 0.5, 0.5))
    result = write.search(tmp_path, episodes=4)
    assert result.history[:2] == before["history"]
    assert [record["episode"] for record in result.history] == [0, 1, 2, 3]
    assert len(result.buffer) == 4 * 3
    assert result.best_gain >= before["best_gain"]


@pytest.mark.parametrize("mode", ["search", "apply"])
def test_a_training_goes_on(old, mode):
    callback = write.law(mode)
    trained = fit(AdamCosine, [callback], ckpt_path=old / f"{mode}.ckpt")
    kept = torch.load(old / f"{mode}.ckpt", weights_only=True)
    assert kept["global_step"] == write.STEP
    assert [record["stage"] for record in callback.history] == [0, 1, 2, 3]
    thetas = [record["theta"] for record in callback.history[: write.STAGES]]
    assert thetas == [pytest.approx(theta) for theta in expected(old, mode)]
    assert any(not torch.equal(value, kept["state_dict"][name]) for name, value in trained.state_dict().items())
    assert (callback.reference is None) == (mode == "apply")
    other = LAWCallback(write.agent("validation"), mode, keep="target")
    with pytest.raises(MisconfigurationException, match=r"resume with StrategyAgent\(phase_accuracy='training'\)"):
        fit(AdamCosine, [other], ckpt_path=old / f"{mode}.ckpt")


@pytest.mark.parametrize("name", ["law_search", "co_teaching"])
def test_a_checkpoint_of_a_later_version_is_named(name, tmp_path, monkeypatch):
    path = tmp_path / "later.ckpt"
    monkeypatch.setattr(resume, "STATE_FORMAT", 7)
    fit(AdamCosine, [METHODS[name](), write.SaveAt(9, path)])
    monkeypatch.undo()
    module, again = AdamCosine(), METHODS[name]()
    message = rf"state of {type(again).__name__} of format 7.*reads formats up to 2: install the newer version"
    with pytest.raises(MisconfigurationException, match=message):
        make_trainer([again]).fit(module, *loaders(), ckpt_path=path)
    assert not {"training_step", "configure_optimizers"} & set(vars(module))
    assert again.history == []
    trainer = make_trainer([METHODS[name]()])
    trainer.validate(AdamCosine(), loaders()[1], ckpt_path=path, verbose=False)  # has no need of the state


@pytest.mark.parametrize(("kind", "read"), [("strategy", StrategyAgent.load), ("replay", ReplayBuffer.load)])
def test_files_of_a_later_version_are_named(kind, read, tmp_path):
    path = tmp_path / f"{kind}.pt"
    save_state(path, kind, {})
    torch.save(torch.load(path, weights_only=True) | {"format": 7}, path)
    message = r"has format 7; this version of law-lightning reads format 1: install the newer version"
    with pytest.raises(ValueError, match=rf"{path.name} {message}"):
        read(path)
