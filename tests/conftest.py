import logging

import pytest
import torch

#: These go again and again through lines that others go through as well; tracing them takes half as long again.
UNTRACED = (
    *("test_promises", "test_methods", "test_matrix", "test_experiments", "test_examples", "test_ddp"),
    *("test_stops", "test_neighbours", "test_left_behind", "test_parallel_search", "test_warmups"),
    *("test_rival_benchmark", "test_rival_trainings", "test_gpu_table1", "test_co_teaching", "test_one_run"),
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in UNTRACED:
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _quiet_lightning():
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
