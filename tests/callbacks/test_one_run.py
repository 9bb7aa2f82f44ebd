"""Fits of one's own instead of a search: the strategy learns on from fit to fit."""

import lightning as L
import pytest

from law_lightning import LAWCallback, StrategyAgent
from law_lightning.search.episodes import QUIET, learning_seed
from search_parts import TRAINER, make_data, make_module, new_search
from test_promises import assert_same


def fit(law, episode):
    L.seed_everything(learning_seed(0, episode, 0), verbose=False)
    module = make_module()
    L.Trainer(**TRAINER, **QUIET, callbacks=[law]).fit(module, datamodule=make_data())


@pytest.mark.parametrize("handed", ["the callback", "agent and buffer"])
def test_several_fits_are_a_search(handed):
    law = LAWCallback(StrategyAgent(num_stages=4, warmup_stages=1, epochs=1), keep="target")
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
