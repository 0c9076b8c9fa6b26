"""The first visit or merge in which two courses differ; the visits here are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fedknow_ray.experiment.course_difference import Told, first_difference
from fedknow_ray.federation.decisions import Merge
from fedknow_ray.federation.flight import Flight, Phase, Status
from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.steps import Closed, Merged
from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.methods.method import Plan, VisitFacts
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.work import Work

BOARD = Device("board", "board", "cpu", None, 1.0, 1.0, 1.0, 1.0, None, {})


def flight(client_id: int, round_index: int = 0, kind: VisitKind = VisitKind.TRAIN, **changes: Any) -> Flight:
    facts = VisitFacts(client_id, 0, round_index, images=2, classes=2, trained_this_task=False)
    priced = PricedVisit(VisitOrder(kind, facts, 1), BOARD, Plan(Work.none(), 0), 1.0, 0, 0)
    return Flight(**{"priced": priced, "phase": Phase.DONE, "used_in": 0, **changes})


def told(
    *flights: Flight, merges: Sequence[Merge] = (), late: Sequence[Flight] = (), stopped: str | None = None
) -> Told:
    """*late* flights come in the rounds of the next task."""
    course = Told(stopped=stopped)
    course.add(Closed(flights), (0, False))
    course.add(Closed(tuple(late)), (1, False))
    for index, merge in enumerate(merges):
        course.add(Merged(index, merge), (0, False))
    return course


def test_seconds_are_of_no_account():
    before, after = told(flight(0, start_s=1.0), flight(1)), told(flight(1, compute_s=9.0), flight(0, start_s=7.0))
    assert first_difference(before, after) is None


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (
            flight(0, status=Status.LATE),
            "training visit in task 0, round 0 would come to the status late, and came to ok",
        ),
        (flight(0, version=2), "training visit in task 0, round 0 would start from broadcast 2, and started from 0"),
        (flight(0, used_in=None), "training visit in task 0, round 0 would go into no merge, and went into merge 0"),
        (
            flight(0, 1),
            "training visit in task 0, round 1 would come in place of its training visit in task 0, round 0",
        ),
        (
            flight(0, kind=VisitKind.REFINE),
            "refining visit in task 0, round 0 would come in place of its training visit in task 0, round 0",
        ),
    ],
    ids=str,
)
def test_what_matters_of_a_visit(after: Flight, reason: str):
    assert first_difference(told(flight(0)), told(after)) == f"client 0's {reason}"


def test_visits_too_few_and_too_many():
    one, two = told(flight(0)), told(flight(0), flight(1, 3))
    assert first_difference(one, two) == "client 1's training visit in task 0, round 3 would be made, and was not"
    assert first_difference(two, one) == "client 1's training visit in task 0, round 3 would not be made"


def test_the_end_of_a_task_after_its_scores_is_another():
    """The client's visits come in the same order, but its model was not there to be scored."""
    end = flight(0, 2, VisitKind.FINISH_TASK)
    assert first_difference(told(end), told(late=[end])) == (
        "client 0's visit at the end of task 0 would be made in another task"
    )


def test_the_first_in_time_is_told():
    before = told(flight(0, start_s=5.0), flight(1, start_s=3.0))
    after = told(flight(0, start_s=5.0, version=1), flight(1, start_s=4.0, version=1))
    assert str(first_difference(before, after)).startswith("client 1's")


def test_a_merge_with_other_numbers():
    visits = (flight(0), flight(1))
    before = told(*visits, merges=[Merge(visits, (2.0, 2.0))])
    for other in (
        Merge(visits, (2.0, 1.0)),
        Merge(visits, (2.0, 2.0), keep=1.0),
        Merge(visits, (2.0, 2.0), from_base=True),
        Merge(visits[::-1], (2.0, 2.0)),
    ):
        assert first_difference(before, told(*visits, merges=[other])) == (
            "merge 0 would weigh its updates in another way"
        )
    assert first_difference(before, told(*visits, merges=[Merge((flight(0), flight(1)), (2.0, 2.0))])) is None


def test_a_course_that_stops_is_told_by_its_difference_or_by_why_it_stopped():
    """Its last visits have not been merged, which is no difference."""
    before = told(flight(0), flight(1))
    assert first_difference(before, told(flight(0, used_in=None), stopped="why")) == "why"
    stopped = told(flight(0, used_in=None, status=Status.FAILED), stopped="why")
    assert str(first_difference(before, stopped)).endswith("would come to the status failed, and came to ok")
