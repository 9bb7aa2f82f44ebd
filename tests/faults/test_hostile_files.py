"""Files that are damaged, foreign or made up to do harm: one clear error each, and nothing in them is executed.

Cases are drawn from seeds. By default a sample of them runs; with ``LAW_FAULTS=long`` all do.
"""

import copy
import io
import pickle
import random
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hostile import STATES, Evil, bounded, forge, number, payloads, written
from law_lightning import ReplayBuffer, StrategyAgent
from law_lightning.data import ArraysDataModule
from law_lightning.data.corruption.label_file import read_labels
from law_lightning.search.state import SearchState
from law_lightning.utilities.files import digest
from search_parts import make_data, make_module, new_search

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Sparse invariant checks")

ARRAYS = ("data.npz", "labels.npy", "labels.npz", "labels.pt")
KINDS = (*STATES, *ARRAYS)
FILES = {"strategy": "strategy.safetensors"}  # of the others the kind is the name
PICKLED = [kind for kind in STATES if kind not in FILES]
#: How many cases of each damage: of all, and of the sample.
DAMAGES = {"truncated": (40, 4), "flipped": (60, 6), "overwritten": (20, 2)}
FORGED = (200, 15)


def test_there_are_a_thousand_cases():
    damaged = len(KINDS) * sum(cases[0] for cases in DAMAGES.values())
    assert damaged + len(PICKLED) * FORGED[0] >= 1000


# -- the files ---------------------------------------------------------------------------------------------------


class Files:
    """A whole file of each kind, and how the package reads and uses it."""

    def __init__(self, folder):
        search = new_search(folder / "run", episodes=1, seed_pool=1)
        self.buffer = search.run(make_module, make_data).buffer
        self.settings, self.agent = search.options.settings, search.agent
        labels = np.arange(40) % 4
        arrays = {f"{part}_x": np.ones((40, 6), np.float32) * labels[:, None] for part in ("train", "test")}
        np.savez(folder / "data.npz", **arrays, train_y=labels, test_y=labels)
        np.save(folder / "labels.npy", labels)
        np.savez(folder / "labels.npz", labels)
        torch.save(torch.from_numpy(labels), folder / "labels.pt")
        paths = {kind: folder / "run" / FILES.get(kind, f"{kind}.pt") for kind in STATES} | {
            kind: folder / kind for kind in ARRAYS
        }
        self.content = {kind: path.read_bytes() for kind, path in paths.items()}

    def path(self, kind, folder):
        return folder / (kind if kind in ARRAYS else FILES.get(kind, f"{kind}.pt"))

    def read(self, kind, path):
        """What the file holds, and an error or none from using that."""
        if kind == "strategy":
            agent = StrategyAgent.load(path)
            found = agent.full_state()
            agent.start_episode()
            agent.act(agent.num_stages - 1, 0.5, 0.5, explore=True)
            agent.full_data_update(self.buffer, epochs=1)
            return found
        if kind == "replay":
            buffer = ReplayBuffer.load(path)
            found = buffer.state_dict()
            if len(buffer):
                with suppress(ValueError):  # it may be another agent's
                    copy.deepcopy(self.agent).full_data_update(buffer)
            return found
        if kind == "search":
            state = SearchState.read(path.parent, self.settings, self.agent)
            state.write(path.parent, self.settings)
            return vars(state)
        if kind == "data.npz":
            data = ArraysDataModule(path)
            data.setup()
            return list(data.train_dataloader().dataset.x)
        return read_labels(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("hostile"))


def outcome(files, kind, content, folder):
    """Whether a file was refused, with one clear error; what it held otherwise."""
    path = files.path(kind, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with bounded():
        try:
            return False, files.read(kind, path)
        except (ValueError, MisconfigurationException) as error:
            message = str(error)
    assert str(path) in message or (kind == "search" and str(path.parent) in message), message
    return True, None


# -- damage ------------------------------------------------------------------------------------------------------


def damaged(content, damage, draw):
    at = draw.randrange(len(content))
    if damage == "truncated":
        return content[:at]
    changed = bytearray(content)
    if damage == "flipped":
        changed[at] ^= 1 << draw.randrange(8)
    else:
        changed[at : at + 64] = draw.randbytes(len(changed[at : at + 64]))
    return bytes(changed)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(files, tmp_path, kind, damage):
    refused, same = 0, digest(files.read(kind, write(files, kind, tmp_path)))
    for case in range(number(DAMAGES[damage])):
        content = damaged(files.content[kind], damage, random.Random(f"{kind} {damage} {case}"))
        was_refused, found = outcome(files, kind, content, tmp_path)
        refused += was_refused
        # Of these formats two have no checksums, so that labels may be changed unnoticed.
        assert was_refused or damage != "truncated"
        assert was_refused or kind in ("labels.npy", "labels.pt") or digest(found) == same, case
    assert refused or kind in ("labels.npy", "labels.pt")


def write(files, kind, folder):
    path = files.path(kind, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files.content[kind])
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_another_kind(files, tmp_path, kind):
    others = [content for other, content in files.content.items() if other.split(".")[0] != kind.split(".")[0]]
    for content in [*others, b"", b"\0" * 10**5, b"PK\x05\x06" + bytes(18), random.Random(0).randbytes(10**4)]:
        refused, found = outcome(files, kind, content, tmp_path)
        assert refused, (kind, content[:20], found)


# -- made up to do harm ------------------------------------------------------------------------------------------


def test_the_payload_would_be_executed(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_executed(files, tmp_path, kind):
    marker = tmp_path / "marker"
    for content in payloads(marker):
        assert outcome(files, kind, content, tmp_path)[0]
        assert not marker.exists()


@pytest.mark.parametrize("kind", PICKLED)
def test_forged_states(files, tmp_path, kind):
    refused = 0
    for case in range(number(FORGED)):
        content = torch.load(io.BytesIO(files.content[kind]), weights_only=True)
        forged = forge(content["state"], random.Random(f"{kind} {case}"))
        try:
            refused += outcome(files, kind, written(content), tmp_path)[0]
        except BaseException as error:
            raise AssertionError(f"{kind}, case {case}: {forged}") from error
    assert refused > number(FORGED) / 2


# -- sizes -------------------------------------------------------------------------------------------------------


def repacked(content, compression=zipfile.ZIP_STORED, **replaced):
    """An archive written anew, with other entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, replaced.get(name.rpartition("/")[2], old.read(name)))
    return file.getvalue()


def test_arrays_that_claim_to_hold_much(files, tmp_path):
    def header(dtype, shape):
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        return file.getvalue() + bytes(64)

    for shape in ((2**40,), (2**33, 2), (-1,), (10**30,)):
        assert outcome(files, "labels.npy", header("<i8", shape), tmp_path)[0]
        replaced = {"train_x.npy": header("<f4", shape), "arr_0.npy": header("<i8", shape)}
        for kind in ("data.npz", "labels.npz"):
            assert outcome(files, kind, repacked(files.content[kind], **replaced), tmp_path)[0]
    for labels in (
        torch.zeros(1, dtype=torch.int32).expand(2**40),
        torch.zeros(1, 1, dtype=torch.int8).expand(2**40, 1),
    ):
        assert outcome(files, "labels.pt", written(labels), tmp_path)[0]
    # An archive whose table of contents says that train_x unpacks to 4 GiB.
    content = bytearray(repacked(files.content["data.npz"], zipfile.ZIP_DEFLATED))
    content[(at := content.index(b"PK\x01\x02") + 24) : at + 4] = struct.pack("<I", 2**32 - 2)
    assert outcome(files, "data.npz", bytes(content), tmp_path)[0]
