"""The course of a run: tasks, and in each its rounds, its end, and the scores.

The engine tells what happens on the virtual clock; here the executor is made to do the work behind it. A task is told
to its end before its first visit is made, so that visits that bring nothing are not made at all. With a measured clock
the seconds of a visit are known only when it has been made, so each step is carried out as it is told.

A run that is taken up where it was left (`federation.standing`) is told again from the last boundary before that, and
the steps that were carried out then are passed over.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from fedknow_ray.federation.arriving import make_engine
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Merge, Policy
from fedknow_ray.federation.engine_state import EngineState
from fedknow_ray.federation.executor import Executor, MergeOrder
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.ledger import Prices
from fedknow_ray.federation.standing import Progress, SchedulerState
from fedknow_ray.federation.steps import Arrived, Began, Closed, Happened, Learnt, Merged, RoundClosed, Step
from fedknow_ray.federation.traffic import Conditions
from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.results.schema import AccuracyRow, EventRow, RoundRow, Row

Record = Callable[[Sequence[Row]], None]
SlowDown = Callable[[int], float]
"""Client id -> virtual seconds of its device for each processor second of the host."""


class Scheduler:
    """Runs a course on an executor, from its beginning or from where *start* was taken.

    With *start* the executor holds what it held there. With *slow_down* the clock is a measured one.
    """

    def __init__(
        self,
        course: Course,
        ledger: Prices,
        policy: Policy,
        conditions: Conditions,
        executor: Executor,
        record: Record,
        start: SchedulerState | None = None,
        slow_down: SlowDown | None = None,
    ) -> None:
        start = start or SchedulerState(None, EngineState(), 0, None, frozenset())
        # a run by time is told from its beginning: it has no boundary
        state = None if start.boundary is None else start.engine
        self._course, self._ledger, self._policy = course, ledger, policy
        self._executor, self._record, self._slow_down = executor, record, slow_down
        measure = None if slow_down is None else self._measured_s
        self._engine = make_engine(course, ledger, policy, conditions, state, measure)
        self._now_s = max(start.time_s, self._engine.now_s)
        self._boundary, self._since, self._steps = start.boundary, start.engine, start.steps
        self._transferred_bytes, self._accuracy, self._trained = start.transferred_bytes, start.accuracy, start.trained
        self._pass_over, self._measured = start.steps, list(start.measured_s)
        self._measured_before = deque(start.measured_s)
        self._reported_before = dict(start.reports)
        self._reports: dict[Flight, VisitReport] = {}
        self._refused = set(start.refused)
        self._own = {task_index: list(values) for task_index, values in start.own_accuracy.items()}

    @property
    def now_s(self) -> float:
        """The virtual time of what has been carried out and recorded; the engine may have told of more."""
        return self._now_s

    def run(self) -> Iterator[Progress]:
        """Run all tasks; yield after each round and after each task's end, when all rows so far are recorded."""
        if self._course.arrives_s is not None:
            yield from self._stream()
            return
        at = self._boundary
        if at is not None and not at.finished:
            yield self._end_task(at.task_index)
        for task_index in range(0 if at is None else at.task_index + 1, self._course.tasks):
            yield from self._rounds(task_index)
            yield self._end_task(task_index)

    def state(self) -> SchedulerState:
        """Return what another scheduler needs to go on from where `run` has just yielded."""
        return SchedulerState(
            boundary=self._boundary,
            engine=self._since,
            transferred_bytes=self._transferred_bytes,
            accuracy=self._accuracy,
            trained=self._trained,
            steps=self._steps,
            time_s=self._now_s,
            reports=tuple((flight.priced.order, report) for flight, report in self._reports.items()),
            measured_s=tuple(self._measured),
            refused=frozenset(self._refused),
            own_accuracy={task_index: tuple(values) for task_index, values in self._own.items()},
        )

    def _rounds(self, task_index: int) -> Iterator[Progress]:
        """Carry out a task's rounds; after the last of them the run stands at a boundary, if that is known to be it."""
        told = self._engine.rounds(task_index)
        steps = list(told) if self._slow_down is None else told
        last = _last_round(steps) if isinstance(steps, list) else None
        for step in self._still_to_do(steps):
            self._carry_out(step)
            if isinstance(step, RoundClosed) and step is not last:
                yield self._progress(task_index, step)
        self._trained = self._engine.trained
        if last is not None:
            yield self._progress(task_index, last, Boundary(task_index, False))

    def _end_task(self, task_index: int) -> Progress:
        told = self._engine.finish(task_index, self._trained)
        for step in list(told) if self._slow_down is None else told:
            self._carry_out(step)
        self._score(self._course.clients, task_index)
        return self._progress(task_index, None, Boundary(task_index, True))

    def _stream(self) -> Iterator[Progress]:
        """Carry out a run in which tasks come to each client by time; scores are taken as each is through with one.

        A task counts as finished for the display when the last client is through with that place of its sequence.
        """
        told = self._engine.tell()
        steps = list(told) if self._slow_down is None else told
        clients, tasks = len(self._course.clients), self._course.tasks
        through = [0] * tasks
        for step in self._still_to_do(steps, passed=lambda step: _count(step, through)):
            self._carry_out(step)
            _count(step, through)
            if isinstance(step, Learnt):
                self._now_s = step.time_s
                self._score([step.client_id], step.task_index)
                if through[step.task_index] == clients:
                    yield self._stands(step.task_index, None, sum(through), clients * tasks)
            elif isinstance(step, RoundClosed):
                self._now_s = step.end_s
                place = next((place for place, count in enumerate(through) if count < clients), tasks - 1)
                yield self._stands(place, step, sum(through), clients * tasks)
        self._now_s = self._engine.now_s

    def _still_to_do(self, steps: Iterable[Step], passed: Callable[[Step], None] = lambda step: None) -> Iterator[Step]:
        """Yield the steps that were not carried out before the run was left; the others are *passed*."""
        before: dict[VisitOrder, Flight] = {}
        told = iter(steps)
        for step in islice(told, self._pass_over):
            passed(step)
            if isinstance(step, Began):
                before.update((flight.priced.order, flight) for flight in step.flights)
        self._reports.update((before[order], report) for order, report in self._reported_before.items())
        self._steps, self._pass_over = self._pass_over, 0
        self._reported_before.clear()
        for step in told:
            self._steps += 1
            yield step

    def _carry_out(self, step: Step) -> None:
        match step:
            case Began(flights):
                self._dispatch(flights)
            case Arrived(flight):
                self._arrived(flight)
            case Merged(_, merge):
                self._merge(merge)
            case Closed(flights):
                self._close(flights)
            case RoundClosed():
                task_index = self._engine.task_index if self._course.arrives_s is None else None
                self._record([_round_row(task_index, step, self._executor.global_parameters_sha256())])
            case Happened(time_s, kind, client_id, detail):
                self._record([EventRow(time_s, kind, client_id, json.dumps(detail))])

    def _dispatch(self, flights: Sequence[Flight]) -> None:
        """Have visits made: of a task that has been told to its end, those that arrive."""
        if self._slow_down is None:
            orders = [flight.priced.order for flight in flights if flight.arrived]
        else:
            on = set(self._engine.on([flight.client_id for flight in flights]))
            orders = [flight.priced.order for flight in flights if flight.client_id in on]
        if orders:
            self._executor.dispatch(orders)

    def _arrived(self, flight: Flight) -> None:
        """Wait for the visit behind a flight, and say so where the server did not take its update."""
        if flight not in self._reports:
            self._reports[flight] = self._executor.report(flight.priced.order)
        refusal = self._reports[flight].refusal
        if refusal is not None:
            self._refused.add(flight.priced.order)
            detail = {**flight.priced.order.indices, "reason": refusal}
            self._record([EventRow(flight.end_s, "update_refused", flight.client_id, json.dumps(detail))])

    def _measured_s(self, flight: Flight) -> float:
        """Return the seconds that the flight's device takes for what the host has just done for it."""
        if self._slow_down is None:
            raise ValueError("the clock is not a measured one")
        if self._measured_before:
            return self._measured_before.popleft()
        report = self._reports[flight] = self._executor.report(flight.priced.order)
        measured_s = report.host_cpu_s * self._slow_down(flight.client_id)
        self._measured.append(measured_s)
        return measured_s

    def _merge(self, merge: Merge) -> None:
        """Have the next broadcast made of the updates that the server took; where it took none it stays as it is."""
        order = _order_of(merge, self._refused)
        if order.orders:
            self._executor.merge(order)
        else:
            clients = [flight.client_id for flight in merge.flights]
            self._record([EventRow(self._engine.now_s, "nothing_to_merge", None, json.dumps({"clients": clients}))])

    def _close(self, flights: Sequence[Flight]) -> None:
        reports = [self._reports.pop(flight, None) for flight in flights]
        # with a measured clock a visit is made before it is known to be lost
        done = [(flight, report if flight.arrived else None) for flight, report in zip(flights, reports, strict=True)]
        in_vain = [f.priced.order for f, report in zip(flights, reports, strict=True) if report and not f.arrived]
        if in_vain:
            self._executor.forget(in_vain)
        rows: list[Row] = [flight.row(report) for flight, report in done]
        notes = [_notes_row(flight, report) for flight, report in done if report is not None and report.notes]
        self._record([*rows, *notes])
        self._transferred_bytes += sum(flight.upload_bytes + flight.download_bytes for flight in flights)

    def _score(self, client_ids: Sequence[int], task_index: int) -> None:
        """Score clients that have learnt a task; `accuracy` is the mean of all that were scored after it so far."""
        federated = self._ledger.method.federated
        scores = list(self._executor.score(client_ids, task_index + 1, with_global=federated))
        self._record([AccuracyRow(s.client_id, s.model, task_index, s.task_index, s.correct, s.total) for s in scores])
        own = self._own.setdefault(task_index, [])
        own += [s.correct / s.total for s in scores if s.model == "own"]
        self._accuracy = sum(own) / len(own) if own else None

    def _progress(self, task_index: int, row: RoundClosed | None, boundary: Boundary | None = None) -> Progress:
        per_task = self._course.rounds_per_task
        self._now_s = self._engine.now_s if row is None else row.end_s
        if boundary is not None:
            self._boundary, self._since, self._steps = boundary, self._engine.state, 0
            self._measured, self._refused = [], set()
            # what has gone into no merge by now never will
            self._executor.forget()
        done = task_index * per_task + (per_task if row is None else min(row.round_index + 1, per_task))
        return replace(self._stands(task_index, row, done, self._course.tasks * per_task), boundary=boundary)

    def _stands(self, task_index: int, row: RoundClosed | None, done: int, total: int) -> Progress:
        """Return where a run stands after a round, or where there is none after a task."""
        return Progress(
            task_index=task_index,
            tasks=self._course.tasks,
            round_index=self._course.rounds_per_task if row is None else row.round_index,
            task_finished=row is None,
            rounds_done=done,
            rounds_total=total,
            time_s=self._now_s,
            transferred_bytes=self._transferred_bytes,
            accuracy=self._accuracy,
        )


def _last_round(steps: Sequence[Step]) -> RoundClosed | None:
    return next((step for step in reversed(steps) if isinstance(step, RoundClosed)), None)


def _count(step: Step, through: list[int]) -> None:
    """Count a client that is through with a place of its sequence."""
    if isinstance(step, Learnt):
        through[step.task_index] += 1


def _order_of(merge: Merge, refused: Collection[VisitOrder]) -> MergeOrder:
    orders = [flight.priced.order for flight in merge.flights]
    taken = [(o, c) for o, c in zip(orders, merge.coefficients, strict=True) if o not in refused]
    return MergeOrder(tuple(o for o, _ in taken), tuple(c for _, c in taken), merge.keep, merge.from_base)


def _round_row(task_index: int | None, step: RoundClosed, parameters_sha256: str | None) -> RoundRow:
    return RoundRow(
        task_index=task_index,
        round_index=step.round_index,
        start_s=step.start_s,
        end_s=step.end_s,
        clients=list(step.clients),
        upload_bytes=step.upload_bytes,
        download_bytes=step.download_bytes,
        parameters_sha256=parameters_sha256,
    )


def _notes_row(flight: Flight, report: VisitReport) -> EventRow:
    return EventRow(
        flight.end_s, "method_figures", flight.client_id, json.dumps({**flight.priced.order.indices, **report.notes})
    )
