from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

import law_lightning.conf
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


def test_composed_ones_compose():
    labels = torch.arange(90) % 3
    parts = [LongTail(4), PairNoise(0.5, seed=1), UniformNoise(0.5, seed=3)]
    nested, flat = Compose([Compose(parts[:2]), parts[2]])(labels, 3), Compose(parts)(labels, 3)
    assert nested.name == flat.name == "long_tail+pair_noise+uniform_noise"
    assert nested.settings["1 long_tail+pair_noise"]["2 pair_noise"] == {"rate": 0.5, "seed": 1}
    for name in ("labels", "true_labels", "selected", "kept"):
        assert torch.equal(getattr(nested, name), getattr(flat, name))


@pytest.mark.parametrize(
    ("corruptions", "message"),
    [
        ([], "corruptions is empty"),
        (PairNoise(0.5), r"corruptions is PairNoise\(.*\), but it must be a list"),
        ([PairNoise(0.5), len], "Number 2 of corruptions is <built-in function len>, but each must be a Corruption"),
    ],
)
def test_what_cannot_be_composed_is_refused(corruptions, message):
    with pytest.raises(ValueError, match=message):
        Compose(corruptions)


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


#: What some configs need to fit 800 digits, and what their record says.
CONFIGS = {
    "uniform_noise": (["corruption.rate=0.3", "corruption.exclude_true=true"], "uniform_noise"),
    "pair_noise": (["corruption.rate=0.3"], "pair_noise"),
    "asymmetric_noise": (["corruption.rate=0.3"], "asymmetric_noise"),
    "label_file": (["corruption.path=labels.npy"], "label_file"),
    "discard": ([], "discard"),
    "long_tail": (["corruption.imbalance=10"], "long_tail"),
    "discard_noise": ([], "discard+uniform_noise"),
    "long_tail_noise": (["corruption.corruptions.0.imbalance=10"], "long_tail+uniform_noise"),
}


def build(*overrides):
    with initialize_config_module("law_lightning.conf", version_base="1.3"):
        config = compose("law_search", ["data.train_size=800", *overrides])
        data = instantiate(config.data, _convert_="all")
    data.setup()
    return data.corruption_record


def test_every_config_is_tested():
    folder = Path(law_lightning.conf.__file__).parent / "corruption"
    assert {path.stem for path in folder.glob("*.yaml")} == {*CONFIGS, "none"}


@pytest.mark.parametrize("choice", CONFIGS)
def test_the_configs_corrupt_the_digits(choice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.zeros(1797, dtype=np.int64))
    overrides, name = CONFIGS[choice]
    record = build(f"corruption={choice}", *overrides)
    assert record.name == name
    assert len(record.indices) > 0 or len(record.kept) < 800
    record.save("record.pt")
    assert CorruptionRecord.load("record.pt").settings == record.settings


def test_a_mapping_and_a_list_from_the_command_line():
    record = build("corruption=asymmetric_noise", "corruption.rate=1", "corruption.mapping={3: 8, 5: 6}")
    assert record.settings["mapping"] == {3: 8, 5: 6}
    assert set(record.true_labels[record.selected].tolist()) == {3, 5}
    record = build("corruption=discard", "corruption.classes=[2,7]", "corruption.share=0.5")
    assert record.settings["classes"] == (2, 7)
