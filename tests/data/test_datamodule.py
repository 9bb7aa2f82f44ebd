import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from law_lightning.data import ArrayDataModule, ArraySplits, CorruptionRecord, UniformNoise, identity_collate


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
    ("labels", "message"),
    [
        (torch.zeros(99, dtype=torch.int64), r"shape \[99\] .* need int64 labels of shape \[100\]"),
        (torch.zeros(100), "torch.float32, but the 100 training samples it kept need int64"),
        (torch.full((100,), 3), r"labels from 3 to 3, but with 3 classes they must lie in \[0, 2\]"),
        (torch.full((100,), -1), "labels from -1 to -1"),
    ],
)
def test_what_a_corruption_returns_is_checked(labels, message):
    empty = torch.zeros(0, dtype=torch.int64)
    module = Toy(corruption=lambda y, c: CorruptionRecord(labels, y, empty, "bad", {}, torch.arange(100)))
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


class Recorder(L.LightningModule):
    """Notes the samplers and the samples a Trainer feeds it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.samplers = [], {}

    def training_step(self, batch, batch_idx):
        self.seen += batch[0].flatten().tolist()
        return self.layer(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        self.samplers["val"] = self.trainer.val_dataloaders.sampler

    def on_train_end(self):
        self.samplers["train"] = self.trainer.train_dataloader.sampler

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(**trainer_kwargs):
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **trainer_kwargs,
    )  # fmt: skip
    trainer.fit(module, datamodule=Toy(batch_size=16))
    return module


def test_a_trainer_is_fed_every_sample_once():
    module = fit()
    assert sorted(module.seen) == list(range(100))
    assert isinstance(module.samplers["train"], RandomSampler)
    assert isinstance(module.samplers["val"], SequentialSampler)


def test_lightning_can_replace_the_sampler(monkeypatch):
    # What Lightning does under DDP, without the processes: this is rank 1 of 2.
    monkeypatch.setattr(
        "lightning.pytorch.trainer.connectors.data_connector._DataConnector._requires_distributed_sampler",
        lambda self, loader: not isinstance(loader.sampler, DistributedSampler),
    )
    monkeypatch.setattr(L.Trainer, "distributed_sampler_kwargs", property(lambda self: {"num_replicas": 2, "rank": 1}))
    module = fit()
    assert isinstance(module.samplers["train"], DistributedSampler)
    assert len(module.seen) == len(set(module.seen)) == 50
    assert module.samplers["train"].shuffle
    assert not module.samplers["val"].shuffle


def test_ranks_share_the_samples_between_them():
    dataset = ready().train_dataloader().dataset
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=True)
        loader = DataLoader(dataset, batch_size=16, sampler=sampler, collate_fn=identity_collate)
        seen += collect(loader)[0].tolist()
    assert sorted(seen) == list(range(100))
