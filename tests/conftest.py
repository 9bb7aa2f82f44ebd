import logging
import multiprocessing
import random
import sys
from collections import defaultdict

import hypothesis
import pytest
import torch

from hostile import LONG

#: These go again and again through lines that others go through as well; traced, they take up to 1.7 times as long.
UNTRACED = (
    *("test_promises", "test_methods", "test_matrix", "test_experiments", "test_examples", "test_ddp"),
    *("test_stops", "test_neighbours", "test_left_behind", "test_parallel_search", "test_seed_pool"),
    *("test_trainings", "test_measurements", "test_co_teaching", "test_one_run"),
)
#: Tests that share what is slow to start go to one worker. (The groups of pytest-xdist 3.8 do not work with pytest 9.)
TOGETHER = {
    "test_ddp.py": "two processes",
    "test_matrix.py::test_two_processes": "the matrix on two processes",
    "test_every_sample_is_counted_once": "what processes share",
    "test_processes_": "what processes share",
    "test_fsdp_": "what processes share",
    "test_what_two_workers_return": "two workers",
    "test_a_search_goes_on_after": "two workers",
    "test_torchrun_starts_the_workers": "two workers",
    "test_two_workers_killed": "two workers",
}

hypothesis.settings.register_profile("law", deadline=None)  # no test depends on how busy the machine is
hypothesis.settings.load_profile("law")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    if config.getvalue("dist") != "load":  # -n alone; whoever asks for another way gets it
        return None

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next((scope for part, scope in TOGETHER.items() if part in nodeid), nodeid)

    return Together(config, log)


def pytest_sessionstart():
    """Have new processes forked from one that has imported the package: half of a minute of imports for every four.

    All else is as if they were spawned, which they are with ``LAW_FAULTS=long``, and in whatever a test starts itself.
    """
    if sys.platform == "linux" and not LONG:
        multiprocessing.set_forkserver_preload(["law_lightning", "law_lightning.data", "law_lightning.models"])
        multiprocessing.context._concrete_contexts["spawn"] = multiprocessing.get_context("forkserver")


@pytest.hookimpl(trylast=True)  # after -k
def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.path.stem in UNTRACED:
            item.add_marker(pytest.mark.no_cover)
    left_out = [] if LONG else not_drawn(items)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def not_drawn(items):
    """Of tests marked ``one_in(n)`` all cases but one in n, drawn at random and always the same."""
    cases = defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is not None:
            cases[item.path, item.originalname, mark.args].append(item)
    left_out = set()
    for (path, name, (n,)), found in cases.items():
        drawn = random.Random(f"{path.name}::{name}").sample(found, -(-len(found) // n))
        left_out.update(set(found) - set(drawn))
    return left_out


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _quiet_lightning():
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
