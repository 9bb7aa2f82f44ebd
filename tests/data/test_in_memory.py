import pickle

import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from law_lightning.data import (
    ArrayDataModule,
    ArraySplits,
    BatchedTensorDataset,
    Compose,
    CorruptionRecord,
    DigitsDataModule,
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


def test_setup_comes_first_and_a_second_one_does_nothing():
    module = Toy(corruption=UniformNoise(0.5))
    for use in (lambda: module.num_classes, lambda: module.in_shape, module.train_dataloader):
        with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
            use()
    module.setup("fit")
    record = module.corruption_record
    module.setup("test")
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


def test_only_training_labels_are_corrupted_and_true_ones_do_not_reach_the_dataset():
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
    values = vars(module.train_dataloader().dataset).values()
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    assert not any(torch.equal(t, record.true_labels) for t in tensors)


def test_validation_labels_are_corrupted_only_if_they_are_to_be():
    noise = UniformNoise(0.6, seed=1)
    module = ready(corruption=noise, corrupt_validation=True)
    x, y = collect(module.val_dataloader())
    assert torch.equal(y, noise(x.long() % 3, 3).labels)
    assert not torch.equal(y, x.long() % 3)
    assert torch.equal(collect(module.train_dataloader())[1].bincount(), module.corruption_record.labels.bincount())
    x, y = collect(module.test_dataloader())
    assert torch.equal(y, x.long() % 3)
    with pytest.raises(ValueError, match=r"corrupt_validation=True .* discard leaves samples out"):
        ready(corruption=DiscardClasses([0], 0.5), corrupt_validation=True)


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
    truth, empty, all_kept = torch.arange(100) % 3, torch.arange(0), torch.arange(100)
    module = Toy(corruption=lambda y, _: CorruptionRecord(y.zero_(), truth, empty, "zero", {}, all_kept))
    splits = module.load_splits()
    module.load_splits = lambda: splits
    module.setup()
    assert collect(module.train_dataloader())[1].sum() == 0
    assert torch.equal(splits.train_y, truth)


@pytest.mark.parametrize(
    ("labels", "kept", "message"),
    [
        (torch.zeros(99, dtype=torch.int64), 100, r"shape \[99\] .* need int64 labels of shape \[100\]"),
        (torch.zeros(100), 100, "torch.float32, but the 100 training samples it kept need int64"),
        (torch.full((100,), 3), 100, r"label 3, but with num_classes=3 labels must lie in \[0, 2\]"),
        (torch.full((100,), -1), 100, "label -1, but with num_classes=3"),
        (torch.zeros(0, dtype=torch.int64), 0, r"Of the 100 training samples the corruption kept \[\]"),
        (torch.zeros(101, dtype=torch.int64), 101, r"kept \[91, .*, 100\]: .* none above 99"),
    ],
)
def test_what_a_corruption_returns_is_checked(labels, kept, message):
    empty = torch.arange(0)
    module = Toy(corruption=lambda y, c: CorruptionRecord(labels, labels, empty, "bad", {}, torch.arange(kept)))
    with pytest.raises(ValueError, match=message):
        module.setup()


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("eval_batch_size", -1), ("num_workers", -1)])
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, but it must be at least"):
        Toy(**{name: value})


def test_the_digits_are_split_standardised_disjoint_and_complete():
    module = DigitsDataModule(train_size=300, val_size=400)
    module.setup()
    assert (module.in_shape, module.num_classes) == ((1, 8, 8), 10)
    sets = [getattr(module, f"{name}_dataloader")().dataset for name in ("train", "val", "test")]
    assert [len(each) for each in sets] == [300, 400, 1097]
    assert sets[0].x.mean().item() == pytest.approx(0, abs=1e-5)
    assert sets[0].x.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    # As multisets: every image is in one split, exactly once, under its own label.
    x = torch.cat([each.x for each in sets])
    levels = ((x - x.min()) / (x.max() - x.min()) * 16).round().flatten(1).int()
    found = zip(levels.tolist(), torch.cat([each.y for each in sets]).tolist(), strict=True)
    digits = load_digits()
    assert sorted(found) == sorted(zip(digits.data.astype(int).tolist(), digits.target.tolist(), strict=True))


@pytest.mark.parametrize("sizes", [(0, 500), (500, 0), (1297, 500)])
def test_sizes_that_do_not_split_the_digits_are_named(sizes):
    with pytest.raises(ValueError, match=rf"train_size={sizes[0]} and val_size={sizes[1]} do not split the 1797"):
        DigitsDataModule(*sizes)


def test_loader_gives_what_default_collate_gives_and_asks_for_whole_batches():
    sizes = []

    def double(batch):
        sizes.append(len(batch))
        return batch * 2

    dataset = BatchedTensorDataset(torch.arange(120.0).view(10, 1, 3, 4), torch.arange(10), double)
    ours = list(DataLoader(dataset, batch_size=4, collate_fn=identity_collate))
    assert sizes == [4, 4, 2]
    plain = DataLoader([(dataset.x[i] * 2, i) for i in range(10)], batch_size=4)
    for (x, y), (expected_x, expected_y) in zip(ours, plain, strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(y, expected_y)
    assert torch.equal(dataset[-1][0], dataset.x[-1] * 2)


def test_worker_processes_can_unpickle_it():
    dataset = BatchedTensorDataset(torch.rand(10, 1, 3, 4), torch.arange(10), random_horizontal_flip)
    dataset, collate = pickle.loads(pickle.dumps((dataset, identity_collate)))
    loader = DataLoader(dataset, batch_size=5, collate_fn=collate, num_workers=1)
    assert [batch[1].tolist() for batch in loader] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_standardize_agrees_with_the_plain_formula():  # tests of ArraysDataModule check the other shapes
    torch.manual_seed(0)
    # Channels of different location and scale; 5000 samples are more than one piece.
    scale = torch.arange(1, 4).view(1, 3, 1, 1)
    train, other = torch.randn(5000, 3, 2, 2) * scale + 5 * scale, torch.randn(7, 3, 2, 2)
    mean = train.double().mean((0, 2, 3), keepdim=True)
    std = train.double().std((0, 2, 3), correction=0, keepdim=True)
    for got, x in zip(standardize(train, other), (train, other), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, ((x - mean) / std).float(), rtol=1e-5, atol=1e-5)


def test_constant_channel_is_only_centred():
    train = torch.rand(100, 2)
    train[:, 0] = 0.3
    got, other = standardize(train, torch.tensor([[1.3, 0.5]]), per_feature=True)
    assert got[:, 0].abs().max() < 1e-6
    assert other[0, 0] == pytest.approx(1.0)
