"""What becomes of visits and of the ends of tasks when clients go, fail and are too small; and what never happens.

See tests/federation/telling.py for the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fakes import DEVICES, PAYLOAD_BYTES, FakeMethod, Trial, conditions, synchronous
from telling import IMAGES, Told, failing, in_rounds, off, spent

from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Alarm, Decision, EndRound, EndTask, Start, View
from fedknow_ray.federation.engine import Engine, StuckPolicy
from fedknow_ray.federation.engine_state import EngineState, Unfinished
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.traffic import OnOutOfMemory
from fedknow_ray.methods.method import Plan, VisitFacts
from fedknow_ray.results.schema import EventRow, VisitRow
from fedknow_ray.simulation.availability_gaps import Membership
from fedknow_ray.simulation.failures import Failures

MB4 = PAYLOAD_BYTES


# Going off on the way, and failing.


@pytest.mark.parametrize(
    ("off_s", "seconds"),
    [
        (1.5, (1.5, 0.0, 0.0, 2 * 10**6, 0)),
        (2.5, (2.5, 0.0, 0.0, MB4, 0)),
        (4.0, (2.5, 1.5, 0.0, MB4, 0)),
        (11.0, (2.5, 6.0, 2.5, MB4, 2 * 10**6)),
    ],
)
def test_a_client_that_goes_off_has_spent_seconds_and_bytes_and_sends_nothing(off_s: float, seconds: tuple[float, ...]):
    told = Told(in_rounds(cohorts=[(0, 1)]), conditions(availability=off((0, off_s, 100.0))))
    assert told.statuses() == [(0, "offline"), (1, "ok")]
    assert spent(told.flights()[0]) == seconds
    assert told.events == [(off_s, "visit_offline", 0)]
    assert told.rounds == [(0, 0.0, max(off_s, 9.0), (0, 1))]
    assert told.merged == [[(1, 0)]]


def test_a_visit_that_ends_as_its_client_goes_off_has_ended():
    told = Told(in_rounds(cohorts=[(0,)]), conditions(availability=off((0, 13.0, 100.0))))
    assert told.statuses() == [(0, "ok")]


def test_a_scheduled_failure_comes_after_its_fraction_of_the_visit():
    """A quarter of 13 s: 3.25 s, 0.75 s into the computing, an eighth of the 6 MB of traffic."""
    trial = Trial(cohorts=((0, 1),), conditions=conditions(failures=failing((0, 0, 1, 0.25))))
    trial.run()
    rows = [row for row in trial.rows_of(VisitRow) if row.client_id == 0 and row.kind == "train"]
    assert [(row.status, row.start_s, row.compute_s, row.moved_bytes) for row in rows] == [
        ("ok", 0.0, 6.0, 6 * 10**6),
        ("failed", 13.0, 0.75, 750_000),
    ]
    (event,) = trial.rows_of(EventRow)
    assert (event.time_s, event.kind, event.client_id) == (16.25, "visit_failed", 0)
    assert json.loads(event.detail) == {"task_index": 0, "round_index": 1, "kind": "train"}


def test_a_client_that_goes_off_before_it_would_fail_is_offline():
    told = Told(
        in_rounds(cohorts=[(0,)]), conditions(availability=off((0, 3.0, 4.0)), failures=failing((0, 0, 0, 0.25)))
    )
    assert told.statuses() == [(0, "offline")]


def test_a_client_whose_update_was_lost_was_not_trained_in_the_task():
    """At its end it trains its head on the final features: 3 s of computing in place of 1 s."""
    told = Told(in_rounds(cohorts=[(0, 1)]), conditions(failures=failing((0, 0, 0, 0.5))))
    assert told.engine.trained == {1}
    assert [(f.client_id, f.compute_s) for f in told.flights("finish_task")] == [
        (0, 3.0),
        (1, pytest.approx(1 / 3)),
        (2, 1.0),
    ]


# The end of a task, and catching up.


def test_who_is_off_at_the_end_of_a_task_finishes_it_before_the_next_training_visit():
    """Task 0 ends at 13 s, without client 0, at 13 + 3.5 s. Client 0 is on from 20 s: 3.5 s of catching up, 13 s."""
    told = Told(in_rounds(cohorts=[(0,)]), conditions(availability=off((0, 13.0, 20.0))), tasks=2)
    finished = [(f.client_id, f.priced.order.facts.task_index, f.start_s, f.end_s) for f in told.flights("finish_task")]
    assert finished == [
        *((1, 0, 13.0, 16.5), (2, 0, 13.0, 16.5)),
        (0, 0, 20.0, 23.5),
        *((0, 1, 36.5, 40.0), (1, 1, 36.5, 40.0), (2, 1, 36.5, 40.0)),
    ]
    assert told.rounds[1] == (0, 16.5, 36.5, (0,))
    assert [f.start_s for f in told.flights()] == [0.0, 23.5]
    assert told.engine.state.unfinished == {}


def test_catching_up_goes_through_all_tasks_that_were_missed_in_their_order():
    """Client 0 was trained in task 0, and not in task 1; it finishes both and then trains in task 2."""
    told = Told(in_rounds(cohorts=[(0,), (1,), (0,)]), conditions(availability=off((0, 13.0, 100.0))), tasks=3)
    visits = [f for kind in ("finish_task", "train") for f in told.flights(kind) if f.client_id == 0]
    visits.sort(key=lambda f: f.start_s)
    assert [(str(f.priced.order.kind), f.priced.order.facts.task_index, f.start_s, f.end_s) for f in visits] == [
        ("train", 0, 0.0, 13.0),
        ("finish_task", 0, 100.0, 103.5),
        ("finish_task", 1, 103.5, 109.0),
        ("train", 2, 109.0, 122.0),
        ("finish_task", 2, 122.0, 125.5),
    ]
    assert [f.priced.order.facts.trained_this_task for f in visits] == [False, True, False, False, True]


def test_two_tasks_that_are_finished_one_after_the_other_do_not_wait_twice():
    """Client 0 missed the end of task 0 and is drawn no more: at the end of task 1 it finishes both."""
    told = Told(in_rounds(cohorts=[(0,), (1,)]), conditions(availability=off((0, 13.0, 20.0))), tasks=2)
    mine = [f for f in told.flights("finish_task") if f.client_id == 0]
    assert [(f.priced.order.facts.task_index, f.start_s, f.end_s, f.wait_s) for f in mine] == [
        (0, 25.5, 29.0, 0.0),
        (1, 29.0, 34.5, 0.0),
    ]


def test_a_catching_up_that_is_lost_loses_the_training_visit_with_it_and_is_tried_again():
    """Client 0 is on from 20 s to 21 s only: its catching up is lost, its training visit never begins."""
    gaps = off((0, 13.0, 20.0), (0, 21.0, 60.0))
    told = Told(in_rounds(cohorts=[(0,)]), conditions(availability=gaps), tasks=3)
    assert told.rounds == [(0, 0.0, 13.0, (0,)), (0, 16.5, 21.0, (0,)), (0, 24.5, 82.0, (0,))]
    mine = [f for f in told.flights("finish_task") if f.client_id == 0]
    assert [(f.priced.order.facts.task_index, f.start_s, f.end_s, str(f.status), f.attempt) for f in mine] == [
        (0, 20.0, 21.0, "offline", 0),
        *((0, 60.0, 63.5, "ok", 1), (1, 63.5, 69.0, "ok", 0)),
        (2, 82.0, 85.5, "ok", 0),
    ]
    trained = told.flights()
    assert [(f.start_s, f.end_s, str(f.status)) for f in trained] == [
        (0.0, 13.0, "ok"),
        (21.0, 21.0, "offline"),
        (69.0, 82.0, "ok"),
    ]
    assert spent(trained[1]) == (0.0, 0.0, 0.0, 0, 0)
    assert told.events == [(21.0, "visit_offline", 0)]


def test_a_deadline_stops_a_catching_up_with_what_it_has_spent():
    """Client 0 is lost in task 0, and on from 5 s: it catches up until the deadline, 2.5 s down and 0.5 s of 3 s."""
    gaps = off((0, 3.0, 5.0), (1, 3.0, 20.0), (2, 3.0, 20.0))
    told = Told(in_rounds(cohorts=[(0,)], deadline_s=3.0), conditions(availability=gaps), tasks=2)
    caught = next(f for f in told.flights("finish_task") if f.client_id == 0)
    assert told.rounds == [(0, 0.0, 3.0, (0,)), (0, 3.0, 8.0, (0,))]
    assert (str(caught.status), *spent(caught)) == ("late", 2.5, 0.5, 0.0, MB4, 0)
    assert told.statuses() == [(0, "offline"), (0, "late")]
    assert spent(told.flights()[1]) == (0.0, 0.0, 0.0, 0, 0)
    assert told.events == [
        (3.0, "visit_offline", 0),
        (8.0, "visit_late", 0),
    ]


def test_a_client_that_has_left_finishes_nothing_more():
    left = Membership(off(), {}, {2: 5.0})
    told = Told(synchronous([(0, 1), (1, 2)]), conditions(availability=left))
    assert {f.client_id for f in told.flights("finish_task")} == {0, 1}
    assert told.engine.state.unfinished == {2: (Unfinished(0, False),)}


def test_a_client_that_joins_late_finishes_the_tasks_before_it_trains():
    late = Membership(off(), {2: 30.0}, {})
    told = Told(in_rounds(cohorts=[(0,), (0, 2), (0, 2)]), conditions(availability=late), tasks=3)
    visits = sorted((f for kind in ("finish_task", "train") for f in told.flights(kind)), key=lambda f: f.start_s)
    mine = [(str(f.priced.order.kind), f.priced.order.facts.task_index) for f in visits if f.client_id == 2]
    assert mine == [("finish_task", 0), ("finish_task", 1), ("train", 2), ("finish_task", 2)]
    # it joins while the others end task 1; then 3.5 s for each task that it missed, and 9 s
    assert told.rounds[2] == (0, 33.0, 49.0, (0, 2))


def test_the_end_of_a_task_may_be_lost_at_any_rate_and_the_run_goes_on():
    """Nine of ten visits fail: each attempt is drawn anew, and none counts as finished before it is."""
    unlucky = conditions(failures=Failures(probability=0.9, seed=1))
    told = Told(in_rounds(2, cohorts=[(0, 1, 2)]), unlucky, tasks=3)
    finished = [f for f in told.flights("finish_task") if f.arrived]
    left = told.engine.state.unfinished
    assert len(finished) + sum(map(len, left.values())) == 9
    assert all(tasks[0].tries > 0 for tasks in left.values())


# Memory.


class Large(FakeMethod):
    """Training holds 1 kB more than the boards of clients 1 and 2 have."""

    def plan_train(self, facts: VisitFacts) -> Plan:
        return replace(super().plan_train(facts), peak_memory_bytes=3000)


ROOMY = (replace(DEVICES[0], memory_bytes=4000), *DEVICES[1:])


def test_a_visit_that_its_device_cannot_hold_ends_when_it_has_downloaded():
    told = Told(in_rounds(2, cohorts=[(0, 1)]), method=Large(), devices=ROOMY)
    assert told.statuses() == [(0, "ok"), (1, "out_of_memory")] * 2
    assert spent(told.flights()[1]) == (2.5, 0.0, 0.0, MB4, 0)
    assert told.events == [(2.5, "memory_exceeded", 1), (15.5, "memory_exceeded", 1)]
    assert {f.client_id for f in told.flights("finish_task")} == {0, 1, 2}


def test_the_event_has_both_sizes():
    trial = Trial(Large(), cohorts=((1,),))
    trial.run()
    assert json.loads(trial.rows_of(EventRow)[0].detail) == {
        "task_index": 0,
        "round_index": 0,
        "kind": "train",
        "peak_memory_bytes": 3000,
        "device_memory_bytes": 2000,
    }


def test_a_device_whose_memory_is_not_known_holds_everything():
    unknown = tuple(replace(device, memory_bytes=None) for device in DEVICES)
    assert Told(in_rounds(cohorts=[(0, 1)]), method=Large(), devices=unknown).statuses() == [(0, "ok"), (1, "ok")]


def test_a_client_is_dropped_for_good_where_that_is_asked_for():
    told = Told(
        in_rounds(2, cohorts=[(0, 1)]),
        conditions(on_out_of_memory=OnOutOfMemory.DROP_CLIENT),
        tasks=2,
        method=Large(),
        devices=ROOMY,
    )
    assert [clients for _, _, _, clients in told.rounds] == [(0, 1), (0,), (0,), (0,)]
    assert told.events == [(2.5, "memory_exceeded", 1), (2.5, "client_dropped", 1)]
    assert {f.client_id for f in told.flights("finish_task")} == {0, 2}
    assert told.engine.state.dropped == {1}


def test_rounds_of_clients_that_were_all_dropped_are_empty():
    told = Told(in_rounds(3, cohorts=[(1,)]), conditions(on_out_of_memory=OnOutOfMemory.DROP_CLIENT), method=Large())
    assert told.rounds == [(0, 0.0, 2.5, (1,)), (1, 2.5, 2.5, ()), (2, 2.5, 2.5, ())]


# Policies that do not end.


class Scripted:
    """Answers everything with what a function says of the view."""

    def __init__(self, answer: Callable[[View], list[Decision]]) -> None:
        self.answer = answer
        self.flights: list[Flight] = []

    def rounds_of_a_task(self) -> int:
        return 3

    def began(self, flights: Sequence[Flight]) -> None:
        self.flights += flights

    def task_begins(self, view: View) -> list[Decision]:
        return [Start((0,), 0)]

    def arrived(self, flight: Flight, view: View) -> list[Decision]:
        return self.answer(view)

    def lost(self, flight: Flight, view: View) -> list[Decision]:
        return self.answer(view)

    def woken(self, view: View) -> list[Decision]:
        return self.answer(view)

    def round_closed(self, view: View) -> list[Decision]:
        return []


def test_a_policy_that_waits_for_nothing_is_stuck():
    with pytest.raises(StuckPolicy, match=r"task_index 0: at 13 s nothing is left to happen, and the policy Scripted"):
        Told(Scripted(lambda view: []))


@pytest.mark.parametrize("step_s", [0.0, 60.0])
def test_a_policy_that_has_itself_woken_for_ever_is_stuck(step_s: float):
    """As one that looks every minute whether its buffer has filled."""
    with pytest.raises(StuckPolicy, match="was woken 10001 times while nobody was on the way"):
        Told(Scripted(lambda view: [Alarm(view.now_s + step_s)]))


def test_a_policy_that_starts_more_rounds_than_a_task_has_is_stuck():
    turns = iter(range(1, 100))
    with pytest.raises(StuckPolicy, match="started clients with the index 3, but by its own account a task has 3"):
        Told(Scripted(lambda view: [Start((0,), next(turns))]))


def test_what_is_on_its_way_when_a_task_ends_is_stopped_and_closed_once():
    def answer(view: View) -> list[Decision]:
        return [EndRound(0, tuple(policy.flights)), EndTask()]

    policy = Scripted(answer)
    policy.task_begins = lambda view: [Start((0, 1), 0)]  # type: ignore[method-assign]
    told = Told(policy)
    assert told.statuses() == [(1, "ok"), (0, "late")]
    assert told.flights()[0].used_in is None


# The state between tasks.


def test_an_engine_that_starts_from_a_state_stands_there():
    state = EngineState(1.1, 3, {2: (Unfinished(0, True, 2),)}, frozenset({1}), {0: 0.1})
    course = Course(seed=7, tasks=1, rounds_per_task=2, classes=2, images=IMAGES, test_images=IMAGES)
    engine = Engine(course, Trial().scheduler._ledger, in_rounds(), conditions(), state)
    assert (engine.state, engine.free(), engine.merges, engine.now_s) == (state, [0, 2], 3, 1.1)


def test_dropped_clients_stay_away_after_a_restart():
    state: Any = EngineState(dropped=frozenset({0}))
    told = Told(in_rounds())
    engine = told.make_engine(state)
    list(engine.rounds(0))
    assert engine.trained == {1, 2}
