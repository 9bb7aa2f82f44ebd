"""Data modules whose data are in memory, their datasets, and how arrays are prepared."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from law_lightning.data import (
    ArrayDataModule,
    ArraySplits,
    BatchedTensorDataset,
    Compose,
    CorruptionRecord,
    DiscardClasses,
    UniformNoise,
    identity_collate,
    random_horizontal_flip,
)
from law_lightning.data.preparation import standardize


class Toy(ArrayDataModule):
    """Each input is its own number, so that a batch says which samples are in it."""

    loads = 0

    def load_splits(self):
        self.loads += 1
        x = torch.arange(150.0).view(-1, 1)
        y = torch.arange(150) % 3
        return ArraySplits(x[:100], y[:100], x[100:120], y[100:120], x[120:], y[120:], 3)


def collect(loader):
    batches = list(loader)
    return torch.cat([x for x, _ in batches]).flatten(), torch.cat([y for _, y in batches])


def ready(**kwargs):
    module = Toy(**kwargs)
    module.setup()
    return module


def test_shapes_and_sizes():
    module = ready(batch_size=32, eval_batch_size=16)
    assert module.num_classes == 3
    assert module.in_shape == (1,)
    assert module.corruption_record is None
    # The last, smaller batch is kept.
    assert [len(y) for _, y in module.train_dataloader()] == [32, 32, 32, 4]
    assert [len(y) for _, y in module.val_dataloader()] == [16, 4]
    assert [len(y) for _, y in module.test_dataloader()] == [16, 14]


def test_setup_is_idempotent():
    module = ready(corruption=UniformNoise(0.5))
    record = module.corruption_record
    for stage in ("fit", "validate", "test", None):
        module.setup(stage)
    assert module.loads == 1
    assert module.corruption_record is record


def test_training_order_follows_the_global_seed_and_evaluation_is_unshuffled():
    module = ready()
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(collect(module.train_dataloader())[0].tolist())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(100))
    assert collect(module.val_dataloader())[0].tolist() == list(range(100, 120))
    assert collect(module.test_dataloader())[0].tolist() == list(range(120, 150))


def test_only_training_labels_are_corrupted():
    module = ready(corruption=UniformNoise(0.6, seed=1))
    record = module.corruption_record
    x, y = collect(module.train_dataloader())
    assert torch.equal(y, record.labels[x.long()])
    wrong = sorted(x[y != x.long() % 3].long().tolist())
    assert wrong == record.indices.tolist()
    assert 20 < len(wrong) < 60
    assert torch.equal(record.true_labels, torch.arange(100) % 3)
    for loader in (module.val_dataloader(), module.test_dataloader()):
        x, y = collect(loader)
        assert torch.equal(y, x.long() % 3)


def test_true_labels_do_not_reach_the_training_dataset():
    module = ready(corruption=UniformNoise(1.0))
    dataset = module.train_dataloader().dataset
    tensors = [value for value in vars(dataset).values() if isinstance(value, torch.Tensor)]
    assert not any(torch.equal(t, module.corruption_record.true_labels) for t in tensors)


def test_what_is_left_is_trained_on_and_analysed():
    module = ready(corruption=Compose([DiscardClasses([0, 1], 0.5), UniformNoise(0.4)]), batch_size=40)
    record, dataset = module.corruption_record, module.train_dataloader().dataset
    assert dataset.x.flatten().tolist() == record.kept.tolist()
    assert torch.equal(dataset.y, record.labels)
    assert len(record.kept) < 100
    assert len(module.val_dataloader().dataset) == 20
    batches = list(module.analysis_dataloader())
    x, y, wrong = (torch.cat(each) for each in zip(*((x, y, wrong) for (x, y), wrong in batches), strict=True))
    assert [len(each[1]) for each in batches] == [40, len(record.kept) - 40]
    assert sorted(x.flatten().tolist()) == record.kept.tolist() != x.flatten().tolist()
    assert torch.equal(wrong, y != x.flatten().long() % 3)
    assert ready(corruption=DiscardClasses([0], 0.5)).analysis_dataloader() is None  # no label is wrong


def test_a_corruption_working_in_place_does_not_reach_the_other_labels():
    splits = Toy().load_splits()

    def zero(labels, num_classes):
        labels.zero_()
        empty = torch.zeros(0, dtype=torch.int64)
        return CorruptionRecord(labels, splits.train_y, empty, "zero", {}, torch.arange(100))

    module = Toy(corruption=zero)
    module.load_splits = lambda: splits
    module.setup()
    assert collect(module.train_dataloader())[1].sum() == 0
    assert torch.equal(splits.train_y, torch.arange(100) % 3)


@pytest.mark.parametrize(
    ("labels", "kept", "message"),
    [
        (torch.zeros(99, dtype=torch.int64), 100, r"shape \[99\] .* need int64 labels of shape \[100\]"),
        (torch.zeros(100), 100, "torch.float32, but the 100 training samples it kept need int64"),
        (torch.full((100,), 3), 100, r"label 3, but with num_classes=3 labels must lie in \[0, 2\]"),
        (torch.full((100,), -1), 100, "none below 0"),
        (torch.zeros(0, dtype=torch.int64), 0, "discarded all of the 100 training samples"),
        (torch.zeros(101, dtype=torch.int64), 101, "kept sample 100, but there are 100 training samples"),
    ],
)
def test_what_a_corruption_returns_is_checked(labels, kept, message):
    empty = torch.zeros(0, dtype=torch.int64)
    module = Toy(corruption=lambda y, c: CorruptionRecord(labels, labels, empty, "bad", {}, torch.arange(kept)))
    with pytest.raises(ValueError, match=message):
        module.setup()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, but it must be at least 1"),
        ({"eval_batch_size": -1}, "eval_batch_size is -1, but it must be at least 1"),
        ({"num_workers": -1}, "num_workers is -1, but it must be at least 0"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Toy(**kwargs)


@pytest.mark.parametrize("use", [lambda m: m.num_classes, lambda m: m.in_shape, Toy.train_dataloader])
def test_use_before_setup_is_named(use):
    with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
        use(Toy())


def test_a_subclass_must_say_where_its_data_come_from():
    with pytest.raises(NotImplementedError, match="ArrayDataModule must define load_splits"):
        ArrayDataModule().setup()


# -- the dataset -----------------------------------------------------------------------------------------------


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


# -- preparation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "per_feature", "over"),
    [((5000, 3, 2, 2), False, (0, 2, 3)), ((5000, 6), True, (0,)), ((5000, 6), False, (0, 1))],
)
def test_standardize_agrees_with_the_plain_formula(shape, per_feature, over):
    torch.manual_seed(0)
    # Channels of different location and scale; 5000 samples are more than one piece.
    scale = torch.arange(1, shape[1] + 1).view(1, -1, *[1] * (len(shape) - 2))
    train, other = torch.randn(shape) * scale + 5 * scale, torch.randn(7, *shape[1:])
    got_train, got_other = standardize(train, other, per_feature=per_feature)
    mean = train.double().mean(over, keepdim=True)
    std = train.double().std(over, correction=0, keepdim=True)
    assert got_train.dtype == torch.float32
    torch.testing.assert_close(got_train, ((train - mean) / std).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_other, ((other - mean) / std).float(), rtol=1e-5, atol=1e-5)


def test_constant_channel_is_only_centred():
    train = torch.rand(100, 2)
    train[:, 0] = 0.3
    got, other = standardize(train, torch.tensor([[1.3, 0.5]]), per_feature=True)
    assert got[:, 0].abs().max() < 1e-6
    assert other[0, 0] == pytest.approx(1.0)
