"""What a reference gave is recorded by seed and stage: the same rewards bit for bit, without training it again."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from law_lightning import LAWCallback, ReplayBuffer, StrategyAgent
from law_lightning.models import ImageClassifier
from law_lightning.search import loop
from law_lightning.search.episodes import learning_seed, run_episode
from search_parts import TRAINER, Plateau, StopEarly, count_steps, everything, make_data, make_module, new_search
from test_promises import assert_same

WARMUP, STEPS = 2, 8  # steps of a training


class RandomValidation(ImageClassifier):
    """Draws random numbers in validation_step, too."""

    def validation_step(self, batch, batch_idx):
        x, target = batch
        super().validation_step((x + torch.randn_like(x), target), batch_idx)


def agent(seed):
    torch.manual_seed(seed)
    found = StrategyAgent(num_stages=4, warmup_stages=1, epochs=1, seed=seed)
    with torch.no_grad():  # far from weights of one
        for parameter in found.actor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return found


def fit(record, strategy=0, kind=ImageClassifier, options=None):
    law = LAWCallback(agent(strategy), keep="target", reference_record=record, buffer=ReplayBuffer())
    run_episode(7, lambda: kind(make_module().network), make_data(), TRAINER | (options or {}), law)
    return law


def found(law):
    """All but the loss gaps, which need the reference's losses."""
    history = [{name: value for name, value in stage.items() if "loss_gap" not in name} for stage in law.history]
    return history, law.buffer.state_dict(), law.agent.full_state()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ImageClassifier, {}),
        (ImageClassifier, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5, "precision": "bf16-mixed"}),
        (RandomValidation, {}),
    ],
)
def test_rewards_are_those_without_it(kind, options, monkeypatch):
    """Also for another strategy than that of the fit that filled the record."""
    record = {}
    filled = fit(record, 0, kind, options)
    assert sorted(record) == [1, 2, 3]
    before = dict(record)
    with monkeypatch.context() as patch:
        steps = count_steps(patch)
        known = fit(record, 1, kind, options)
        assert len(steps) == STEPS  # of one network
    assert record == before
    assert known.reference is None
    without = fit(None, 1, kind, options)
    assert without.reference is not None
    assert_same(found(known), found(without))
    assert any(stage["loss_gap"] for stage in without.history)
    assert all(stage["loss_gap"] is None for stage in known.history)
    assert_same(found(filled), found(fit(None, 0, kind, options)))


def test_the_record_of_a_training_that_stops_early_is_filled_anew():
    record = {}
    fit(record, options={"callbacks": [StopEarly(0)]})
    assert sorted(record) == [1, 2]
    assert_same(found(fit(record)), found(fit(None)))
    assert sorted(record) == [1, 2, 3]


def test_where_there_can_be_no_record(tmp_path):
    for arguments in ({"keep": "best"}, {"keep": "target", "mode": "apply", "agent": StrategyAgent()}):
        with pytest.raises(ValueError, match="reference_record holds a reference's accuracies, not its network"):
            LAWCallback(reference_record={}, **arguments)
    with pytest.raises(MisconfigurationException, match=r"ReduceLROnPlateau.*seed_pool=0"):
        fit({}, kind=Plateau)
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    fit({}, options={"callbacks": [saver], "enable_checkpointing": True})
    trainer = L.Trainer(**TRAINER, callbacks=[LAWCallback(agent(0), keep="target")], logger=False)
    with pytest.raises(MisconfigurationException, match="cannot be resumed"):
        trainer.fit(make_module(), make_data(), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True)


class Forgetful(LAWCallback):
    """Leaves the record empty, so that every episode trains its reference."""

    def __init__(self, *args, reference_record=None, **kwargs):
        super().__init__(*args, **kwargs)


def test_a_search_trains_each_reference_once(tmp_path, monkeypatch):
    """And finds the same as one that trains all: rewards, agents and all, bit for bit, resumed or not."""
    options = {"seed_pool": 2, "eval_seeds": 1}
    steps = count_steps(monkeypatch)
    new_search(tmp_path, episodes=2, **options).run(make_module, make_data)
    recorded = new_search(tmp_path, episodes=6, **options).run(make_module, make_data)
    taken = len(steps)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "LAWCallback", Forgetful)
        trained = new_search(episodes=6, **options).run(make_module, make_data)
    assert_same(everything(recorded), everything(trained))
    assert any(record["return"] for record in recorded.history)
    assert [record["seed"] for record in recorded.history] == [learning_seed(0, episode % 2, 2) for episode in range(6)]
    assert len(steps) - taken == taken + 4 * (STEPS - WARMUP)
