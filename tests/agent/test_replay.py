import math

import pytest
import torch

from law_lightning import ReplayBuffer, TrainingPhase
from law_lightning.agent import Transitions
from law_lightning.agent.replay import shuffles
from law_lightning.utilities.files import save_state


def row(i, stages=5, width=3):
    """The i-th of many different transitions."""
    stage = i % stages
    return (
        TrainingPhase(stage, stages, 1.0 / (i + 1), i / 1000),
        torch.arange(width) * 0.5 + i,
        0.01 * i - 0.3,
        TrainingPhase(min(stage + 1, stages - 1), stages, 1.0 / (i + 2), (i + 1) / 1000),
        stage == stages - 1,
    )


def filled(count, capacity=None):
    buffer = ReplayBuffer(capacity)
    for i in range(count):
        buffer.add(*row(i))
    return buffer


def check(buffer, indices):
    """The buffer holds exactly these rows, in order."""
    columns = buffer.transitions()
    assert len(buffer) == len(indices) == len(columns.reward)
    for n, i in enumerate(indices):
        phase, theta, reward, following, done = row(i)
        assert columns.stage[n].item() == phase.stage
        assert columns.next_stage[n].item() == following.stage
        torch.testing.assert_close(columns.phase[n], torch.tensor(phase.numbers))
        torch.testing.assert_close(columns.next_phase[n], torch.tensor(following.numbers))
        torch.testing.assert_close(columns.theta[n], theta)
        assert columns.reward[n].item() == pytest.approx(reward)
        assert columns.done[n].item() == float(done)


@pytest.mark.parametrize(("count", "capacity"), [(1, None), (65, None), (5, 5), (6, 5), (17, 5), (3, 1)])
def test_it_grows_and_the_oldest_go_first(count, capacity):
    check(filled(count, capacity), range(max(0, count - (capacity or count)), count))


def test_theta_is_kept_as_it_was():
    buffer, theta = ReplayBuffer(), torch.ones(3, dtype=torch.float64, requires_grad=True)
    phase = TrainingPhase(0, 2, 1.0, 0.0)
    buffer.add(phase, theta, 0.5, phase, False)
    with torch.no_grad():
        theta += 1
    columns = buffer.transitions()
    assert columns.theta.tolist() == [[1.0] * 3]
    assert not columns.theta.requires_grad


def test_an_empty_buffer_and_an_impossible_capacity_are_named():
    for read in (ReplayBuffer().transitions, ReplayBuffer().dataloader):
        with pytest.raises(ValueError, match=r"replay buffer is empty.*warm-up"):
            read()
    assert len(ReplayBuffer()) == 0
    with pytest.raises(ValueError, match="capacity must be at least 1 or None, not 0"):
        ReplayBuffer(0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["loss", "accuracy", "theta", "reward", "next loss", "next accuracy"])
def test_what_is_not_finite_is_refused(bad, place):
    def number(name):
        return bad if name == place else 0.5

    buffer = filled(2)
    with pytest.raises(ValueError, match="A transition must be finite"):
        buffer.add(
            TrainingPhase(0, 5, number("loss"), number("accuracy")),
            torch.tensor([0.0, number("theta"), 1.0]),
            number("reward"),
            TrainingPhase(1, 5, number("next loss"), number("next accuracy")),
            False,
        )
    check(buffer, range(2))


def test_the_dataloader_gives_every_transition_once():
    buffer = filled(10)
    batches = list(buffer.dataloader(batch_size=4, generator=torch.Generator().manual_seed(0)))
    assert [len(batch[0]) for batch in batches] == [4, 4, 2]
    rewards = torch.cat([Transitions(*columns).reward for *columns, _ in batches])
    positions = torch.cat([batch[-1] for batch in batches])
    assert torch.equal(rewards, buffer.transitions().reward[positions])
    assert rewards.tolist() != buffer.transitions().reward.tolist()
    assert sorted(rewards.tolist()) == sorted(buffer.transitions().reward.tolist())
    ((*whole, positions),) = buffer.dataloader(batch_size=10, shuffle=False)
    assert positions.tolist() == list(range(10))
    assert all(torch.equal(a, b) for a, b in zip(whole, buffer.transitions(), strict=True))


@pytest.mark.parametrize(("count", "capacity"), [(0, None), (0, 4), (3, None), (70, None), (9, 4)])
def test_a_saved_buffer_goes_on(tmp_path, count, capacity):
    buffer = filled(count, capacity)
    buffer.save(tmp_path / "replay.pt")
    loaded = ReplayBuffer.load(tmp_path / "replay.pt")
    assert loaded.capacity == capacity
    for i in range(count, count + 3):
        loaded.add(*row(i))
    check(loaded, range(max(0, count + 3 - capacity) if capacity else 0, count + 3))
    torch.load(tmp_path / "replay.pt", weights_only=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("columns"), r"not a complete replay file: .*columns"),
        (lambda state: state.pop("capacity"), r"not a complete replay file: .*capacity"),
        (lambda state: state.update(columns=[1]), r"not a complete replay file"),
        (lambda state: state["columns"].pop("done"), r"not a complete replay file: .*'done'"),
        (lambda state: state["columns"].update(done=torch.zeros(7)), r"columns of a replay buffer must be .*\(7,\)"),
        (lambda state: state["columns"]["reward"].fill_(math.nan), r"columns of a replay buffer must be finite"),
    ],
)
def test_incomplete_files_are_named(tmp_path, change, message):
    state = filled(3).state_dict()
    change(state)
    save_state(tmp_path / "replay.pt", "replay", state)
    with pytest.raises(ValueError, match=message):
        ReplayBuffer.load(tmp_path / "replay.pt")


@pytest.mark.parametrize(("members", "epochs", "lengths"), [
    (1, 1, [10]), (1, 2.5, [10, 10, 5]), (3, 1, [4]), (3, 3, [10]), (3, 7, [10, 10, 4]), (2, 0.1, [1]),
])  # fmt: skip
def test_members_share_the_passes_of_an_update(members, epochs, lengths):
    """Each learns from as many transitions as if they took turns, drawn without repetition within a pass."""
    orders = list(shuffles(10, epochs, members, torch.Generator()))
    assert [order.shape for order in orders] == [(members, length) for length in lengths]
    for order in orders:
        assert all(len(set(own.tolist())) == len(own) and set(own.tolist()) <= set(range(10)) for own in order)
        assert len({tuple(own.tolist()) for own in order}) == members
