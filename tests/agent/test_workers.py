"""Several workers, played by threads: their gradients are averaged, and their agents stay one."""

import copy
import pickle
import threading

import pytest
import torch

from law_lightning import ReplayBuffer
from law_lightning.randomness import OwnGenerator
from naive_ddpg import FAST, PAPER, Naive, compare, filled, make, same, spread

COUNTS = (10, 5)  # transitions of each worker: 3 and 2 batches of 4


class Meeting:
    """Where workers meet: each brings a tensor, and leaves with the same combination of all of them."""

    def __init__(self, count):
        self.count = count
        self.barrier = threading.Barrier(count)
        self.brought = [None] * count
        self.seen = []

    def at(self, worker, mean):
        def combine(tensor):
            self.brought[worker] = tensor.clone()
            self.barrier.wait(20)
            total = sum(self.brought)
            self.barrier.wait(20)
            tensor.copy_(total / self.count if mean else total)
            self.seen.append((worker, mean, tensor.dtype, tuple(tensor.shape)))

        return combine


def workers(options, shuffles, count=2):
    agents, meeting = [spread(make(**options), 0.2) for _ in range(count)], Meeting(count)
    for number, (agent, seed) in enumerate(zip(agents, shuffles, strict=True)):
        agent._own = OwnGenerator(seed)
        agent.average = meeting.at(number, mean=True)
        agent.reduce_moments = meeting.at(number, mean=False)
    return agents, meeting


def together(agents, update):
    results, errors = [None] * len(agents), []

    def work(number):
        try:
            results[number] = update(number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(agents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    return results


@pytest.mark.parametrize("options", [PAPER, PAPER | {"standardize_rewards": True}, FAST, FAST | {"action_penalty": 0}])
def test_workers_that_average_are_one_agent(options):
    agents, _ = workers(options, shuffles=(3, 4))
    naive = Naive(agents[0], shuffles=(3, 4))
    for turn in range(3):
        buffers = [filled(count + turn, seed=count) for count in COUNTS]
        batches = max(-(-len(buffer) // 4) for buffer in buffers)
        logs = together(agents, lambda n: agents[n].full_data_update(buffers[n], batches=batches))  # noqa: B023
        expected = naive.update(*buffers, epochs=3, batch_size=4, batches=batches)
        for mine, theirs in zip(logs, expected, strict=True):
            assert list(mine.values()) == pytest.approx(theirs, rel=1e-3, abs=1e-5)
        compare(agents[0], naive)
        states = [agent.full_state() for agent in agents]
        assert same(states[0]["networks"], states[1]["networks"])
        assert same(states[0]["optimizers"], states[1]["optimizers"])


def test_two_flat_gradients_are_averaged_a_batch():
    agents, meeting = workers(FAST, shuffles=(3, 4))
    together(agents, lambda n: agents[n].full_data_update(filled(seed=n), epochs=1, batch_size=5))
    mine = [entry[1:] for entry in meeting.seen if entry[0] == 0]
    moments, *gradients = mine
    assert moments == (False, torch.float64, (3,))
    assert len(gradients) == 2 * 2
    assert gradients[:2] == gradients[2:]
    assert all(mean and dtype == torch.float32 and len(shape) == 1 for mean, dtype, shape in gradients)
    critics = sum(p.numel() for p in agents[0].critics.parameters())
    actor = sum(p.numel() for part in (agents[0].actor, agents[0].embedding) for p in part.parameters())
    assert gradients[0][2][0] >= critics
    assert gradients[1][2][0] >= actor


def test_an_average_over_one_worker_changes_nothing():
    alone, averaged = make(), make()
    averaged.average = averaged.reduce_moments = lambda tensor: None
    alone.full_data_update(filled())
    averaged.full_data_update(filled())
    assert same(alone.full_state(), averaged.full_state())


def test_moments_are_only_asked_for_where_rewards_are_standardised():
    agent = make(standardize_rewards=False)
    agent.reduce_moments = lambda tensor: pytest.fail("not needed")
    agent.full_data_update(filled())


@pytest.mark.parametrize("batches", [3, 4, 7])
def test_an_epoch_with_more_batches_goes_on_with_a_further_shuffle(batches):
    agent = spread(make(**PAPER), 0.2)
    naive, calls = Naive(agent), []
    logs = agent.full_data_update(filled(), batches=batches, progress=lambda *call: calls.append(call))
    (expected,) = naive.update(filled(), epochs=3, batch_size=4, batches=batches)
    assert list(logs.values()) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    compare(agent, naive)
    assert calls == [(i, 3 * batches) for i in range(1, 3 * batches + 1)]


def test_the_given_number_of_batches_may_be_the_buffers_own():
    given, left = make(), make()
    given.full_data_update(filled(10), batches=3)
    left.full_data_update(filled(10))
    assert same(given.full_state(), left.full_state())


@pytest.mark.parametrize("batches", [2, 0, -1])
def test_fewer_batches_than_the_buffer_has_are_named_and_change_nothing(batches):
    agent = make()
    before = agent.full_state()
    with pytest.raises(ValueError, match=f"batches must be at least 3, for all 10 transitions, not {batches}"):
        agent.full_data_update(filled(10), batches=batches)
    assert same(agent.full_state(), before)
    with pytest.raises(ValueError, match="replay buffer is empty"):
        agent.full_data_update(ReplayBuffer(), batches=3)


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
@pytest.mark.parametrize("options", [PAPER, FAST])
def test_a_copy_goes_on_alike_and_alone(travel, options):
    agent = make(**options)
    agent.full_data_update(filled())
    agent.average = agent.reduce_moments = lambda tensor: None
    state = agent.full_state()
    other = travel(agent)
    assert other.average is None
    assert other.reduce_moments is None
    assert same(other.full_state(), state)
    other.full_data_update(filled(13))
    assert same(agent.full_state(), state)
    agent.full_data_update(filled(13))
    assert same(other.full_state(), agent.full_state())
    assert all(a is not b for a, b in zip(agent.parameters(), other.parameters(), strict=True))


def test_a_new_agent_can_be_copied():
    agent = make()
    assert same(copy.deepcopy(agent).full_state(), agent.full_state())


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
