"""Fits of one's own instead of a search: the strategy learns on from fit to fit."""

import lightning as L
import pytest

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.search.episodes import learning_seed
from search_parts import TRAINER, make_data, make_module, new_search
from test_promises import assert_same

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def fit(law, episode):
    L.seed_everything(learning_seed(0, episode, 0), verbose=False)
    module = make_module()
    trainer = L.Trainer(**TRAINER, **QUIET, num_sanity_val_steps=0, check_val_every_n_epoch=10**9, callbacks=[law])
    trainer.fit(module, datamodule=make_data())
    return trainer, module


def new_agent():
    return StrategyAgent(num_stages=4, warmup_stages=1, epochs=1)


@pytest.mark.parametrize("handed", ["the callback", "agent and buffer"])
def test_several_fits_are_a_search(handed):
    """The same seeds give the same strategy, bit for bit, as the episodes of StrategySearch."""
    law = LAWCallback(new_agent(), keep="target")
    for episode in range(4):
        if handed == "agent and buffer" and episode:
            law = LAWCallback(law.agent, buffer=law.buffer, keep="target")
        fit(law, episode)
        assert len(law.buffer) == 3 * (episode + 1)
        assert law.agent.exploration.episode == episode + 1
    search = new_search(episodes=4)
    search.run(make_module, make_data)
    assert_same(law.buffer.state_dict(), search._state.buffer().state_dict())
    assert_same(law.agent.full_state(), search._state.agent)
