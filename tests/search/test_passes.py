"""Members' passes shared out among workers: the plan, and that it changes nothing but who does what."""

import queue
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_shared import WIDTH, Threads, together

from law_lightning import ReplayBuffer
from law_lightning.search.passes import wrap_around
from law_lightning.search.shared import SharedBuffer
from naive_ddpg import FAST, PAPER, filled, make, same, spread


@given(passes=st.lists(st.integers(1, 20), min_size=1, max_size=12), workers=st.integers(1, 70))
def test_every_pass_is_taken_once_and_in_order(passes, workers):
    shares = wrap_around(passes, workers)
    length = max(max(passes), -(-sum(passes) // workers))  # no plan is shorter
    times = {}
    for share in shares:
        assert sum(last - first for _, first, last in share) <= length
        ends_with_the_rest = bool(share) and share[-1].first > 0
        clock = 0
        for part in share:
            if part is share[-1] and ends_with_the_rest:  # it may wait: it is the worker's last
                clock = length - (part.last - part.first)
            for number in range(part.first, part.last):
                assert (part.member, number) not in times
                times[part.member, number] = clock
                clock += 1
    assert len(times) == sum(passes)
    for member, number in enumerate(passes):
        begun = [times[member, each] for each in range(number)]
        assert begun == sorted(set(begun))  # one after the other, never two at once


def test_two_workers_and_three_members():
    assert wrap_around([2, 2, 2], 2) == [[(0, 0, 2), (1, 1, 2)], [(1, 0, 1), (2, 0, 2)]]
    assert wrap_around([1, 1], 2) == [[(0, 0, 1)], [(1, 0, 1)]]


class Posts(Threads):
    """Workers in threads that also send to one another."""

    def __init__(self, rank, brought, barrier, posts):
        super().__init__(rank, brought, barrier)
        self.posts, self.number = posts, 0

    def _post(self, *key):
        return self.posts.setdefault(key, queue.Queue())

    def hand_over(self, mine, to):
        self._post("p2p", self.rank, to).put(mine.clone())
        return lambda: None

    def take_over(self, like, source):
        return self._post("p2p", source, self.rank).get(timeout=20)

    def broadcast(self, mine, source):
        self.number += 1
        if self.rank == source:
            for rank in range(self.size):
                self._post("all", self.number, rank).put(mine.clone())
        return lambda key=("all", self.number, self.rank): self._post(*key).get(timeout=20)


class Unshared(SharedBuffer):
    """One worker takes all passes over all workers' transitions."""

    take_passes = ReplayBuffer.take_passes


@pytest.mark.one_in(2)
@pytest.mark.parametrize("options", [FAST, PAPER, FAST | {"target_rate": 0.1}])
@pytest.mark.parametrize(
    ("members", "epochs", "workers"), [(3, 1, 2), (3, 3, 2), (2, 2, 2), (3, 2, 5), (5, 2, 2), (4, 3, 3)]
)
def test_it_is_the_same_as_taking_all_passes(options, members, epochs, workers):
    """Bit for bit, over several updates, and in every worker."""
    agents = [make(**options, members=members, epochs=epochs) for _ in range(workers + 1)]
    posts, taken = {}, []

    def work(group):
        agent, logs = agents[group.rank], []
        group = Posts(group.rank, group.brought, group.barrier, posts)
        run = type(agent)._update

        def counted(self, *args):
            taken.append(group.rank)
            return run(self, *args)

        for number in range(3):
            lanes = [filled(8 + number, seed=rank) for rank in range(workers)]
            buffer = SharedBuffer(group, WIDTH, lanes)
            for each in (agent, *agent.others):
                each._update = counted.__get__(each)
            logs.append(agent.full_data_update(buffer))
        return logs

    found = together(workers, work)
    alone, expected = agents[-1], []
    for number in range(3):
        lanes = [filled(8 + number, seed=rank) for rank in range(workers)]
        expected.append(alone.full_data_update(Unshared(Threads(0, [None] * workers, None), WIDTH, lanes)))
    for logs, agent in zip(found, agents, strict=False):
        assert same(agent.full_state(), alone.full_state())
        assert logs == [pytest.approx(each) for each in expected]
    assert all(logs == found[0] for logs in found)
    planned, turn = [0] * workers, 0
    for number in range(3):
        due = dict(Counter((turn + i) % members for i in range(epochs * workers)))
        turn += epochs * workers
        batches = -(-sum(len(filled(8 + number, seed=rank)) for rank in range(workers)) // (4 * workers))
        for rank, share in enumerate(wrap_around(list(due.values()), workers)):
            planned[rank] += batches * sum(last - first for _, first, last in share)
    assert [taken.count(rank) for rank in range(workers)] == planned


class Deaf(Threads):
    def broadcast(self, mine, source):
        raise AssertionError("nobody answers")


@pytest.mark.parametrize("members", [1, 2])
def test_one_member_needs_no_message(members):
    agent = make(members=members)
    buffer = SharedBuffer(Deaf(0, [None, None], None), WIDTH, [filled(9), filled(9, seed=1)])
    if members == 1:
        agent.full_data_update(buffer)
    else:
        with pytest.raises(AssertionError, match="nobody answers"):
            agent.full_data_update(buffer)


def test_a_member_that_never_learned_is_sent_too():
    """Its optimizer remembers nothing yet."""
    sender, receiver = make(members=2), spread(make(members=2))
    numbers = sender.learner().numbers()
    assert not torch.equal(receiver.learner().numbers(), numbers)
    receiver.learner().take(numbers)
    assert torch.equal(receiver.learner().numbers(), numbers)
    buffer = filled(9)
    sender.full_data_update(buffer)
    receiver.full_data_update(buffer)
    assert same(sender.full_state(), receiver.full_state())
