import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import data

from law_lightning.utilities.stored_labels import labels_of


class Named(data.Dataset):
    """Three samples, whose labels are an attribute."""

    def __init__(self, name, labels):
        setattr(self, name, labels)

    def __len__(self):
        return 3


COUNTED = [[2, 0, 1], np.array([2, 0, 1]), torch.tensor([2, 0, 1], dtype=torch.uint8)]
NO_LABELS = [[0.5, 1.0, 2.0], ["a", "b", "c"], [[0], [1], [2]], [0, 1], None]


@pytest.mark.parametrize("name", ["targets", "labels", "y"])
@pytest.mark.parametrize("labels", COUNTED + NO_LABELS)
def test_where_data_sets_keep_their_labels(name, labels):
    named, expected = Named(name, labels), [2, 0, 1] if any(labels is each for each in COUNTED) else None
    for dataset, rows in [(named, [0, 1, 2]), (data.Subset(named, [2, 0]), [2, 0])]:
        found = labels_of(dataset)
        assert found is expected is None or found.tolist() == [expected[row] for row in rows]


def test_labels_on_an_accelerator_are_counted_on_the_cpu():
    with FakeTensorMode():  # needs no accelerator
        labels = torch.zeros(3, dtype=torch.long, device="cuda")
        assert labels_of(data.TensorDataset(labels)).device.type == "cpu"
