import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from law_lightning.data import BatchedTensorDataset, CorruptionRecord, DigitsDataModule, UniformNoise, cleaned

SUSPECTS = [{"index": 3, "given": 0, "predicted": 2, "score": 0.5}, {"index": 0, "given": 0, "predicted": 1}]


def whole_numbers(samples):
    return [(float(x), int(y)) for x, y in samples]


class Listed(TensorDataset):
    """Gives the samples of a batch as a list."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize(
    "make",
    [TensorDataset, BatchedTensorDataset, Listed, lambda x, y: list(zip(x.tolist(), y.tolist(), strict=True))],
    ids=["samples", "batches", "lists", "numbers"],
)
def test_suspects_are_left_out_or_get_the_predicted_label(make):
    dataset = make(torch.arange(5.0), torch.zeros(5, dtype=torch.int64))
    collate = (lambda batch: batch) if make is BatchedTensorDataset else None
    for relabel, x, y in ((False, [1.0, 2.0, 4.0], [0, 0, 0]), (True, [0.0, 1.0, 2.0, 3.0, 4.0], [1, 0, 0, 2, 0])):
        found = cleaned(dataset, SUSPECTS, relabel)
        assert whole_numbers(found[index] for index in range(len(found))) == list(zip(x, y, strict=True))
        ((inputs, labels),) = DataLoader(found, 5, collate_fn=collate)
        assert (inputs.tolist(), labels.tolist(), labels.dtype) == (x, y, torch.int64)


@pytest.mark.parametrize("index", [-1, 5])
def test_suspects_of_another_dataset_are_refused(index):
    with pytest.raises(ValueError, match=f"Suspect {index} is none of the dataset's 5 samples"):
        cleaned(range(5), [{"index": index, "predicted": 0}])


def test_some_sample_must_be_left():
    with pytest.raises(ValueError, match="All 2 samples are suspects"):
        cleaned(range(2), [{"index": index, "predicted": 0} for index in range(2)])


def test_a_data_module_is_copied():
    data = DigitsDataModule(train_size=20, corruption=UniformNoise(0.5))
    data.setup()
    dropped, relabelled = (data.cleaned(SUSPECTS, relabel) for relabel in (False, True))
    assert [len(each.train_dataloader().dataset) for each in (data, dropped, relabelled)] == [20, 18, 20]
    assert [dropped.source(index) for index in (0, 2)] == [data.source(index) for index in (1, 4)]
    assert relabelled.source(3) == data.source(3)
    assert isinstance(data.corruption_record, CorruptionRecord)
    assert dropped.corruption_record is relabelled.analysis_dataloader() is None
