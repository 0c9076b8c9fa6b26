"""Clients that forget their oldest tasks to make room: which, when, what stays, and what is told of it.

A visit holds 1,000 bytes and 10 more for each past task that is remembered; times are those of
tests/federation/telling.py, and client 0 trains for 1 s more with each task that it remembers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fakes import DEVICES, FakeMethod, Trial, conditions, make_ledger, moving
from hypothesis import given, settings
from hypothesis import strategies as st
from telling import Told, failing, in_rounds, off, plain

from fedknow_ray.federation.decisions import Decision, View
from fedknow_ray.federation.engine_state import EngineState
from fedknow_ray.federation.eviction import Evicted, Evictions
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.policies import RoundRules, Rounds
from fedknow_ray.federation.selection import Uniform
from fedknow_ray.federation.steps import Happened
from fedknow_ray.federation.traffic import Conditions, OnOutOfMemory
from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.methods.method import Method, Plan, VisitFacts
from fedknow_ray.results.schema import EventRow, VisitRow
from fedknow_ray.simulation.availability import AlwaysOn
from fedknow_ray.simulation.device import Device


class Remembering(FakeMethod):
    """10 bytes, and in training 1 MB to be moved, for each past task that is remembered."""

    evicts = True

    def plan_train(self, facts: VisitFacts) -> Plan:
        return Plan(moving("train", 6 + facts.remembered_tasks), 1000 + 10 * facts.remembered_tasks)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        return Plan(moving("finish", 1), 1000 + 10 * facts.remembered_tasks)


class LargeEnds(Remembering):
    """The end of a task holds 20 bytes more."""

    def plan_finish(self, facts: VisitFacts) -> Plan:
        return replace(super().plan_finish(facts), peak_memory_bytes=1020 + 10 * facts.remembered_tasks)


class SmallEnds(Remembering):
    """The end of a task fits everywhere."""

    def plan_finish(self, facts: VisitFacts) -> Plan:
        return Plan(moving("finish", 1), 500)


class Unforgetting(Remembering):
    evicts = False


def evicting(**changes: Any) -> Conditions:
    return conditions(on_out_of_memory=OnOutOfMemory.EVICT_OLDEST_KNOWLEDGE, **changes)


def boards(memory_bytes: int | None) -> tuple[Device, ...]:
    """The boards of the fakes, client 0's with so much memory."""
    return (replace(DEVICES[0], memory_bytes=memory_bytes), *DEVICES[1:])


def told(memory_bytes: int | None = 1010, method: Method | None = None, tasks: int = 3, **conditions: Any) -> Told:
    """One round a task, of clients 0 and 1, of which client 0 is tight."""
    return Told(
        in_rounds(cohorts=[(0, 1)]),
        evicting(**conditions),
        tasks=tasks,
        method=method or Remembering(),
        devices=boards(memory_bytes),
    )


def evictions(told: Told) -> list[dict[str, Any]]:
    return [dict(step.detail) for step in told.of(Happened) if step.kind == "knowledge_evicted"]


def evicted(flights: Sequence[Flight]) -> list[tuple[int, int, int]]:
    """Client, task, evicted tasks of flights."""
    facts = [flight.priced.order.facts for flight in flights]
    return [(one.client_id, one.task_index, one.evicted_tasks) for one in facts]


def test_the_oldest_task_goes_when_the_third_does_not_fit():
    """Tasks 0 and 1 take 1,000 and 1,010 bytes of 1,010; task 2 would take 1,020."""
    found = told()
    assert found.statuses() == [(0, "ok"), (1, "ok")] * 3
    assert evicted(found.flights()) == [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 2, 1), (1, 2, 0)]
    assert evictions(found) == [
        {
            "task_index": 2,
            "round_index": 0,
            "kind": "train",
            "evicted_tasks": 1,
            "tried_bytes": [1020],
            "peak_memory_bytes": 1010,
            "device_memory_bytes": 1010,
        }
    ]
    assert [(f.client_id, f.priced.plan.peak_memory_bytes) for f in found.flights()[-2:]] == [(0, 1010), (1, 1020)]
    assert found.engine.state.evicted == {0: Evicted(1, at_training=1)}


def test_it_happens_when_the_visit_begins_and_the_visit_is_as_long_as_what_is_left():
    """Client 0 trains task 2 with one past task: 7 MB at 1 MB/s, where it would be 8 s with two."""
    found = told()
    first = next(f for f in found.flights() if f.client_id == 0 and f.priced.order.facts.task_index == 2)
    (event,) = [step for step in found.of(Happened) if step.kind == "knowledge_evicted"]
    assert (event.time_s, event.client_id) == (first.start_s, 0)
    assert first.compute_s == 7.0


def test_each_visit_throws_away_no_more_than_it_takes():
    """The end of task 2 would take 1,040 bytes, and 1,030 with what is left of two tasks."""
    assert [one["evicted_tasks"] for one in evictions(told(1005))] == [1, 2]
    found = told(1025, LargeEnds())
    assert [(one["kind"], one["task_index"], one["evicted_tasks"], one["tried_bytes"]) for one in evictions(found)] == [
        ("finish_task", 1, 1, [1030]),
        ("finish_task", 2, 2, [1030]),
    ]


def test_several_tasks_go_in_one_visit_if_it_takes_them():
    ledger = replace(make_ledger(Remembering()), devices=boards(1005))
    all_clients = Evictions(ledger, {}, evicting=True)
    facts = VisitFacts(0, 3, 0, images=10, classes=2, trained_this_task=False)
    flight = Flight(ledger.price(VisitOrder(VisitKind.TRAIN, facts, 7)))
    happened = all_clients.begin(flight, 5.0, lambda client_id: True)
    assert happened is not None
    assert happened.detail["tried_bytes"] == [1030, 1020, 1010]
    assert (flight.priced.order.facts.evicted_tasks, flight.priced.plan.peak_memory_bytes) == (3, 1000)
    assert all_clients.clients == {0: Evicted(3)}


def test_what_fits_with_nothing_left_either_is_lost_and_nothing_is_thrown_away():
    found = told(999, SmallEnds())
    assert found.statuses()[::2] == [(0, "out_of_memory")] * 3
    assert evictions(found) == []
    assert found.engine.state.evicted == {}
    exceeded = [dict(step.detail) for step in found.of(Happened) if step.kind == "memory_exceeded"]
    assert [(one["peak_memory_bytes"], one["evicted_tasks"], one["tried_bytes"]) for one in exceeded] == [
        (1000, 0, [1000]),
        (1010, 0, [1010, 1000]),
        (1020, 0, [1020, 1010, 1000]),
    ]


@pytest.mark.parametrize("memory_bytes", [None, 1020])
def test_with_room_enough_the_course_is_that_of_fail(memory_bytes: int | None):
    found = told(memory_bytes)
    other = Told(in_rounds(cohorts=[(0, 1)]), tasks=3, method=Remembering(), devices=boards(memory_bytes))
    assert plain(found.flights()) == plain(other.flights())
    assert (evictions(found), found.events) == ([], [])


def test_a_method_that_cannot_evict_loses_its_visits_as_with_fail():
    found = told(1010, Unforgetting())
    assert found.statuses() == [(0, "ok"), (1, "ok")] * 2 + [(0, "out_of_memory"), (1, "ok")]
    (exceeded,) = [step for step in found.of(Happened) if step.detail["kind"] == "train"]
    assert "tried_bytes" not in exceeded.detail


@pytest.mark.parametrize("mode", [OnOutOfMemory.FAIL, OnOutOfMemory.DROP_CLIENT])
def test_in_other_modes_nothing_is_evicted(mode: OnOutOfMemory):
    found = Told(
        in_rounds(cohorts=[(0, 1)]),
        conditions(on_out_of_memory=mode),
        tasks=3,
        method=Remembering(),
        devices=boards(1010),
    )
    assert evictions(found) == []
    assert (0, "out_of_memory") in found.statuses()


def test_what_is_gone_stays_gone_though_the_visit_fails():
    found = told(failures=failing((0, 2, 0, 0.5)))
    assert found.statuses()[-2:] == [(0, "failed"), (1, "ok")]
    assert found.engine.state.evicted == {0: Evicted(1, at_training=0)}
    assert evicted(found.flights("finish_task"))[-3:] == [(0, 2, 1), (1, 2, 0), (2, 2, 0)]


def test_a_client_that_is_off_throws_nothing_away():
    """Task 2 begins at 29 s or later; the client is off for its training, and back for no more."""
    found = told(availability=off((0, 30.0, 1000.0)))
    assert found.statuses()[-2:] == [(0, "offline"), (1, "ok")]
    assert evictions(found) == []


def test_a_training_visit_that_waits_for_the_end_of_another_task_begins_with_what_is_left_then():
    """Client 0 is off at the end of task 1, and finishes it before it trains task 2: 1,030 bytes, one task goes. Then
    task 2 begins with one task evicted, and takes 1,010 bytes."""
    first_ends = told(1025, LargeEnds(), tasks=2).of(Happened)[0].time_s
    found = told(1025, LargeEnds(), availability=off((0, first_ends, first_ends + 1)))
    assert [(one["kind"], one["task_index"], one["evicted_tasks"]) for one in evictions(found)] == [
        ("finish_task", 1, 1),
        ("finish_task", 2, 2),
    ]
    assert evicted(found.flights())[-2:] == [(0, 2, 1), (1, 2, 0)]


def test_new_evictions_are_told_to_training_visits_until_one_arrives():
    order = VisitOrder(VisitKind.TRAIN, VisitFacts(0, 5, 0, 10, 2, trained_this_task=True), 7)
    assert Evicted(3, at_training=1).order(order).facts.newly_evicted == 2
    first = replace(order, facts=replace(order.facts, trained_this_task=False))
    assert Evicted(3, at_training=1).order(first).facts.newly_evicted == 0
    end = replace(order, kind=VisitKind.FINISH_TASK)
    assert Evicted(3, at_training=1).order(end).facts.newly_evicted == 0
    counts = Evictions(make_ledger(Remembering()), {0: Evicted(3, at_training=1)}, evicting=True)
    counts.trained(0)
    counts.trained(1)
    assert counts.clients == {0: Evicted(3, at_training=3)}


class Asking(Rounds):
    """Asks at the beginning of each task how long client 0 would train."""

    def __init__(self) -> None:
        super().__init__(RoundRules(1, 3, 3), Uniform(availability=AlwaysOn(), seed=7), [(1,)])
        self.planned_s: list[float] = []

    def task_begins(self, view: View) -> list[Decision]:
        self.planned_s.append(view.planned_s(0))
        return super().task_begins(view)


def test_a_policy_is_told_how_long_a_visit_takes_after_evicting_which_its_asking_does_not_cause():
    """2.5 s down, 6 s with no past task or 7 s with one, 4.5 s up. Client 0 does not train, and its ends fit."""
    asking = Asking()
    found = Told(asking, evicting(), tasks=3, method=SmallEnds(), devices=boards(1010))
    assert asking.planned_s == pytest.approx([13.0, 14.0, 14.0])
    assert found.engine.state.evicted == {}


def test_the_scheduler_orders_visits_with_what_is_evicted_and_records_it():
    trial = Trial(Remembering(), tasks=2, cohorts=((0, 1), (0, 1)), conditions=evicting(), devices=boards(1000))
    trial.run()
    orders = [order for batch in trial.executor.dispatched for order in batch if order.client_id == 0]
    facts = [(o.kind, o.facts.task_index, o.facts.evicted_tasks, o.facts.newly_evicted) for o in orders]
    assert facts == [
        ("train", 0, 0, 0),
        ("train", 0, 0, 0),
        ("finish_task", 0, 0, 0),
        ("train", 1, 1, 0),
        ("train", 1, 1, 0),
        ("finish_task", 1, 1, 0),
    ]
    (event,) = trial.rows_of(EventRow)
    assert (event.kind, json.loads(event.detail)["tried_bytes"]) == ("knowledge_evicted", [1010])
    peaks = [row.peak_memory_bytes for row in trial.rows_of(VisitRow) if row.client_id == 0]
    assert peaks == [1000] * 6


@settings(deadline=None, max_examples=30)
@given(memory_bytes=st.integers(990, 1050), cut=st.integers(0, 2))
def test_an_engine_that_goes_on_from_a_file_tells_the_same(memory_bytes: int, cut: int):
    whole = told(memory_bytes, LargeEnds())
    halves = told(memory_bytes, LargeEnds(), tasks=cut)
    halves.tasks = 3
    halves.engine = halves.make_engine(EngineState.of_plain(json.loads(json.dumps(halves.engine.state.plain()))))
    for task_index in range(cut, 3):
        halves.steps += halves.engine.rounds(task_index)
        halves.steps += halves.engine.finish(task_index, halves.engine.trained)
    assert plain(halves.flights()) == plain(whole.flights())
    assert (evicted(halves.flights()), evictions(halves)) == (evicted(whole.flights()), evictions(whole))
    assert halves.engine.state == whole.engine.state
