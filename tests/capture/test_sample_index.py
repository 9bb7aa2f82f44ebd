"""A batch's samples are known by index, whatever loads them, and loaders are left as they were."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    dataloader,
    default_collate,
)
from torchdata.stateful_dataloader import StatefulDataLoader

import zoo
from law_lightning import Samples, WeightingCallback
from law_lightning.capture.sample_index import SampleIndex

X, Y = zoo.make_data(92).tensors
X.flatten(1)[:, 0] = torch.arange(92)  # the first pixel is the sample's number
DATA = TensorDataset(X, Y)
NEXT_INDEX = dataloader._BaseDataLoaderIter._next_index


class Numbered(zoo.DropoutMLP):
    """Notes which samples a step is given."""

    def training_step(self, batch, batch_idx):
        self.numbers = batch[0].flatten(1)[:, 0].long()
        return super().training_step(batch, batch_idx)


class WithoutLength:
    """A batch sampler that does not know how many there are: the Trainer fetches a batch ahead."""

    def __iter__(self):
        order = torch.randperm(92).tolist()
        return (order[i : i + 9] for i in range(0, 92, 9))


def watched(loader, module=None, callbacks=(), **options):
    """The index and the true number of the samples of each step, and the callback."""
    module, seen = module or Numbered(), []

    def weighting(samples, phase):
        seen.append((samples.index, module.numbers))

    callback = WeightingCallback(weighting, num_stages=2)
    zoo.make_trainer([callback, *callbacks], **({"max_epochs": 2} | options)).fit(module, loader)
    return seen, callback


def assert_known(seen):
    assert seen
    for index, numbers in seen:
        assert torch.equal(index, numbers)


@pytest.mark.parametrize(
    ("loader", "options"),
    [
        (lambda: DataLoader(DATA, 16, shuffle=True), {"accumulate_grad_batches": 4}),
        (
            lambda: DataLoader(DATA, 16, shuffle=True),
            {"limit_train_batches": 4, "reload_dataloaders_every_n_epochs": 1},
        ),
        (lambda: DataLoader(DATA, 16, shuffle=True), {"max_epochs": -1, "max_steps": 8}),
        (
            lambda: DataLoader(DATA, 16, shuffle=True, num_workers=2, persistent_workers=True),
            {"limit_train_batches": 3},
        ),
        (lambda: StatefulDataLoader(DATA, 16, shuffle=True), {}),
        (lambda: DataLoader(DATA, batch_sampler=WithoutLength()), {"max_epochs": -1, "max_steps": 15}),
        (lambda: DataLoader(DATA, None, sampler=BatchSampler(RandomSampler(DATA), 16, drop_last=True)), {}),
        (lambda: CombinedLoader(DataLoader(DATA, 16, shuffle=True), "min_size"), {}),
    ],
    ids=["accumulate", "reload", "max_steps", "workers", "stateful", "no_length", "batched", "combined"],
)
def test_the_samples_of_a_batch_are_known(loader, options):
    seen, callback = watched(loader(), **options)
    assert_known(seen)
    assert callback.dynamics.table()["seen"].sum() == sum(len(numbers) for _, numbers in seen)
    assert dataloader._BaseDataLoaderIter._next_index is NEXT_INDEX  # as it was


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)

    def __len__(self):
        return 92


class Merged(DataLoader):
    """Makes batches of its own from those that are loaded."""

    def __iter__(self):
        for x, y in super().__iter__():
            yield x[::2], y[::2]


class Keyed(Dataset):
    """Its samples have keys, for which a table would have no place."""

    def __len__(self):
        return 92

    def __getitem__(self, key):
        return DATA[key - 10**11]


class Batches(Keyed):
    """Of whole batches."""

    def __getitem__(self, number):
        return DATA[16 * number : 16 * number + 16]


def by_length(rows):
    """As for packed sequences."""
    return default_collate(sorted(rows, key=lambda row: float(row[0].mean())))


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (lambda: DataLoader(Stream(), 16), "loader does not show"),
        (lambda: Merged(DATA, 16, shuffle=True), "loader does not show"),
        (lambda: DataLoader(DATA, 16, collate_fn=lambda rows: [torch.stack(x) for x in zip(*rows[1:], strict=True)]),
         "loader does not show"),
        (lambda: DataLoader(DATA, 16, num_workers=2, in_order=False), "loader does not show"),
        (lambda: DataLoader(Keyed(), 16, sampler=range(10**11, 10**11 + 92)), "loader does not show"),
        (lambda: DataLoader(Batches(), None, sampler=torch.arange(5)), "loader does not show"),
        (lambda: DataLoader(DATA, 16, shuffle=True, collate_fn=by_length), "samples in another order"),
    ],
    ids=["iterable", "own", "other_rows", "out_of_order", "keys", "numbers", "sorted"],
)  # fmt: skip
def test_where_they_are_not_known_the_error_says_why(loader, why):
    seen, callback = watched(loader(), max_epochs=1)
    assert seen
    assert all(index is None for index, _ in seen)
    with pytest.raises(Exception, match=f"recorded no sample .* {why}"):
        callback.suspects(3)


@pytest.mark.parametrize("data", ["stateful", "loaders"])
def test_a_resumed_fit_knows_them_too(tmp_path, data):
    """Within an epoch: a stateful loader skips batches without yielding them, others begin a new order."""
    kind = StatefulDataLoader if data == "stateful" else DataLoader
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    watched(kind(DATA, 16, shuffle=True), callbacks=[saving])
    callback = WeightingCallback(lambda samples, phase: seen.append((samples.index, module.numbers)), num_stages=2)
    seen, module = [], Numbered()
    trainer = zoo.make_trainer([callback], max_epochs=2)
    trainer.fit(module, kind(DATA, 16, shuffle=True), ckpt_path=tmp_path / "step=9.ckpt")
    assert_known(seen)
    assert len(seen) == 3
    assert callback.dynamics.table()["seen"].sum() == 9 * 16 - 4 + sum(len(numbers) for _, numbers in seen)


class Dense(Numbered):
    """Takes a batch with tensors that have no rows in memory, and looks whether the one before is still there."""

    before = staticmethod(lambda: None)

    def on_train_batch_start(self, batch, batch_idx):
        assert self.before() is None

    def training_step(self, batch, batch_idx):
        sparse, nested, x, y = batch
        assert nested.is_nested
        self.before = weakref.ref(x)
        return super().training_step((sparse.to_dense(), y), batch_idx)


def sparse_and_nested(rows):
    x, y = (torch.stack(part) for part in zip(*rows, strict=True))
    return x.to_sparse(), torch.nested.nested_tensor([*y.unsqueeze(1)]), x, y


def test_a_batch_may_hold_any_tensors_and_is_kept_for_its_step_only():
    seen, _ = watched(DataLoader(DATA, 16, shuffle=True, collate_fn=sparse_and_nested), Dense(), max_epochs=1)
    assert_known(seen)


def test_a_loss_has_an_index_where_its_rows_are_those_of_the_batch():
    several = {zoo.Mixup: [1, 0], zoo.TwoHeads: [1, 0], zoo.Kept: [1, 0]}
    for module, expected in {module: several.get(module, [1]) for module in zoo.MODULES}.items():
        found = []
        callback = WeightingCallback(lambda samples, phase, found=found: found.append(samples.index), num_stages=2)
        zoo.make_trainer([callback], max_epochs=1).fit(module(), *zoo.loaders())
        times = len(found) // (6 * len(expected))  # an optimizer may call the step several times
        assert [int(index is not None) for index in found] == expected * 6 * times, module.__name__
        known = torch.cat([index for index in found if index is not None])
        assert known.bincount().tolist() == [times] * 92


@pytest.mark.parametrize(
    ("part", "target", "known"),
    [
        (torch.tensor([2, 0, 1]), lambda y: y, True),
        (torch.tensor([[5, 2], [5, 0], [5, 1]]), lambda y: y[:, 1], True),  # a column of the batch
        (torch.tensor([[2], [0], [1]]), lambda y: y.view(-1), True),
        (torch.tensor([2, 0, 1], dtype=torch.uint8), lambda y: y.long(), True),  # a copy with the same numbers
        (torch.tensor([2, 0, 1]), lambda y: F.one_hot(y, 3).float(), True),
        (torch.tensor([2, 0, 1]), lambda y: y[[1, 0, 2]], False),  # mixup's other half
        (torch.tensor([2, 0, 1]), lambda y: 2 - y, False),
        (torch.tensor([2, 0, 1]), lambda y: y.repeat(2), False),
    ],
)
def test_which_labels_are_those_of_the_batch(part, target, known):
    index = SampleIndex()
    index._index = torch.tensor([7, 8, 9])
    index._parts = [torch.zeros(3, 4), part]
    target = target(part)
    label = target.argmax(dim=1) if target.is_floating_point() else target
    found = index.of(target, Samples(torch.zeros(len(label)), torch.zeros(len(label), 3), label))
    assert (found is not None) == known
