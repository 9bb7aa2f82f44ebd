import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from law_lightning.data import (
    Compose,
    CorruptionRecord,
    DigitsDataModule,
    DiscardClasses,
    LongTail,
    PairNoise,
    UniformNoise,
)


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0, 1), share=st.floats(0, 0.8), imbalance=st.floats(1, 5), seed=st.integers(0, 2**30))
def test_each_works_on_what_the_former_left(rate, share, imbalance, seed):
    labels = torch.arange(120) % 3
    parts = [
        PairNoise(rate, seed),
        DiscardClasses([1], share, seed),
        LongTail(imbalance, seed),
        UniformNoise(0.2, seed),
    ]
    record = Compose(parts)(labels, 3)
    # The same by hand, sample by sample.
    ids, present, chosen = list(range(120)), labels.tolist(), [False] * 120
    for each in parts:
        step = each(torch.tensor(present), 3)
        selected = set(step.selected.tolist())
        kept = step.kept.tolist()
        ids, chosen = [ids[i] for i in kept], [chosen[i] or place in selected for place, i in enumerate(kept)]
        present = step.labels.tolist()
    assert record.kept.tolist() == ids == sorted(ids)
    assert record.labels.tolist() == present
    assert record.true_labels.tolist() == [i % 3 for i in ids]
    assert record.selected.tolist() == [place for place, each in enumerate(chosen) if each]


def test_the_record_of_several(tmp_path):
    record = Compose([LongTail(4), UniformNoise(0.5, seed=3)])(torch.arange(90) % 3, 3)
    assert record.name == "long_tail+uniform_noise"
    assert record.settings == {
        "1 long_tail": {"imbalance": 4, "seed": 0},
        "2 uniform_noise": {"rate": 0.5, "seed": 3, "exclude_true": False},
    }
    record.save(tmp_path / "corruption.pt")
    loaded = CorruptionRecord.load(tmp_path / "corruption.pt")
    assert torch.equal(loaded.kept, record.kept)
    assert loaded.settings == record.settings


def test_nothing_to_compose_is_refused():
    with pytest.raises(ValueError, match="corruptions is empty"):
        Compose([])


def test_a_data_module_trains_on_what_is_left():
    data = DigitsDataModule(corruption=Compose([DiscardClasses([0, 1], 0.5), UniformNoise(0.4)]))
    data.setup()
    record, dataset = data.corruption_record, data.train_dataloader().dataset
    whole = DigitsDataModule()
    whole.setup()
    assert len(dataset) == len(record.kept) < 500
    assert torch.equal(dataset.x, whole.train_dataloader().dataset.x[record.kept])
    assert torch.equal(dataset.y, record.labels)
    assert len(data.val_dataloader().dataset) == len(whole.val_dataloader().dataset)


@pytest.mark.parametrize("choice", ["uniform_noise", "pair_noise", "asymmetric_noise", "discard", "discard_noise"])
def test_the_configs_corrupt_the_digits(choice):
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        config = compose("law_search", [f"corruption={choice}", "data.train_size=800"])
        data = instantiate(config.data, _convert_="all")
    data.setup()
    assert data.corruption_record.name.split("+")[0].removesuffix("_noise") in choice


def test_the_long_tail_config(tmp_path):
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        config = compose("law_search", ["corruption=long_tail_noise", "corruption.corruptions.0.imbalance=10"])
        data = instantiate(config.data, _convert_="all")
    data.setup()
    assert data.corruption_record.settings["1 long_tail"]["imbalance"] == 10
