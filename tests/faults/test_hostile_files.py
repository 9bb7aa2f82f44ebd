"""Files that are damaged, foreign or made up to do harm: one clear error each, and nothing in them is executed."""

import pickle
import random

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hostile import Evil, payloads
from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent
from law_lightning.data import ArraysDataModule
from law_lightning.data.corruption.label_file import read_labels
from law_lightning.search.state import SearchState
from law_lightning.utilities.files import load_state, save_state
from search_parts import digest, make_data, make_module, new_search
from zoo import AdamCosine, fit, loaders, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore")

#: Of these two formats neither has checksums, so that labels may be changed unnoticed.
UNCHECKED = ("labels.npy", "labels.pt")


def read_arrays(path):
    data = ArraysDataModule(path)
    data.setup()
    return list(data.train_dataloader().dataset.x)


def read_search(path):
    search = new_search()
    return vars(SearchState.read(path.parent, search.options.settings, search.agent))


READERS = {
    "strategy.safetensors": lambda path: StrategyAgent.load(path).full_state(),
    "replay.pt": lambda path: ReplayBuffer.load(path).state_dict(),
    "search.pt": read_search,
    "data.npz": read_arrays,
    "labels.npy": read_labels,
    "labels.npz": read_labels,
    "labels.pt": read_labels,
}
kinds = pytest.mark.parametrize("kind", READERS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The content of a whole file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    new_search(folder, episodes=1).run(make_module, make_data)
    labels = np.arange(40) % 4
    arrays = {f"{part}_x": np.ones((40, 6), np.float32) * labels[:, None] for part in ("train", "test")}
    np.savez(folder / "data.npz", **arrays, train_y=labels, test_y=labels)
    np.save(folder / "labels.npy", labels)
    np.savez(folder / "labels.npz", labels)
    torch.save(torch.from_numpy(labels), folder / "labels.pt")
    return {kind: (folder / kind).read_bytes() for kind in READERS}


def refused(kind, content, folder):
    """Whether it is refused with an error that names the file; otherwise what it holds."""
    path, found = folder / kind, None
    path.write_bytes(content)
    try:
        found = READERS[kind](path)
    except (ValueError, MisconfigurationException) as error:
        message = str(error)
    assert found is not None or str(path) in message
    return found is None, found


@kinds
def test_damaged_and_foreign_files(files, tmp_path, kind):
    whole, draw = files[kind], random.Random(kind)
    same = digest(refused(kind, whole, tmp_path)[1])
    foreign = [content for other, content in files.items() if other.split(".")[0] != kind.split(".")[0]]
    cut = [whole[: draw.randrange(len(whole))] for _ in range(5)]
    for content in [*cut, *foreign, b"", b"\0" * 10**5, b"PK\x05\x06" + bytes(18), draw.randbytes(10**4)]:
        assert refused(kind, content, tmp_path)[0], content[:20]
    for _ in range(20):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        was_refused, found = refused(kind, bytes(flipped), tmp_path)
        assert was_refused or kind in UNCHECKED or digest(found) == same


@kinds
def test_nothing_is_executed(tmp_path, kind):
    pickle.loads(pickle.dumps(Evil(tmp_path / "would be")))
    assert (tmp_path / "would be").exists()
    for content in payloads(tmp_path / "marker"):
        assert refused(kind, content, tmp_path)[0]
        assert not (tmp_path / "marker").exists()


def networks(state):
    return state["agent"]["networks"]


def columns(state):
    return state["buffer"]["columns"] if "buffer" in state else state["episodes"]["transitions"]


FORGED = {
    "a network that is not finite": lambda state: networks(state)["embedding.weight"].fill_(float("nan")),
    "a network of another shape": lambda state: networks(state)["embedding.weight"].resize_(2, 3),
    "a reward that is not finite": lambda state: columns(state)["reward"].fill_(float("inf")),
    "thetas of another length": lambda state: columns(state).update(theta=columns(state)["theta"][:, :2]),
    "rows that are missing": lambda state: columns(state).update(done=columns(state)["done"][:0]),
    "a missing entry": lambda state: state.pop("agent"),
}
IN_SEARCHES = FORGED | {
    "an accuracy that is not finite": lambda state: state["plain"].__setitem__(0, float("nan")),
    "an accuracy that is no number": lambda state: state.update(references={1: {2: "0.5"}}),
}
IN_CHECKPOINTS = FORGED | {
    "theta": lambda state: state.update(theta=state["theta"][:2]),
    "a reference of another shape": lambda state: state["reference"]["network"]["tensors"].reverse(),
    "a phase without a loss": lambda state: state["clock"].pop("loss_smooth"),
    "a phase that is not finite": lambda state: state["clock"].update(loss_smooth=float("nan")),
    # A position beyond its words would end the process.
    "NumPy's state": lambda state: state["processes"][0]["resume"]["random"]["numpy"].__setitem__(2, 2**31 - 1),
}


@pytest.mark.parametrize("what", IN_SEARCHES)
def test_states_of_searches_that_do_not_fit(files, tmp_path, what):
    path = tmp_path / "search.pt"
    path.write_bytes(files["search.pt"])
    state = load_state(path, "search")
    IN_SEARCHES[what](state)
    save_state(path, "search", state)
    with pytest.raises(ValueError, match=rf"{path} is damaged or of another version"):
        read_search(path)


# -- checkpoints of Lightning's ----------------------------------------------------------------------------------


class Began(L.Callback):
    def on_train_batch_start(self, *args):
        raise AssertionError("the fit has begun")


def law():
    return LAWCallback(StrategyAgent(num_stages=5, warmup_stages=1), keep="target")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    fit(AdamCosine, [law(), ModelCheckpoint(folder, "made", every_n_train_steps=12)])
    return folder / "made.ckpt"


@pytest.mark.parametrize("what", IN_CHECKPOINTS)
def test_states_in_checkpoints_that_do_not_fit(checkpoint, tmp_path, what):
    content = torch.load(checkpoint, weights_only=True)
    (state,) = (state for name, state in content["callbacks"].items() if name.startswith("LAWCallback"))
    IN_CHECKPOINTS[what](state)
    torch.save(content, tmp_path / "forged.ckpt")
    with pytest.raises(MisconfigurationException, match="What the checkpoint holds of LAWCallback is damaged"):
        fit(AdamCosine, [law(), Began()], ckpt_path=tmp_path / "forged.ckpt")


@pytest.mark.parametrize("weights_only", [True, None])
def test_damaged_checkpoints(checkpoint, tmp_path, weights_only):
    """Lightning reads the file, and says what is wrong with it."""
    path, marker = tmp_path / "damaged.ckpt", tmp_path / "marker"
    whole, content = checkpoint.read_bytes(), torch.load(checkpoint, weights_only=True)
    content["callbacks"] = dict.fromkeys(content["callbacks"], Evil(marker))
    torch.save(content, path)
    for damage in (path.read_bytes(), whole[: len(whole) // 2], b"", *payloads(marker)):
        path.write_bytes(damage)
        trainer = make_trainer([law(), Began()])
        with pytest.raises((pickle.UnpicklingError, RuntimeError, EOFError, ValueError)):
            trainer.fit(AdamCosine(), *loaders(), ckpt_path=path, weights_only=weights_only)
        assert not marker.exists()
