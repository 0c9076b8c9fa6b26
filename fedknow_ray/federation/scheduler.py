"""The course of a run: tasks, and in each its rounds, its end, and the scores.

The engine tells what happens on the virtual clock; here the executor is made to do the work behind it. A task is told
to its end before its first visit is made, so that visits that bring nothing are not made at all. With a measured clock
the seconds of a visit are known only when it has been made, so each step is carried out as it is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedknow_ray.federation.arriving import make_engine
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Merge, Policy
from fedknow_ray.federation.engine_state import EngineState
from fedknow_ray.federation.executor import Executor, MergeOrder
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.ledger import Prices
from fedknow_ray.federation.steps import Arrived, Began, Closed, Happened, Learnt, Merged, RoundClosed, Step
from fedknow_ray.federation.traffic import Conditions
from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.results.schema import AccuracyRow, EventRow, RoundRow, Row

Record = Callable[[Sequence[Row]], None]
SlowDown = Callable[[int], float]
"""Client id -> virtual seconds of its device for each processor second of the host."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after a round or a task; *accuracy* is the own models' mean after the last finished task."""

    task_index: int
    tasks: int
    round_index: int
    task_finished: bool
    rounds_done: int
    rounds_total: int
    time_s: float
    transferred_bytes: int
    accuracy: float | None
    boundary: Boundary | None = None
    """The boundary that the run stands at; None between the rounds of a task."""


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """All that a scheduler knows at a boundary of a run: where it goes on.

    *trained* the clients that have had a training visit in the boundary's task.
    """

    boundary: Boundary
    engine: EngineState
    transferred_bytes: int
    accuracy: float | None
    trained: frozenset[int]

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold; see `of_plain`."""
        return {
            "boundary": asdict(self.boundary),
            "engine": self.engine.plain(),
            "transferred_bytes": self.transferred_bytes,
            "accuracy": self.accuracy,
            "trained": sorted(self.trained),
        }

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> SchedulerState:
        """Return the state that `plain` gave."""
        return SchedulerState(
            boundary=Boundary(**plain["boundary"]),
            engine=EngineState.of_plain(plain["engine"]),
            transferred_bytes=plain["transferred_bytes"],
            accuracy=plain["accuracy"],
            trained=frozenset(plain["trained"]),
        )


class Scheduler:
    """Runs a course on an executor, from its beginning or from the boundary of *start*.

    With *start* the executor holds what it held at that boundary. With *slow_down* the clock is a measured one.
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
        self._course, self._ledger, self._policy = course, ledger, policy
        self._executor, self._record, self._slow_down = executor, record, slow_down
        measure = None if slow_down is None else self._measured_s
        self._engine = make_engine(course, ledger, policy, conditions, None if start is None else start.engine, measure)
        self._now_s = self._engine.now_s
        self._boundary = None if start is None else start.boundary
        self._transferred_bytes = 0 if start is None else start.transferred_bytes
        self._accuracy = None if start is None else start.accuracy
        self._trained = frozenset[int]() if start is None else start.trained
        self._reports: dict[Flight, VisitReport] = {}
        self._own: dict[int, list[float]] = {}

    @property
    def now_s(self) -> float:
        """The virtual time of what has been carried out and recorded; the engine may have told of more."""
        return self._now_s

    def run(self) -> Iterator[Progress]:
        """Run all tasks; yield after each round and after each task's end, when all rows so far are recorded."""
        if self._course.arrives_s is not None:
            yield from self._stream()
            return
        start = self._boundary
        if start is not None and not start.finished:
            yield self._end_task(start.task_index)
        for task_index in range(0 if start is None else start.task_index + 1, self._course.tasks):
            yield from self._rounds(task_index)
            yield self._end_task(task_index)

    def state(self) -> SchedulerState:
        """Return what another scheduler needs to go on from the boundary at which `run` has just yielded.

        Raises:
            ValueError: if the run does not stand at a boundary.
        """
        if self._boundary is None:
            raise ValueError(f"at {self.now_s} s the run stands at no boundary")
        return SchedulerState(
            self._boundary, self._engine.state, self._transferred_bytes, self._accuracy, self._trained
        )

    def _rounds(self, task_index: int) -> Iterator[Progress]:
        """Carry out a task's rounds; after the last of them the run stands at a boundary, if that is known to be it."""
        told = self._engine.rounds(task_index)
        steps = list(told) if self._slow_down is None else told
        merges, last = ({}, None) if not isinstance(steps, list) else (_merges_of(steps), _last_round(steps))
        for step in steps:
            self._carry_out(step, merges)
            if isinstance(step, RoundClosed) and step is not last:
                yield self._progress(task_index, step)
        self._trained = self._engine.trained
        if last is not None:
            yield self._progress(task_index, last, Boundary(task_index, False))

    def _end_task(self, task_index: int) -> Progress:
        told = self._engine.finish(task_index, self._trained)
        for step in list(told) if self._slow_down is None else told:
            self._carry_out(step, {})
        self._score(self._course.clients, task_index)
        return self._progress(task_index, None, Boundary(task_index, True))

    def _stream(self) -> Iterator[Progress]:
        """Carry out a run in which tasks come to each client by time; scores are taken as each is through with one.

        A task counts as finished for the display when the last client is through with that place of its sequence.
        """
        told = self._engine.tell()
        steps = list(told) if self._slow_down is None else told
        merges = _merges_of(steps) if isinstance(steps, list) else {}
        clients, tasks = len(self._course.clients), self._course.tasks
        through = [0] * tasks
        for step in steps:
            self._carry_out(step, merges)
            if isinstance(step, Learnt):
                self._now_s = step.time_s
                through[step.task_index] += 1
                self._score([step.client_id], step.task_index)
                if through[step.task_index] == clients:
                    yield self._stands(step.task_index, None, sum(through), clients * tasks)
            elif isinstance(step, RoundClosed):
                self._now_s = step.end_s
                place = next((place for place, count in enumerate(through) if count < clients), tasks - 1)
                yield self._stands(place, step, sum(through), clients * tasks)
        self._now_s = self._engine.now_s

    def _carry_out(self, step: Step, merges: dict[VisitOrder, MergeOrder]) -> None:
        match step:
            case Began(flights):
                self._dispatch(flights, merges)
            case Arrived(flight):
                if flight not in self._reports:
                    self._reports[flight] = self._executor.report(flight.priced.order)
            case Merged(_, merge):
                self._executor.merge(_order_of(merge))
            case Closed(flights):
                self._close(flights)
            case RoundClosed():
                task_index = self._engine.task_index if self._course.arrives_s is None else None
                self._record([_round_row(task_index, step)])
            case Happened(time_s, kind, client_id, detail):
                self._record([EventRow(time_s, kind, client_id, json.dumps(detail))])

    def _dispatch(self, flights: Sequence[Flight], merges: dict[VisitOrder, MergeOrder]) -> None:
        """Have visits made: of a task that has been told to its end, those that arrive."""
        if self._slow_down is None:
            orders = [flight.priced.order for flight in flights if flight.arrived]
        else:
            on = set(self._engine.on([flight.client_id for flight in flights]))
            orders = [flight.priced.order for flight in flights if flight.client_id in on]
        if orders:
            self._executor.dispatch(orders, list(dict.fromkeys(merges[order] for order in orders if order in merges)))

    def _measured_s(self, flight: Flight) -> float:
        """Return the seconds that the flight's device takes for what the host has just done for it."""
        if self._slow_down is None:
            raise ValueError("the clock is not a measured one")
        report = self._reports[flight] = self._executor.report(flight.priced.order)
        return report.host_cpu_s * self._slow_down(flight.client_id)

    def _close(self, flights: Sequence[Flight]) -> None:
        reports = [self._reports.pop(flight, None) for flight in flights]
        # with a measured clock a visit is made before it is known to be lost
        done = [(flight, report if flight.arrived else None) for flight, report in zip(flights, reports, strict=True)]
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
        self._boundary = boundary
        self._now_s = self._engine.now_s if row is None else row.end_s
        done = task_index * per_task + (per_task if row is None else min(row.round_index + 1, per_task))
        return self._stands(task_index, row, done, self._course.tasks * per_task)

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
            boundary=self._boundary,
        )


def _last_round(steps: Sequence[Step]) -> RoundClosed | None:
    return next((step for step in reversed(steps) if isinstance(step, RoundClosed)), None)


def _merges_of(steps: Sequence[Step]) -> dict[VisitOrder, MergeOrder]:
    """Return the merge that the update of each visit goes into."""
    found: dict[VisitOrder, MergeOrder] = {}
    for step in steps:
        if isinstance(step, Merged):
            found.update(dict.fromkeys((f.priced.order for f in step.merge.flights), _order_of(step.merge)))
    return found


def _order_of(merge: Merge) -> MergeOrder:
    orders = tuple(flight.priced.order for flight in merge.flights)
    return MergeOrder(orders, merge.coefficients, merge.keep, merge.from_base)


def _round_row(task_index: int | None, step: RoundClosed) -> RoundRow:
    return RoundRow(
        task_index=task_index,
        round_index=step.round_index,
        start_s=step.start_s,
        end_s=step.end_s,
        clients=list(step.clients),
        upload_bytes=step.upload_bytes,
        download_bytes=step.download_bytes,
    )


def _notes_row(flight: Flight, report: VisitReport) -> EventRow:
    return EventRow(
        flight.end_s, "method_figures", flight.client_id, json.dumps({**flight.priced.order.indices, **report.notes})
    )
