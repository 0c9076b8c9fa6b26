"""Laws that every course of a run obeys, whatever the policy, the links, and who goes off or fails."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from fakes import DEVICES, LINK, FakeMethod, Refining, Trial
from hypothesis import given, settings
from hypothesis import strategies as st
from telling import Told, as_planned, plain

from fedknow_ray.federation.asynchronous import FedAsync, FedBuff, Pace
from fedknow_ray.federation.decisions import Policy
from fedknow_ray.federation.engine_state import EngineState
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.policies import RoundRules, Rounds
from fedknow_ray.federation.selection import make_selection
from fedknow_ray.federation.standing import SchedulerState
from fedknow_ray.federation.steps import Arrived, Began, Closed, Merged, RoundClosed
from fedknow_ray.federation.traffic import Conditions
from fedknow_ray.results.schema import Row, VisitRow
from fedknow_ray.simulation.availability import AlwaysOn, Availability, Markov
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.failures import Failures
from fedknow_ray.simulation.network import Network

TASKS, BUDGET = 2, 4
a_few = settings(deadline=None, max_examples=25)


def make_policy(name: str, selection: str, availability: Availability) -> Policy:
    picks = make_selection(selection, availability=availability, seed=7)
    rounds = BUDGET // 2
    pace = Pace(BUDGET, 2, 0.5)
    if name == "fedasync":
        return FedAsync(picks, pace, mixing=0.6)
    if name == "fedbuff":
        return FedBuff(picks, pace, buffer_size=3, server_lr=1.0)
    rules = {
        "synchronous": RoundRules(rounds, 2, 2),
        "needed": RoundRules(rounds, 1, 3),
        "drop": RoundRules(rounds, 2, 3, deadline_s=9.25),
        "keep": RoundRules(rounds, 2, 3, deadline_s=7.0, late="keep"),
    }
    return Rounds(rules[name], picks)


POLICIES = ("synchronous", "needed", "drop", "keep", "fedbuff", "fedasync")


@st.composite
def courses(
    draw: st.DrawFn, policies: tuple[str, ...] = POLICIES, *, calm: bool = False, timeless: bool = False
) -> partial[Told]:
    """Return a way to tell a course, the same one each time: its policy has a state of its own.

    *calm*: nobody goes off or fails; *timeless*: nor does it depend on times who is picked.
    """
    name = draw(st.sampled_from(policies))
    selection = draw(st.sampled_from(["uniform", "available", *([] if timeless else ["longest_waiting"])]))
    calm = calm or timeless
    mean_s = st.sampled_from([3.0, 10.0, 50.0])
    churn = None if calm else draw(st.none() | st.tuples(mean_s, mean_s, st.integers(0, 50)))
    probability = 0.0 if calm else draw(st.sampled_from([0.0, 0.3]))
    rates = {
        key: rate
        for key in ("server_uplink_bytes_per_s", "server_downlink_bytes_per_s")
        if (rate := draw(st.sampled_from([None, 1.5e6, 2e7])))
    }

    def tell(**changes: Any) -> Told:
        on: Availability = AlwaysOn()
        if churn is not None:
            on = Markov(mean_on_s=churn[0], mean_off_s=churn[1], seed=churn[2])
        conditions = Conditions(
            network=lambda now_s: Network([LINK] * 3, seed=7, now_s=now_s, **rates),
            availability=on,
            failures=Failures(probability=probability, seed=3),
        )
        policy = make_policy(name, selection, on)
        return Told(**{"policy": policy, "conditions": conditions, "tasks": TASKS, **changes})

    return partial(tell, method=draw(st.sampled_from([FakeMethod, Refining]))())


def everything(told: Told) -> Any:
    """All that a course has told, in its order, as plain values."""
    lines: list[Any] = []
    for step in told.steps:
        match step:
            case Began(flights) | Closed(flights):
                lines.append((type(step).__name__, plain(flights)))
            case Arrived(flight):
                lines.append(("Arrived", plain([flight])))
            case Merged(index, merge):
                lines.append((index, plain(merge.flights), merge.coefficients, merge.keep, merge.from_base))
            case _:
                lines.append(step)
    return lines


def all_flights(told: Told) -> list[Flight]:
    return [flight for step in told.of(Closed) for flight in step.flights]


@a_few
@given(courses())
def test_a_course_is_told_the_same_twice(tell: partial[Told]):
    assert everything(tell()) == everything(tell())


@settings(deadline=None, max_examples=100)
@given(courses())
def test_a_visit_that_is_foreseen_goes_the_way_on_which_events_would_have_led_it(tell: partial[Told]):
    """Losses, order and all, to the bit; the numbers are round, so that much happens in one moment."""
    assert everything(tell()) == everything(tell(measure=as_planned))


@a_few
@given(courses())
def test_steps_come_in_an_order_that_can_be_carried_out(tell: partial[Told]):
    """A visit begins, arrives, goes into at most one merge, and is closed once; the events of time do not go back."""
    told = tell()
    began, arrived, merged, closed = set[Flight](), set[Flight](), set[Flight](), set[Flight]()
    merges, round_end_s = 0, 0.0
    for step in told.steps:
        match step:
            case Began(flights):
                assert not began & set(flights)
                began |= set(flights)
                assert {f.version for f in flights} == {merges}
            case Arrived(flight):
                assert flight in began and flight not in arrived and flight.arrived
                arrived.add(flight)
            case Merged(index, merge):
                assert set(merge.flights) <= arrived and not set(merge.flights) & merged
                assert len(merge.coefficients) == len(merge.flights) and index == merges
                merged |= set(merge.flights)
                merges += 1
            case Closed(flights):
                assert not closed & set(flights)
                closed |= set(flights)
            case RoundClosed():
                assert round_end_s <= step.start_s <= step.end_s
                round_end_s = step.end_s
    assert began <= closed and arrived == {f for f in closed if f.arrived}
    assert all(f.used_in is not None for f in merged) and not any(f.used_in is not None for f in closed - merged)


@a_few
@given(courses())
def test_no_time_is_negative_and_phases_make_up_a_visit(tell: partial[Told]):
    for flight in all_flights(tell()):
        phases = (flight.download_s, flight.compute_s, flight.upload_s, flight.wait_s)
        assert min(phases) >= 0 and flight.start_s >= 0
        assert flight.end_s - flight.start_s == pytest.approx(sum(phases[:3]), abs=1e-6)
        assert 0 <= flight.download_bytes <= flight.priced.download_bytes
        assert 0 <= flight.upload_bytes <= flight.priced.upload_bytes
        if flight.arrived:
            assert (flight.download_bytes, flight.upload_bytes) == (
                flight.priced.download_bytes,
                flight.priced.upload_bytes,
            )


@a_few
@given(courses())
def test_a_client_does_one_thing_at_a_time_waiting_included(tell: partial[Told]):
    spans: dict[int, list[tuple[float, float]]] = {}
    for flight in all_flights(tell()):
        spans.setdefault(flight.client_id, []).append((flight.start_s, flight.end_s + flight.wait_s))
    for of_client in spans.values():
        of_client.sort()
        for (_, end_s), (start_s, _) in pairwise(of_client):
            assert end_s <= start_s + 1e-9


@a_few
@given(courses())
def test_no_client_has_two_visits_with_one_seed_but_for_those_that_are_tried_again(tell: partial[Told]):
    flights = all_flights(tell())
    tried = Counter((f.priced.order, f.attempt) for f in flights)
    assert max(tried.values()) == 1
    assert max(Counter(f.priced.order for f in flights if f.arrived).values(), default=1) == 1


@a_few
@given(courses(("synchronous", "fedbuff", "fedasync"), calm=True))
def test_every_policy_has_the_same_budget_of_training_visits(tell: partial[Told]):
    trained = [f for f in all_flights(tell()) if f.priced.order.kind == "train"]
    assert Counter(f.priced.order.facts.task_index for f in trained) == dict.fromkeys(range(TASKS), BUDGET)


@a_few
@given(courses(calm=True))
def test_without_losses_every_client_finishes_every_task(tell: partial[Told]):
    told = tell()
    finished = Counter(f.priced.order.facts.task_index for f in told.flights("finish_task") if f.arrived)
    assert finished == dict.fromkeys(range(TASKS), 3)
    assert told.engine.state.unfinished == {}


def faster(device: Device, factor: float) -> Device:
    assert device.memory_bandwidth_bytes_per_s is not None and device.sustained_flops_per_s is not None
    return replace(
        device,
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s * factor,
        sustained_flops_per_s=device.sustained_flops_per_s * factor,
    )


@a_few
@given(courses(("synchronous",), timeless=True))
def test_twice_the_speed_of_every_device_halves_the_seconds_of_computing(tell: partial[Told]):
    told, quick = tell(), tell(devices=tuple(faster(device, 2.0) for device in DEVICES))
    assert [f.compute_s / 2 for f in all_flights(told)] == [f.compute_s for f in all_flights(quick)]


@a_few
@given(courses(("synchronous",), timeless=True), st.integers(0, 2), st.sampled_from([1.01, 1.5, 4.0]))
def test_a_slower_device_never_ends_earlier_in_a_synchronous_round(tell: partial[Told], slow: int, factor: float):
    devices = tuple(faster(d, 1 / factor) if client == slow else d for client, d in enumerate(DEVICES))
    told, slower = tell(), tell(devices=devices)
    for before, after in zip(told.of(RoundClosed), slower.of(RoundClosed), strict=True):
        assert after.end_s - after.start_s >= before.end_s - before.start_s - 1e-9
    for was, now in zip(told.flights(), slower.flights(), strict=True):
        assert was.client_id == now.client_id
        if was.client_id == slow:
            assert now.compute_s > was.compute_s
            assert sum((now.download_s, now.compute_s, now.upload_s)) >= (
                sum((was.download_s, was.compute_s, was.upload_s)) - 1e-9
            )


@a_few
@given(courses(("synchronous",), timeless=True), st.lists(st.sampled_from([0.1, 1.0, 7.0]), min_size=3, max_size=3))
def test_bytes_do_not_depend_on_the_speed_of_devices(tell: partial[Told], factors: list[float]):
    others = tuple(faster(device, factor) for device, factor in zip(DEVICES, factors, strict=True))
    told, other = tell(), tell(devices=others)
    sums = [(r.clients, r.upload_bytes, r.download_bytes) for r in told.of(RoundClosed)]
    assert sums == [(r.clients, r.upload_bytes, r.download_bytes) for r in other.of(RoundClosed)]


@a_few
@given(courses())
def test_bytes_of_rounds_are_those_of_their_visits(tell: partial[Told]):
    """But for those that are stopped after the last round, or spent at the ends of tasks."""
    told = tell()
    ends = [flight for flight in all_flights(told) if flight.priced.order.kind == "finish_task"]
    in_rounds = [flight for flight in all_flights(told) if flight not in ends]
    sent = sum(r.upload_bytes for r in told.of(RoundClosed))
    stopped = sum(f.upload_bytes for f in in_rounds if f.status == "late")
    assert sent <= sum(f.upload_bytes for f in in_rounds) <= sent + stopped
    assert sum(f.upload_bytes for f in ends) == 0


@a_few
@given(courses())
def test_joules_are_the_sum_over_phases(tell: partial[Told]):
    """10 W of computing, 1 W of all else."""
    for flight in all_flights(tell()):
        row = flight.row(None)
        assert row.energy_j is not None
        parts = (10 * row.compute_s, row.download_s, row.upload_s, row.wait_s)
        assert row.energy_j == pytest.approx(sum(parts), rel=1e-12)


@a_few
@given(courses(), st.booleans())
def test_from_the_state_of_any_boundary_the_rest_is_told_the_same(tell: partial[Told], after_rounds: bool):
    """To the bit, through a file, with a policy that has not seen what was before."""
    whole, parts = tell(), tell()
    steps: list[Any] = []
    engine = parts.make_engine()
    trained = frozenset[int]()
    for task_index in range(TASKS):
        for part in ("rounds", "finish"):
            told = engine.rounds(task_index) if part == "rounds" else engine.finish(task_index, trained)
            steps += told
            trained = engine.trained
            if (part == "rounds") == after_rounds:
                state = EngineState.of_plain(json.loads(json.dumps(engine.state.plain())))
                fresh = tell(steps=[])
                engine = fresh.make_engine(state)
    parts.steps = steps
    assert everything(parts) == everything(whole)


# Carried out.


@a_few
@given(courses(), st.integers(1, 6))
def test_a_scheduler_goes_on_from_any_boundary(tell: partial[Told], boundaries: int):
    """And has made of all visits those that arrived, and no others."""

    def trial(start: SchedulerState | None = None) -> Trial:
        told = tell()
        # a policy that has told a course begins the next one anew with each task
        return Trial(method=told.method, tasks=TASKS, policy=told.policy, conditions=told.conditions, start=start)

    whole = trial()
    course, state, rows = whole.scheduler.run(), None, list[Row]()
    for progress in course:
        if progress.boundary is not None and boundaries:
            boundaries -= 1
            state = SchedulerState.of_plain(json.loads(json.dumps(whole.scheduler.state().plain())))
            rows = list(whole.rows)
    rest = trial(state)
    rest.run()
    assert rows + rest.rows == whole.rows
    visits = [row for row in whole.rows if isinstance(row, VisitRow)]
    assert len(whole.executor.reported) == sum(row.status == "ok" for row in visits)
    assert sum(len(orders) for orders in whole.executor.dispatched) == len(whole.executor.reported)
    moved = sum(row.upload_bytes + row.download_bytes for row in visits)
    assert whole.scheduler.state().transferred_bytes == moved
