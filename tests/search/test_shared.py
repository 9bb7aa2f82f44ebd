"""The replay buffers that workers share, with workers played by threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from law_lightning import ReplayBuffer
from law_lightning.agent.replay import Transitions, joined
from law_lightning.search.shared import SharedBuffer
from law_lightning.search.workers import Workers
from law_lightning.stages.schedule import TrainingPhase
from naive_ddpg import FAST, PAPER, Naive, compare, filled, make, same, spread


class Threads(Workers):
    """A worker in a thread, and where it meets the others."""

    def __init__(self, rank, brought, barrier):
        self.rank, self.size, self.brought, self.barrier = rank, len(brought), brought, barrier

    def gather(self, mine):
        self.brought[self.rank] = mine
        self.barrier.wait(20)
        everyones = list(self.brought)
        self.barrier.wait(20)
        return everyones


def together(size, work):
    """What ``work(workers)`` returns in each of so many threads."""
    brought, barrier = [None] * size, threading.Barrier(size)

    def of(rank):
        try:
            return work(Threads(rank, brought, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(of, range(size)))


def add_all(buffer, transitions):
    for stage, phase, theta, reward, following, next_phase, done in zip(*transitions, strict=True):
        now = TrainingPhase(int(stage), 4, *phase.tolist())
        then = TrainingPhase(int(following), 4, *next_phase.tolist())
        buffer.add(now, theta, float(reward), then, bool(done))


@pytest.mark.parametrize("options", [PAPER, PAPER | {"standardize_rewards": True}, FAST, FAST | {"action_penalty": 0}])
def test_workers_average_their_gradients(options):
    """Against plain loops in which each of two workers finds the gradient of its part of every batch."""
    agent = spread(make(**options), 0.2)
    naive = Naive(agent)
    for turn in range(3):
        less = turn % 2  # the last batch can be halved, too
        buffers = [filled(10 + turn - less, seed=0), filled(6 + turn - less, seed=1)]
        shared = SharedBuffer(Threads(0, [None, None], None), buffers)
        logs = agent.full_data_update(shared)
        expected = naive.update(*buffers, epochs=2 * 3, batch_size=4)
        assert list(logs.values()) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        compare(agent, naive)


@pytest.mark.parametrize("reached", [5, 1, 0])
def test_every_worker_holds_the_transitions_of_all(reached):
    episodes = [filled(4, seed=rank).transitions() for rank in range(3)]
    past = [filled(7, seed=10), ReplayBuffer(), filled(2, seed=12)]
    expected = [*episodes[:2], Transitions(*(column[:reached] for column in episodes[2]))]

    def work(workers):
        buffer = SharedBuffer(workers, past)
        add_all(buffer, expected[workers.rank])
        for _ in range(5 - len(expected[workers.rank].reward)):
            buffer.skip()
        return buffer

    for buffer in together(3, work):
        lanes = [past[0].transitions(), expected[0], expected[1], past[2].transitions(), expected[2]]
        assert same(list(buffer.transitions()), list(joined(lanes)))
        assert [column.dtype for column in buffer.transitions()] == [column.dtype for column in lanes[0]]
        assert buffer.workers == 3
        assert same(buffer.take_new(), [each._asdict() if len(each.reward) else {} for each in expected])
        assert buffer.take_new() == [{}, {}, {}]


@pytest.mark.parametrize("capacity", [1, 4, 9, 20])
def test_a_group_of_one_is_a_buffer_whose_capacity_keeps_the_newest(capacity):
    limited, alone = SharedBuffer(Workers(), [ReplayBuffer()], capacity), filled(9)
    assert len(limited) == 0
    add_all(limited, alone.transitions())
    expected = [column[-capacity:] for column in alone.transitions()]
    assert same(list(limited.transitions()), expected)
    assert same(limited.take_new()[0], alone.transitions()._asdict())
    begun = SharedBuffer(Workers(), [alone], capacity)  # as a search that goes on begins
    assert same(list(begun.transitions()), expected)


def test_each_worker_keeps_its_share_of_the_capacity():
    def work(workers):
        buffer = SharedBuffer(workers, [ReplayBuffer(), ReplayBuffer()], capacity=6)
        add_all(buffer, filled(9, seed=workers.rank).transitions())
        return list(buffer.transitions())

    newest = [Transitions(*(column[-3:] for column in filled(9, seed=rank).transitions())) for rank in range(2)]
    for held in together(2, work):
        assert same(held, list(joined(newest)))
