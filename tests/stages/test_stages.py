import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from law_lightning import StageSchedule

schedules = st.integers(1, 30).flatmap(
    lambda stages: st.builds(
        StageSchedule, st.integers(stages, 400), st.just(stages), st.integers(0, stages - 1)
    )
)  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(schedules)
def test_every_step_has_one_stage_and_every_boundary_comes_once(schedule):
    stages = [schedule.stage(step) for step in range(schedule.total_steps)]
    lengths = [stages.count(stage) for stage in range(schedule.num_stages)]
    assert stages == sorted(stages)
    assert sum(lengths) == schedule.total_steps
    assert max(lengths) - min(lengths) <= 1  # an uneven division is spread
    done = 0
    for stage, length in enumerate(lengths):
        done += length
        assert schedule.end(stage) == schedule.boundaries[stage] == done
    assert len(schedule.boundaries) == schedule.num_stages
    assert schedule.stage(schedule.total_steps + 3) == schedule.num_stages - 1  # past the end


def test_an_uneven_division_by_hand():
    schedule = StageSchedule(total_steps=11, num_stages=4)
    assert schedule.boundaries == (2, 5, 8, 11)
    assert [schedule.stage(step) for step in (0, 1, 2, 4, 5, 10, 11)] == [0, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize(("steps", "stages"), [(1, [4]), (3, [1, 3, 4]), (5, [0, 1, 2, 3, 4])])
def test_stages_without_a_step_are_passed_over(steps, stages):
    schedule = StageSchedule(steps, num_stages=5, may_be_short=True)
    assert [schedule.stage(step) for step in range(steps)] == stages
    assert [schedule.following(stage) for stage in stages] == [*stages[1:], 5]


def test_the_papers_stages():
    assert (StageSchedule(100).num_stages, StageSchedule(100).warmup_stages) == (20, 0)  # the paper's


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 0), r"num_stages must be at least 1, not 0"),
        ((10, -2), r"num_stages must be at least 1, not -2"),
        ((10, 3, 3), r"warmup_stages must be .* below num_stages=3, not 3"),
        ((10, 3, -1), r"warmup_stages must be at least 0 .* not -1"),
        ((7, 20), r"7 optimizer steps, fewer than its 20 stages.*max_epochs, max_steps.*num_stages to at most 7"),
        ((0, 1), r"0 optimizer steps"),
    ],
)
def test_impossible_schedules_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        StageSchedule(*arguments)
