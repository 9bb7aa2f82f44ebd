"""Episodes that begin where the warm-up of an earlier one from the same seed ended."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from test_references import Forgetful
from torch.utils.data import DataLoader

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.data import DigitsDataModule
from law_lightning.models import MLP, ImageClassifier
from law_lightning.search import warmups
from law_lightning.second_network.trace import ReferenceTrace
from search_parts import TRAINER, everything, make_data, make_module, new_search
from test_promises import assert_same


def count_steps(monkeypatch):
    """The steps of all targets, by fit."""
    fits = []
    start, end = LAWCallback.on_train_start, LAWCallback.on_train_batch_end

    def on_train_start(self, *args):
        fits.append(0)
        start(self, *args)

    def on_train_batch_end(self, *args):
        fits[-1] += 1
        end(self, *args)

    monkeypatch.setattr(LAWCallback, "on_train_start", on_train_start)
    monkeypatch.setattr(LAWCallback, "on_train_batch_end", on_train_batch_end)
    return fits


def found(monkeypatch, module=make_module, data=make_data, **kwargs):
    """What a search finds with kept warm-ups and without, and the steps of its five episodes with them."""
    with monkeypatch.context() as patch:
        fits = count_steps(patch)
        kept = everything(new_search(episodes=5, seed_pool=2, eval_every=5, eval_seeds=1, **kwargs).run(module, data))
        steps = fits[1:-1]  # an evaluation comes first and last
    with monkeypatch.context() as patch:
        patch.setattr("law_lightning.search.loop.ReferenceCache", Forgetful)
        whole = everything(new_search(episodes=5, seed_pool=2, eval_every=5, eval_seeds=1, **kwargs).run(module, data))
    return kept, whole, steps


def uneven_data():
    """Seven steps in an epoch: the warm-up, the first quarter of three epochs, ends within the first."""
    return DigitsDataModule(train_size=70, val_size=100, batch_size=10)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"max_epochs": 3, "precision": "bf16-mixed"}])
@pytest.mark.parametrize("data", [make_data, uneven_data])
def test_a_search_finds_the_same(monkeypatch, options, data):
    kept, whole, steps = found(monkeypatch, data=data, trainer_kwargs=TRAINER | options)
    assert_same(kept, whole)
    assert steps[0] == steps[1] > steps[2] == steps[3] == steps[4]


class Counting(ImageClassifier):
    """Halves its loss after a number of steps that it counts, and no checkpoint knows how many those were."""

    def __init__(self, saved):
        super().__init__(MLP((1, 8, 8), 10, hidden=(16,)))
        self.saved, self.steps = saved, 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return super().training_step(batch, batch_idx) * (0.5 if self.steps > 5 else 1.0)

    def on_save_checkpoint(self, checkpoint):
        if self.saved:
            checkpoint["steps"] = self.steps

    def on_load_checkpoint(self, checkpoint):
        self.steps = checkpoint.get("steps", 0)


def counting(saved):
    return Counting(saved)


@pytest.mark.parametrize("saved", [True, False])
def test_a_module_that_remembers_more_than_it_saves_is_trained_whole(monkeypatch, saved):
    kept, whole, steps = found(monkeypatch, module=lambda: Counting(saved))
    assert_same(kept, whole)
    # The third episode finds out, and begins anew.
    assert steps == [8, 8, 6, 6, 6] if saved else [8, 8, 0, 8, 8, 8]


class OwnOrder(DigitsDataModule):
    """Its loader has a generator of its own, which a checkpoint does not know."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        generator = torch.Generator().manual_seed(0)
        return DataLoader(loader.dataset, 30, shuffle=True, generator=generator, collate_fn=loader.collate_fn)


def test_data_that_cannot_be_resumed_are_gone_through_again(monkeypatch):
    kept, whole, steps = found(monkeypatch, data=lambda: OwnOrder(train_size=60, val_size=100))
    assert_same(kept, whole)
    assert steps == [8, 8, 0, 8, 8, 8]


class WithObject(ImageClassifier):
    def __init__(self, thing):
        super().__init__(MLP((1, 8, 8), 10, hidden=(16,)))
        self.save_hyperparameters()


def test_a_checkpoint_that_would_execute_something_is_not_kept(monkeypatch):
    kept, whole, steps = found(monkeypatch, module=lambda: WithObject(count_steps))
    assert_same(kept, whole)
    assert steps == [8] * 5


def test_a_damaged_warmup(tmp_path):
    new_search(episodes=1, seed_pool=1, cache_dir=tmp_path).run(make_module, make_data)
    (file,) = tmp_path.rglob("*.ckpt")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"\.ckpt, a kept warm-up, is damaged: delete it"):
        new_search(episodes=1, seed_pool=1, cache_dir=tmp_path).run(make_module, make_data)


def resume(path, **kwargs):
    agent = StrategyAgent(num_stages=4, warmup_stages=1)
    law = LAWCallback(agent, keep="target", **kwargs)
    trainer = L.Trainer(**TRAINER, callbacks=[law], logger=False, enable_checkpointing=False)
    trainer.fit(make_module(), make_data(), ckpt_path=path, weights_only=True)


def test_a_fit_with_a_trace_is_not_resumed_elsewhere(tmp_path):
    """Not by an ordinary callback, nor in the middle."""
    law = LAWCallback(StrategyAgent(num_stages=4, warmup_stages=1), keep="target", trace=ReferenceTrace())
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = L.Trainer(**TRAINER, callbacks=[law, saver], logger=False)
    trainer.fit(make_module(), make_data())
    resume(tmp_path / "step=2.ckpt", trace=ReferenceTrace())  # the end of the warm-up
    with pytest.raises(MisconfigurationException, match="kept warm-up"):
        resume(tmp_path / "step=2.ckpt")
    for step in (1, 3, 4):
        with pytest.raises(MisconfigurationException, match="cannot be resumed in the middle"):
            resume(tmp_path / f"step={step}.ckpt", trace=ReferenceTrace())


class ByEpoch(ImageClassifier):
    """Computes a factor at the start of every epoch, which Lightning leaves out where a fit is resumed."""

    factor = 1.0

    def on_train_epoch_start(self):
        self.factor = 1 / (1 + 3 * self.current_epoch)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * self.factor


class Remembering(ImageClassifier):
    """Keeps a tensor that is no buffer."""

    def __init__(self, network):
        super().__init__(network)
        self.seen = torch.zeros(())

    def training_step(self, batch, batch_idx):
        self.seen = self.seen + 1
        return super().training_step(batch, batch_idx) * (0.1 if self.seen > 3 else 1.0)


@pytest.mark.parametrize("kind", [ByEpoch, Remembering])
def test_what_a_module_remembers_is_compared(monkeypatch, kind):
    options = TRAINER | {"max_epochs": 8}  # the warm-up ends with an epoch
    kept, whole, steps = found(monkeypatch, lambda: kind(MLP((1, 8, 8), 10, hidden=(16,))), trainer_kwargs=options)
    assert_same(kept, whole)
    assert steps == [16, 16, 0, 16, 16, 16]


class CutsTheMomentum(L.Callback):
    """At its fourth batch; no state is saved."""

    def __init__(self):
        self.batches = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches += 1
        if self.batches == 4:
            trainer.optimizers[0].param_groups[0]["momentum"] = 0.0


def test_what_a_callback_remembers_is_compared(monkeypatch):
    kept, whole, steps = found(monkeypatch, trainer_kwargs=TRAINER | {"callbacks": [CutsTheMomentum()]})
    assert_same(kept, whole)
    assert steps == [8, 8, 0, 8, 8, 8]


def test_trainings_that_stop_early_do_not_begin_at_a_warmup(monkeypatch):
    """Their references are incomplete, and nothing could check where they begin."""
    stopper = EarlyStopping("val/acc", mode="max", patience=1)
    options = TRAINER | {"max_epochs": 8, "callbacks": [stopper]}
    kept, whole, _ = found(monkeypatch, trainer_kwargs=options, seed=1)
    assert_same(kept, whole)


def test_an_episode_that_was_killed_after_its_warmup_is_trained_whole(tmp_path, monkeypatch):
    def data():
        return OwnOrder(train_size=60, val_size=100)

    def stop_late(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    options = {"episodes": 3, "seed_pool": 1}
    whole = new_search(tmp_path / "a", **options).run(make_module, data)
    with monkeypatch.context() as patch:
        patch.setattr(warmups.KeepWarmup, "on_train_epoch_end", stop_late)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            new_search(tmp_path / "b", **options).run(make_module, data)
    assert_same(everything(new_search(tmp_path / "b", **options).run(make_module, data)), everything(whole))


def test_searches_with_another_smoothing_share_references_but_not_warmups(tmp_path):
    """A checkpoint holds what the callback saw of the samples."""
    for kwargs in ({}, {"law_kwargs": {"smoothing": 0.9}}):
        shared = new_search(episodes=2, seed_pool=1, cache_dir=tmp_path, **kwargs).run(make_module, make_data)
        alone = new_search(episodes=2, seed_pool=1, **kwargs).run(make_module, make_data)
        assert_same(everything(shared), everything(alone))
    assert len(list(tmp_path.rglob("*.pt"))) == 1
    assert len(list(tmp_path.rglob("*.ckpt"))) == 2


def test_no_temporary_folder_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(warmups.tempfile, "tempdir", str(tmp_path))
    new_search(episodes=2, seed_pool=1).run(make_module, make_data)
    assert not list(tmp_path.glob("law-warmups-*"))
