import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from law_lightning.data import BatchedTensorDataset, identity_collate, random_horizontal_flip


def make_dataset(num_samples=10, transform=None):
    x = torch.arange(num_samples * 12, dtype=torch.float32).view(num_samples, 1, 3, 4)
    return BatchedTensorDataset(x, torch.arange(num_samples), transform)


def test_loader_gives_what_default_collate_gives():
    dataset = make_dataset()
    ours = DataLoader(dataset, batch_size=4, collate_fn=identity_collate)
    plain = DataLoader([dataset[i] for i in range(len(dataset))], batch_size=4)
    assert len(ours) == len(plain) == 3
    for (x, y), (expected_x, expected_y) in zip(ours, plain, strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(y, expected_y)


def test_a_batch_is_one_call():
    calls = []

    class Counting(BatchedTensorDataset):
        def __getitems__(self, indices):
            calls.append(len(indices))
            return super().__getitems__(indices)

        def __getitem__(self, index):
            raise AssertionError("one sample at a time is slow")

    base = make_dataset()
    list(DataLoader(Counting(base.x, base.y), batch_size=4, collate_fn=identity_collate))
    assert calls == [4, 4, 2]


def test_worker_processes_can_unpickle_it():
    dataset, collate = pickle.loads(pickle.dumps((make_dataset(transform=random_horizontal_flip), identity_collate)))
    loader = DataLoader(dataset, batch_size=5, collate_fn=collate, num_workers=1)
    assert [batch[1].tolist() for batch in loader] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_transform_applies_to_batches_and_to_single_samples():
    dataset = make_dataset(transform=lambda x: x * 2)
    assert torch.equal(dataset[-1][0], dataset.x[-1] * 2)
    assert torch.equal(dataset.__getitems__([1, 3])[0], dataset.x[[1, 3]] * 2)


def test_unequal_lengths_are_named():
    with pytest.raises(ValueError, match="3 inputs but 2 labels"):
        BatchedTensorDataset(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))


def test_flip_mirrors_about_half_and_follows_the_global_seed():
    x = torch.rand(2000, 1, 2, 5)
    original = x.clone()
    torch.manual_seed(0)
    flipped = random_horizontal_flip(x)
    mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    kept = (flipped == x).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 900 < mirrored.sum() < 1100
    assert torch.equal(x, original)
    torch.manual_seed(0)
    assert torch.equal(random_horizontal_flip(x), flipped)
