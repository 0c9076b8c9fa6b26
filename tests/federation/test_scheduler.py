"""The course of a run on the virtual clock, computed by hand: see tests/federation/fakes.py for the numbers.

Round 0: clients 0 (13 s) and 1 (9 s). Round 1: clients 1 and 2 (9 s each). End of the task: 0 trained (2.5 + 1 s),
1 and 2 trained (2.5 + 1/3 s).
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fakes import PAYLOAD_BYTES, Lonely, Refining, Trial, moving

from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.engine_state import EngineState
from fedknow_ray.federation.ledger import PlanMismatch
from fedknow_ray.federation.standing import SchedulerState
from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.results.schema import AccuracyRow, EventRow, RoundRow, VisitRow


def test_a_round_ends_with_its_slowest_client():
    trial = Trial()
    trial.run()
    rounds = trial.rows_of(RoundRow)
    assert [(row.task_index, row.round_index, row.start_s, row.end_s) for row in rounds] == [
        (0, 0, 0.0, 13.0),
        (0, 1, 13.0, 22.0),
    ]
    assert [row.clients for row in rounds] == [[0, 1], [1, 2]]


def test_a_task_ends_when_every_client_has_finished_it():
    trial = Trial()
    trial.run()
    assert trial.scheduler.now_s == pytest.approx(22.0 + 3.5)


def test_the_next_task_starts_where_the_last_one_ended():
    trial = Trial(tasks=2)
    trial.run()
    assert trial.rows_of(RoundRow)[2].start_s == pytest.approx(25.5)
    assert trial.scheduler.now_s == pytest.approx(51.0)


def test_clients_wait_for_the_slowest():
    trial = Trial()
    trial.run()
    waits = [(row.kind, row.round_index, row.client_id, row.wait_s) for row in trial.rows_of(VisitRow)]
    assert waits == [
        ("train", 0, 0, 0.0),
        ("train", 0, 1, 4.0),
        ("train", 1, 1, 0.0),
        ("train", 1, 2, 0.0),
        ("finish_task", 2, 0, 0.0),
        ("finish_task", 2, 1, pytest.approx(2 / 3)),
        ("finish_task", 2, 2, pytest.approx(2 / 3)),
    ]


def test_every_client_finishes_the_task():
    """Client 2 is never sampled here: its head is trained on the final features, for 2 MB of traffic."""
    trial = Trial(cohorts=((0, 1),))
    trial.run()
    orders = trial.executor.dispatched[-1]
    assert [(o.kind, o.client_id, o.facts.trained_this_task) for o in orders] == [
        (VisitKind.FINISH_TASK, 0, True),
        (VisitKind.FINISH_TASK, 1, True),
        (VisitKind.FINISH_TASK, 2, False),
    ]
    assert trial.rows_of(VisitRow)[-1].moved_bytes == 3 * 10**6


def test_orders_say_what_is_known_of_a_visit():
    trial = Trial(tasks=2)
    trial.run()
    order = trial.executor.dispatched[4][1]
    facts = order.facts
    assert (order.kind, order.seed, facts.client_id, facts.task_index, facts.round_index) == (
        VisitKind.TRAIN,
        7,
        2,
        1,
        1,
    )
    assert (facts.images, facts.classes, facts.trained_this_task) == (31, 2, False)


def test_having_trained_counts_within_a_task_only():
    trial = Trial(tasks=2, cohorts=((0, 1), (0, 1)))
    trial.run()
    trained = [[o.facts.trained_this_task for o in orders] for orders in trial.executor.dispatched]
    assert trained == [[False, False], [True, True], [True, True, False]] * 2


def test_updates_are_weighted_by_training_images():
    trial = Trial(tasks=2)
    trial.run()
    weights = [merge.coefficients for merge in trial.executor.merged]
    assert weights == [(10.0, 20.0), (20.0, 30.0), (11.0, 21.0), (21.0, 31.0)]


def test_a_round_is_committed_when_all_its_visits_have_reported():
    trial = Trial()
    trial.run()
    assert trial.executor.commits == [2, 4]


def test_visits_are_awaited_in_the_order_of_their_ends():
    """Client 1 ends before client 0; equal ends come in client order."""
    trial = Trial()
    trial.run()
    assert [order.client_id for order in trial.executor.reported] == [1, 0, 1, 2, 1, 2, 0]


def test_rows_come_in_client_order():
    trial = Trial()
    trial.run()
    assert [row.client_id for row in trial.rows_of(VisitRow)] == [0, 1, 1, 2, 0, 1, 2]


def test_bytes_of_a_round_are_those_of_its_visits():
    trial = Trial()
    progress = trial.run()
    assert [(r.download_bytes, r.upload_bytes) for r in trial.rows_of(RoundRow)] == [(2 * PAYLOAD_BYTES,) * 2] * 2
    assert [p.transferred_bytes // PAYLOAD_BYTES for p in progress] == [4, 8, 11]


def test_refine_visits_follow_each_aggregation():
    """Round 0: 13 s, then download and 3 MB of traffic: 5.5 s on the slow board."""
    trial = Trial(Refining())
    trial.run()
    kinds = [orders[0].kind for orders in trial.executor.dispatched]
    assert kinds == [VisitKind.TRAIN, VisitKind.REFINE, VisitKind.TRAIN, VisitKind.REFINE, VisitKind.FINISH_TASK]
    orders = trial.executor.dispatched[1]
    assert [(o.client_id, o.facts.trained_this_task) for o in orders] == [(0, True), (1, True)]
    assert trial.executor.commits == [2, 6]
    first = trial.rows_of(RoundRow)[0]
    assert (first.end_s, first.download_bytes, first.upload_bytes) == (18.5, 4 * PAYLOAD_BYTES, 2 * PAYLOAD_BYTES)


def test_without_federation_nothing_is_aggregated_or_sent():
    trial = Trial(Lonely())
    progress = trial.run()
    assert trial.executor.commits == []
    assert trial.executor.merged == []
    assert progress[-1].transferred_bytes == 0
    assert trial.executor.scored == [([0, 1, 2], 1, False)]


def test_scores_are_recorded_after_each_task():
    trial = Trial(tasks=2)
    progress = trial.run()
    assert trial.executor.scored == [([0, 1, 2], 1, True), ([0, 1, 2], 2, True)]
    rows = trial.rows_of(AccuracyRow)
    assert len(rows) == 6 + 12
    assert rows[0] == AccuracyRow(0, "own", 0, 0, 1, 4)
    assert rows[-1] == AccuracyRow(2, "global", 1, 1, 4, 4)
    # own models: 1/4, 2/4 and 3/4
    assert [p.accuracy for p in progress] == [None, None, 0.5, 0.5, 0.5, 0.5]


def test_progress_counts_rounds_and_ends_of_tasks():
    progress = Trial(tasks=2).run()
    assert [(p.task_index, p.round_index, p.rounds_done, p.rounds_total) for p in progress] == [
        (0, 0, 1, 4),
        (0, 1, 2, 4),
        (0, 2, 2, 4),
        (1, 0, 3, 4),
        (1, 1, 4, 4),
        (1, 2, 4, 4),
    ]
    assert [p.time_s for p in progress][:3] == [13.0, 22.0, pytest.approx(25.5)]


def test_rows_are_there_when_progress_is_told():
    trial = Trial()
    course = trial.scheduler.run()
    next(course)
    assert (len(trial.rows_of(VisitRow)), len(trial.rows_of(RoundRow))) == (2, 1)


def test_other_work_than_planned_stops_the_run():
    trial = Trial(tamper=lambda order, report: replace(report, work=moving("train", 5)))
    with pytest.raises(PlanMismatch, match="train of client"):
        trial.run()
    assert trial.rows == []


def test_notes_become_events_at_the_end_of_their_visit():
    trial = Trial(tamper=lambda order, report: replace(report, notes={"x": 1.5} if order.client_id == 1 else {}))
    trial.run()
    events = [row for row in trial.rows_of(EventRow) if row.kind == "method_figures"]
    assert [(event.time_s, event.client_id) for event in events][:2] == [(9.0, 1), (22.0, 1)]
    assert json.loads(events[0].detail) == {"task_index": 0, "round_index": 0, "kind": "train", "x": 1.5}


def test_progress_names_the_boundaries():
    progress = Trial(tasks=2).run()
    assert [p.boundary for p in progress] == [
        None,
        Boundary(0, False),
        Boundary(0, True),
        None,
        Boundary(1, False),
        Boundary(1, True),
    ]


def test_the_state_at_a_boundary_is_clock_bytes_accuracy_and_who_was_trained():
    """Rounds of 13 and 9 s, 8 payloads; then the end of the task: 3.5 s, 3 payloads, own models at 1/2."""
    trial = Trial(cohorts=((0, 1),))
    states = [trial.scheduler.state() for progress in trial.scheduler.run() if progress.boundary]
    assert [(s.boundary, s.transferred_bytes, s.accuracy, s.trained) for s in states] == [
        (Boundary(0, False), 8 * PAYLOAD_BYTES, None, frozenset({0, 1})),
        (Boundary(0, True), 11 * PAYLOAD_BYTES, 0.5, frozenset({0, 1})),
    ]
    engines = [state.engine for state in states]
    assert [(e.now_s, e.merges, e.unfinished, e.dropped) for e in engines] == [
        (26.0, 2, {}, frozenset()),
        (pytest.approx(29.5), 2, {}, frozenset()),
    ]


def test_a_state_is_the_same_after_a_file():
    trial = Trial(cohorts=((0, 1),))
    for _ in trial.scheduler.run():
        pass
    state = trial.scheduler.state()
    assert SchedulerState.of_plain(json.loads(json.dumps(state.plain()))) == state


@pytest.mark.parametrize("steps", range(1, 7))
def test_from_wherever_a_run_was_left_the_rest_of_the_run_is_the_same(steps: int):
    whole = Trial(tasks=2, cohorts=((0, 1),))
    course, progress, rows = whole.scheduler.run(), [], 0
    for _ in range(steps):
        progress.append(next(course))
    state, rows = whole.scheduler.state(), len(whole.rows)
    rest = Trial(tasks=2, cohorts=((0, 1),), start=state)
    assert rest.run() == list(course)
    assert rest.rows == whole.rows[rows:]
    assert rest.scheduler.state() == whole.scheduler.state()


def test_a_scheduler_that_starts_at_a_boundary_stands_there():
    state = SchedulerState(Boundary(0, True), EngineState(now_s=25.5, merges=2), 11, 0.5, frozenset({0}), time_s=25.5)
    scheduler = Trial(tasks=2, start=state).scheduler
    assert scheduler.now_s == 25.5
    assert scheduler.state() == state
