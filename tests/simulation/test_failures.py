"""Which visits fail: by schedule, or as often as the probability says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.simulation.failures import Failures, ScheduledFailure

VISITS = [(client, task, r) for client in range(20) for task in range(5) for r in range(20)]


def drawn(probability: float, seed: int = 1, kind: str = "train") -> dict[tuple[int, int, int], float]:
    failures = Failures(probability=probability, seed=seed)
    found = {visit: failures.fails_at(*visit, kind) for visit in VISITS}
    return {visit: at for visit, at in found.items() if at is not None}


def test_nothing_fails_unless_it_is_asked_to():
    assert drawn(0.0) == {}


def test_everything_fails_at_probability_one_somewhere_within():
    failed = drawn(1.0)
    assert len(failed) == 2000
    assert all(0 < at < 1 for at in failed.values())
    # uniform: the mean of 2,000 is 0.5, 5 standard deviations are 0.033
    assert sum(failed.values()) / 2000 == pytest.approx(0.5, abs=0.033)


def test_visits_fail_as_often_as_the_probability_says():
    """200 of 2,000, 5 standard deviations are 67."""
    assert len(drawn(0.1)) == pytest.approx(200, abs=67)


@settings(deadline=None, max_examples=10)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_greater_probability_keeps_the_failures_of_a_smaller(one: float, other: float):
    few, many = drawn(min(one, other)), drawn(max(one, other))
    assert few.items() <= many.items()


def test_client_task_round_kind_and_seed_each_make_a_difference():
    at = Failures(probability=1, seed=1).fails_at
    fractions = {at(0, 0, 0, "train"), at(1, 0, 0, "train"), at(0, 1, 0, "train"), at(0, 0, 1, "train")}
    fractions |= {at(0, 0, 0, "refine"), Failures(probability=1, seed=2).fails_at(0, 0, 0, "train")}
    assert len(fractions) == 6


def test_the_same_visit_fails_at_the_same_place_in_whatever_order_visits_are_asked_for():
    failures = Failures(probability=0.5, seed=1)
    forward = [failures.fails_at(*visit, "train") for visit in VISITS[:50]]
    backward = [failures.fails_at(*visit, "train") for visit in reversed(VISITS[:50])]
    assert forward == backward[::-1]


def test_a_scheduled_visit_fails_where_it_is_scheduled_to_whatever_is_drawn():
    schedule = [ScheduledFailure(client_id=3, task_index=1, round_index=2, kind="train", at=0.25)]
    for probability in (0.0, 1.0):
        failures = Failures(probability=probability, schedule=schedule, seed=1)
        assert failures.fails_at(3, 1, 2, "train") == 0.25
        assert failures.fails_at(3, 1, 2, "refine") != 0.25
    assert Failures(schedule=schedule, seed=1).fails_at(3, 1, 1, "train") is None


def test_each_attempt_at_a_visit_is_drawn_anew():
    """Half of them fail, so 40 in a row is no chance; the schedule is of the first one."""
    schedule = [ScheduledFailure(client_id=0, task_index=0, round_index=0, kind="finish_task", at=0.25)]
    failures = Failures(probability=0.5, schedule=schedule, seed=1)
    found = [failures.fails_at(0, 0, 0, "finish_task", attempt) for attempt in range(40)]
    assert found[0] == 0.25
    assert None in found[1:]
    assert len(set(found)) > 10


def test_without_probability_and_schedule_nothing_can_fail():
    schedule = [ScheduledFailure(client_id=0, task_index=0, round_index=0, kind="train", at=0.25)]
    some = [Failures(seed=1), Failures(seed=1, probability=0.1), Failures(seed=1, schedule=schedule)]
    assert [failures.any for failures in some] == [False, True, True]


@pytest.mark.parametrize("at", [0, 1, -0.5, float("nan")])
def test_a_fraction_outside_a_visit_is_refused(at: float):
    with pytest.raises(ValueError, match="a fraction between 0 and 1"):
        ScheduledFailure(0, 0, 0, "train", at)


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_a_probability_that_is_none_is_refused(probability: float):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got"):
        Failures(probability=probability, seed=1)


def test_a_visit_that_is_scheduled_twice_is_refused():
    schedule = [ScheduledFailure(0, 0, 0, "train", at) for at in (0.2, 0.4)]
    with pytest.raises(ValueError, match="scheduled to fail twice"):
        Failures(schedule=schedule, seed=1)
