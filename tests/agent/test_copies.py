"""Copies of an agent, in this process and in others: they go on alike, and each by itself."""

import copy
import pickle

import pytest
import torch

from naive_ddpg import FAST, PAPER, filled, make, same


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
@pytest.mark.parametrize("options", [PAPER, FAST])
def test_a_copy_goes_on_alike_and_alone(travel, options):
    agent = make(**options)
    agent.full_data_update(filled())
    state = agent.full_state()
    other = travel(agent)
    assert same(other.full_state(), state)
    other.full_data_update(filled(13))
    assert same(agent.full_state(), state)
    agent.full_data_update(filled(13))
    assert same(other.full_state(), agent.full_state())
    assert all(a is not b for a, b in zip(agent.parameters(), other.parameters(), strict=True))


def _update(rank, agent, buffer, path):
    torch.set_num_threads(1)
    agent.full_data_update(buffer)
    agent.save(f"{path}/{rank}.pt")


def test_spawned_workers_have_agents_of_their_own(tmp_path):
    """Tensors that torch sends to a process share their memory with the sender's."""
    agent = make()
    agent.full_data_update(filled())
    state = agent.full_state()
    torch.multiprocessing.start_processes(_update, (agent, filled(13), str(tmp_path)), nprocs=2, start_method="spawn")
    assert same(agent.full_state(), state)
    agent.full_data_update(filled(13))
    for rank in range(2):
        assert same(type(agent).load(tmp_path / f"{rank}.pt").full_state(), agent.full_state())
