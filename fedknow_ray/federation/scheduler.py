"""The course of a run on the virtual clock: tasks, rounds, visits, aggregation, the end of each task, scores.

A visit's seconds follow from its plan, so its end stands on the clock before it is made: visits are dispatched at once
and awaited when their event is popped. Events at the same time are popped in client order. Pure control: the executor
makes the visits, the recorder keeps the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.executor import Executor
from fedknow_ray.federation.ledger import Ledger, PricedVisit
from fedknow_ray.federation.policies import Synchronous
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.results.schema import AccuracyRow, EventRow, RoundRow, Row
from fedknow_ray.simulation.clock import EventQueue

Record = Callable[[Sequence[Row]], None]


@dataclass(frozen=True, slots=True)
class Course:
    """The size of a run: *images[client][task]* training images; *classes* head rows of a task."""

    seed: int
    tasks: int
    rounds_per_task: int
    classes: int
    images: tuple[tuple[int, ...], ...]

    @property
    def clients(self) -> range:
        """All clients, in order."""
        return range(len(self.images))


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

    @property
    def boundary(self) -> Boundary | None:
        """The boundary that the run stands at; None between the rounds of a task."""
        last_round = (self.task_index + 1) * self.rounds_total == self.rounds_done * self.tasks
        return Boundary(self.task_index, self.task_finished) if last_round else None


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """All that a scheduler knows at a boundary of a run: where it goes on.

    *trained* the clients that have had a training visit in the boundary's task.
    """

    boundary: Boundary
    now_s: float
    transferred_bytes: int
    accuracy: float | None
    trained: frozenset[int]


class Scheduler:
    """Runs a course on an executor, from its beginning or from the boundary of *start*.

    With *start* the executor holds what it held at that boundary.
    """

    def __init__(
        self,
        course: Course,
        ledger: Ledger,
        policy: Synchronous,
        executor: Executor,
        record: Record,
        start: SchedulerState | None = None,
    ) -> None:
        self._course, self._ledger, self._policy = course, ledger, policy
        self._executor, self._record = executor, record
        self._boundary = None if start is None else start.boundary
        self._clock: EventQueue[PricedVisit] = EventQueue(0.0 if start is None else start.now_s)
        self._transferred_bytes = 0 if start is None else start.transferred_bytes
        self._accuracy = None if start is None else start.accuracy
        self._trained = set[int]() if start is None else set(start.trained)

    @property
    def now_s(self) -> float:
        """The virtual time that has passed."""
        return self._clock.now_s

    def run(self) -> Iterator[Progress]:
        """Run all tasks; yield after each round and after each task's end, when all rows so far are recorded."""
        start = self._boundary
        if start is not None and not start.finished:
            yield self._end_task(start.task_index)
        for task_index in range(0 if start is None else start.task_index + 1, self._course.tasks):
            self._trained = set()
            for round_index in range(self._course.rounds_per_task):
                self._round(task_index, round_index)
                yield self._progress(task_index, round_index)
            yield self._end_task(task_index)

    def state(self) -> SchedulerState:
        """Return what another scheduler needs to go on from the boundary at which `run` has just yielded.

        Raises:
            ValueError: if the run does not stand at a boundary.
        """
        if self._boundary is None:
            raise ValueError(f"at {self.now_s} s the run stands at no boundary")
        return SchedulerState(
            self._boundary, self.now_s, self._transferred_bytes, self._accuracy, trained=frozenset(self._trained)
        )

    def _end_task(self, task_index: int) -> Progress:
        self._finish_task(task_index)
        self._score(task_index)
        return self._progress(task_index, self._course.rounds_per_task)

    def _round(self, task_index: int, round_index: int) -> None:
        start_s = self.now_s
        cohort = self._policy.cohort(task_index, round_index, self._course.rounds_per_task)
        visits = [self._priced(VisitKind.TRAIN, c, task_index, round_index, c in self._trained) for c in cohort]
        federated = self._ledger.method.federated
        weights = [float(visit.order.facts.images) for visit in visits] if federated else None
        self._make(visits, weights)
        self._trained.update(cohort)
        if federated:
            self._executor.commit()
        refined: list[PricedVisit] = []
        if self._ledger.method.refines:
            refined = [self._priced(VisitKind.REFINE, c, task_index, round_index, True) for c in cohort]
            self._make(refined, None)
        row = RoundRow(
            task_index=task_index,
            round_index=round_index,
            start_s=start_s,
            end_s=self.now_s,
            clients=list(cohort),
            upload_bytes=sum(visit.upload_bytes for visit in visits),
            download_bytes=sum(visit.download_bytes for visit in (*visits, *refined)),
        )
        self._record([row])

    def _finish_task(self, task_index: int) -> None:
        last, trained = self._course.rounds_per_task, self._trained
        visits = [self._priced(VisitKind.FINISH_TASK, c, task_index, last, c in trained) for c in self._course.clients]
        self._make(visits, None)

    def _priced(
        self, kind: VisitKind, client_id: int, task_index: int, round_index: int, trained_this_task: bool
    ) -> PricedVisit:
        facts = VisitFacts(
            client_id=client_id,
            task_index=task_index,
            round_index=round_index,
            images=self._course.images[client_id][task_index],
            classes=self._course.classes,
            trained_this_task=trained_this_task,
        )
        return self._ledger.price(VisitOrder(kind, facts, self._course.seed))

    def _make(self, visits: Sequence[PricedVisit], weights: Sequence[float] | None) -> None:
        """Dispatch visits that start now, await each at its end, and move the clock to the last end."""
        start_s = self.now_s
        self._executor.dispatch([visit.order for visit in visits], weights)
        for visit in visits:
            self._clock.push(start_s + visit.duration_s, visit)
        done: list[tuple[PricedVisit, VisitReport, float]] = []
        while len(self._clock):
            end_s, visit = self._clock.pop()
            done.append((visit, self._executor.report(visit.order), end_s))
        done.sort(key=lambda entry: entry[0].order.client_id)
        rows: list[Row] = [
            visit.row(report, start_s=start_s, wait_s=self.now_s - end_s) for visit, report, end_s in done
        ]
        self._record([*rows, *(event for entry in done for event in self._events(*entry))])
        self._transferred_bytes += sum(visit.upload_bytes + visit.download_bytes for visit in visits)

    def _events(self, visit: PricedVisit, report: VisitReport, end_s: float) -> Iterator[EventRow]:
        facts = visit.order.facts
        where = {"task_index": facts.task_index, "round_index": facts.round_index, "kind": str(visit.order.kind)}
        if report.notes:
            yield EventRow(end_s, "method_figures", facts.client_id, json.dumps({**where, **report.notes}))
        limit, peak = visit.device.memory_bytes, visit.plan.peak_memory_bytes
        if limit is not None and peak > limit:
            figures = {**where, "peak_memory_bytes": peak, "device_memory_bytes": limit}
            yield EventRow(end_s, "memory_exceeded", facts.client_id, json.dumps(figures))

    def _score(self, task_index: int) -> None:
        federated = self._ledger.method.federated
        scores = list(self._executor.score(self._course.clients, task_index + 1, with_global=federated))
        self._record([AccuracyRow(s.client_id, s.model, task_index, s.task_index, s.correct, s.total) for s in scores])
        own = [s.correct / s.total for s in scores if s.model == "own"]
        self._accuracy = sum(own) / len(own)

    def _progress(self, task_index: int, round_index: int) -> Progress:
        per_task = self._course.rounds_per_task
        progress = Progress(
            task_index=task_index,
            tasks=self._course.tasks,
            round_index=round_index,
            task_finished=round_index == per_task,
            rounds_done=task_index * per_task + min(round_index + 1, per_task),
            rounds_total=self._course.tasks * per_task,
            time_s=self.now_s,
            transferred_bytes=self._transferred_bytes,
            accuracy=self._accuracy,
        )
        self._boundary = progress.boundary
        return progress
