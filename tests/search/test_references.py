"""The reference cache of a search."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning.data import DigitsDataModule, UniformNoise
from law_lightning.models import MLP, ImageClassifier
from law_lightning.search.episodes import learning_seed
from law_lightning.search.references import ReferenceCache, experiment
from law_lightning.second_network.trace import ReferenceTrace
from search_parts import TRAINER, everything, make_data, make_module, new_search
from test_promises import assert_same


class Forgetful(ReferenceCache):
    """Keeps nothing: every episode trains its reference and its warm-up."""

    def __init__(self, *args):
        super().__init__(*args)
        self.warmups.trusted = False

    def trace(self, seed):
        return ReferenceTrace()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_finds_the_same_with_it(tmp_path, monkeypatch, workers):
    """Rewards, agents and all, bit for bit; two workers read from disk what one wrote."""
    cached = new_search(tmp_path, episodes=6, seed_pool=2).run(make_module, make_data)
    monkeypatch.setattr("law_lightning.search.loop.ReferenceCache", Forgetful)
    trained = new_search(episodes=6, seed_pool=2).run(make_module, make_data)
    assert_same(everything(cached), everything(trained))
    assert any(record["return"] for record in cached.history)
    if workers == 2:
        memory = new_search(episodes=6, workers=2, seed_pool=2).run(make_module, make_data)
        disk = new_search(episodes=6, workers=2, seed_pool=2, cache_dir=tmp_path / "references")
        assert_same(everything(disk.run(make_module, make_data)), everything(memory))


def count_trainings(monkeypatch):
    forks = []
    from law_lightning.callbacks import reward

    class Counted(reward.Reference):
        def __init__(self, *args):
            forks.append(1)
            super().__init__(*args)

    monkeypatch.setattr(reward, "Reference", Counted)
    return forks


def test_each_seed_is_trained_once(tmp_path, monkeypatch):
    forks = count_trainings(monkeypatch)
    result = new_search(tmp_path / "a", episodes=7, seed_pool=3).run(make_module, make_data)
    assert len(forks) == 3
    assert [record["seed"] for record in result.history] == [learning_seed(0, episode % 3, 3) for episode in range(7)]
    assert len(list((tmp_path / "a/references").rglob("*.pt"))) == 3
    # another search on the same experiment trains none, nor does one that is resumed
    new_search(tmp_path / "b", seed_pool=3, cache_dir=tmp_path / "a/references").run(make_module, make_data)
    new_search(tmp_path / "a", episodes=8, seed_pool=3).run(make_module, make_data)
    assert len(forks) == 3
    # without a pool every episode has its own
    new_search(episodes=2).run(make_module, make_data)
    assert len(forks) == 5


class OtherCode(ImageClassifier):
    def training_step(self, batch, batch_idx):
        return 0.5 * super().training_step(batch, batch_idx)


def module_of(lr=0.1, hidden=16, kind=ImageClassifier):
    return kind(MLP((1, 8, 8), 10, hidden=(hidden,), dropout=0.1), lr=lr)


def data_of(rate=0.4, seed=0, val_size=100, batch_size=30):
    noise = UniformNoise(rate, seed)
    return DigitsDataModule(train_size=60, val_size=val_size, batch_size=batch_size, corruption=noise)


def parts(module=module_of, data=data_of, trainer=TRAINER, stages=(4, 1), phase="validation"):
    return experiment(module, data(), trainer, *stages, phase)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("data", {"data": partial(data_of, rate=0.5)}),
        ("data", {"data": partial(data_of, seed=1)}),
        ("data", {"data": partial(data_of, val_size=90)}),
        ("data", {"data": partial(data_of, batch_size=20)}),
        ("model", {"module": partial(module_of, lr=0.2)}),
        ("model", {"module": partial(module_of, hidden=17)}),
        ("model", {"module": partial(module_of, kind=OtherCode)}),
        ("trainer", {"trainer": TRAINER | {"max_epochs": 5}}),
        ("trainer", {"trainer": TRAINER | {"gradient_clip_val": 1.0}}),
        ("stages", {"stages": (5, 1)}),
        ("stages", {"stages": (4, 2)}),
        ("phase", {"phase": "training"}),
    ],
)
def test_the_key_names_what_differs(part, change):
    before, after = parts(), parts(**change)
    different = {name for name in before if before[name] != after[name]}
    assert part in different
    assert different <= {part, "model"}  # a partial function is another one
    assert parts(**change) == after


def test_the_key_has_the_versions_and_leaves_random_states_alone(monkeypatch):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    before = parts()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.__version__ in before["versions"]
    monkeypatch.setattr("law_lightning.__version__", "99")
    assert parts()["versions"] != before["versions"]


def only_folder(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


def test_other_experiments_do_not_meet(tmp_path, monkeypatch):
    forks = count_trainings(monkeypatch)
    for rate in (0.4, 0.5):
        new_search(episodes=2, seed_pool=1, cache_dir=tmp_path).run(make_module, partial(data_of, rate))
    assert len(forks) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_of_another_experiment(tmp_path):
    """Files that were copied into the place of this experiment's are named, not believed."""
    new_search(episodes=1, seed_pool=1, cache_dir=tmp_path / "a").run(make_module, make_data)
    new_search(episodes=1, seed_pool=1, cache_dir=tmp_path / "b").run(make_module, partial(data_of, 0.6))
    right, wrong = only_folder(tmp_path / "a"), only_folder(tmp_path / "b")
    shutil.rmtree(right)
    shutil.copytree(wrong, right)
    with pytest.raises(MisconfigurationException, match=r"reference of another experiment .*differs in: data"):
        new_search(episodes=1, seed_pool=1, cache_dir=tmp_path / "a").run(make_module, make_data)


def test_a_reference_of_another_seed(tmp_path):
    new_search(episodes=2, seed_pool=2, cache_dir=tmp_path).run(make_module, make_data)
    first, second = only_folder(tmp_path).glob("*.pt")
    shutil.copy(first, second)
    with pytest.raises(MisconfigurationException, match="differs in: seed"):
        new_search(episodes=2, seed_pool=2, cache_dir=tmp_path).run(make_module, make_data)


def test_a_damaged_reference(tmp_path):
    new_search(episodes=1, seed_pool=1, cache_dir=tmp_path).run(make_module, make_data)
    (file,) = only_folder(tmp_path).glob("*.pt")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        new_search(episodes=1, seed_pool=1, cache_dir=tmp_path).run(make_module, make_data)


def test_a_pool_below_zero():
    with pytest.raises(ValueError, match="seed_pool must be at least 0"):
        new_search(seed_pool=-1)


def test_endless_data_are_looked_at_in_part(monkeypatch):
    class Endless(DigitsDataModule):
        def train_dataloader(self):
            loader = super().train_dataloader()

            def forever():
                while True:
                    yield from loader

            return forever()

    monkeypatch.setattr("law_lightning.search.references._ENDLESS", 5)
    assert parts(data=lambda: Endless(train_size=60, val_size=100, batch_size=30))["data"]
