"""A recorded run told again under other conditions: nothing is trained, and torch is not needed.

Work, memory and bytes of each visit are taken from the run's table `visits`, seconds follow from them by the cost model
as they do in a run, and what the visits reported is what they reported then. So a replay holds for a run whose visits
and merges are the recorded ones; whether they are is `course_difference`'s to say.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import FedKnowError, RunDirectoryError
from fedknow_ray.experiment.conditions import build_conditions, build_policy
from fedknow_ray.experiment.course_difference import Told
from fedknow_ray.experiment.recorded_standing import Standing, Standings, VisitKey, visit_key
from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Policy
from fedknow_ray.federation.engine import Engine
from fedknow_ray.federation.executor import MergeOrder, Saved
from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.policies import NobodyComes
from fedknow_ray.federation.scheduler import Scheduler
from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.traffic import Conditions
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.methods.method import Plan
from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.results.run import Run
from fedknow_ray.results.schema import Row
from fedknow_ray.simulation.cost import compute_s
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.work import Work, WorkItem

#: In place of the numbers of images, which are not recorded. Updates that are merged in the same order weigh the same
#: whatever they are; and no policy without rounds has a coefficient as great.
_IMAGES = 2


class NotRecordedError(FedKnowError):
    """A visit of which the run does not say what it takes."""


@dataclass(frozen=True, slots=True)
class RecordedVisit:
    """What a run says of one visit: how its client stood, and what it *reported*, of those that arrived."""

    plan: Plan
    standing: Standing
    reported: Mapping[str, Any]


@dataclass(frozen=True)
class RecordedVisits:
    """All visits of a run, what a broadcast and an update were in bytes, and what the server asked for.

    *too_large* is of visits that did not fit, by kind, client, task and standing: their memory, and no work.
    """

    visits: Mapping[VisitKey, RecordedVisit]
    too_large: Mapping[tuple[str, int, int, Standing], Plan]
    download_bytes: int
    upload_bytes: int
    refines: bool
    evicts: bool
    scores: Mapping[int, Sequence[Score]] = field(repr=False)
    """By trained task."""

    @staticmethod
    def of(run: Run) -> RecordedVisits:
        """Return the visits of a run.

        Raises:
            RunDirectoryError: if no training visit came to its end, so that nothing says what one sends.
        """
        rows, notes, refusals = run.visits.to_pylist(), _notes(run), _refusals(run)
        sent = next((row for row in rows if row["kind"] == "train" and row["status"] == "ok"), None)
        if sent is None:
            raise RunDirectoryError(
                f"{run.path}: no training visit came to its end, so the run does not say what one sends; "
                f"replay a run in which some did"
            )
        visits: dict[VisitKey, RecordedVisit] = {}
        too_large: dict[tuple[str, int, int, Standing], Plan] = {}
        standings = Standings(run)
        for row in rows:
            key = visit_key(row)
            # of several attempts at one visit the last one is that which arrived, if any did
            visits[key] = RecordedVisit(
                Plan(Work(tuple(WorkItem(**item) for item in row["work"])), row["peak_memory_bytes"]),
                standing=standings.of(row),
                reported={
                    **{name: row[name] for name in _REPORTED},
                    "notes": notes.get(key, {}),
                    "refusal": refusals.get(key),
                },
            )
            too_large |= {(*key[:3], standing): Plan(Work.none(), peak) for standing, peak in standings.too_large(row)}
            standings.go_past(row)
        return RecordedVisits(
            visits=visits,
            too_large=too_large,
            download_bytes=sent["download_bytes"],
            upload_bytes=sent["upload_bytes"],
            refines=any(row["kind"] == "refine" for row in rows),
            evicts=standings.evicts,
            scores=_scores(run),
        )


_REPORTED = ("loss", "integrated_steps", "violated_steps", "host_wall_s", "host_cpu_s")


def _notes(run: Run) -> dict[VisitKey, dict[str, float]]:
    """Return the figures that methods noted, by visit."""
    found = {}
    for event in run.events.to_pylist():
        if event["kind"] == "method_figures":
            detail = json.loads(event["detail"])
            key = visit_key({"client_id": event["client_id"], **detail})
            found[key] = {k: v for k, v in detail.items() if k not in ("task_index", "round_index", "kind")}
    return found


def _refusals(run: Run) -> dict[VisitKey, str]:
    """Return why the server did not take the updates that it refused, by visit."""
    found = {}
    for event in run.events.to_pylist():
        if event["kind"] == "update_refused":
            detail = json.loads(event["detail"])
            found[visit_key({"client_id": event["client_id"], **detail})] = detail["reason"]
    return found


def _scores(run: Run) -> dict[int, list[Score]]:
    found: dict[int, list[Score]] = {}
    for row in run.accuracy.to_pylist():
        score = Score(row["client_id"], row["model"], row["task_index"], row["correct"], row["total"])
        found.setdefault(row["trained_task_index"], []).append(score)
    return found


@dataclass(frozen=True, slots=True)
class RecordedTraits:
    """Of a method, what its visits show."""

    federated: bool
    refines: bool
    evicts: bool


class RecordedPrices:
    """A price list of recorded visits on any *devices*, one a client; *kind* of the network."""

    def __init__(self, record: RecordedVisits, devices: Sequence[Device], kind: str) -> None:
        self.method = RecordedTraits(record.download_bytes > 0, record.refines, record.evicts)
        self._record, self._devices, self._kind = record, devices, kind
        self._next = {
            (client, task, visit.standing): visit.plan
            for (what, client, task, _), visit in record.visits.items()
            if what == VisitKind.TRAIN
        }
        self._seconds: dict[tuple[int, int], float] = {}

    def price(self, order: VisitOrder) -> PricedVisit:
        """Return a recorded visit's plan, with the seconds that the client's device takes for it.

        A training visit of another round takes what those of its client and task took that stood as it does.

        Raises:
            NotRecordedError: if the run has no such visit.
            DeviceError: if the device lacks a number that the work needs.
        """
        plan, device = self._plan(order), self._devices[order.client_id]
        key = (id(plan), order.client_id)
        if key not in self._seconds:
            self._seconds[key] = compute_s(plan.work, device, self._kind)
        sends = order.kind is VisitKind.TRAIN
        return PricedVisit(
            order=order,
            device=device,
            plan=plan,
            compute_s=self._seconds[key],
            download_bytes=self._record.download_bytes,
            upload_bytes=self._record.upload_bytes if sends else 0,
        )

    def report(self, order: VisitOrder) -> VisitReport:
        """Return what a visit reported when it was made.

        Raises:
            NotRecordedError: if the run has no such visit.
        """
        visit = self._record.visits.get(_key_of(order))
        if visit is None:
            raise NotRecordedError(_missing(order))
        priced = self.price(order)
        return VisitReport(
            work=priced.plan.work,
            download_bytes=priced.download_bytes,
            upload_bytes=priced.upload_bytes,
            **visit.reported,
        )

    def _plan(self, order: VisitOrder) -> Plan:
        facts, standing = order.facts, Standing.of(order.facts)
        visit = self._record.visits.get(_key_of(order))
        if visit is not None and visit.standing == standing:
            return visit.plan
        plan = self._too_large(order)
        # priced before it began, by when its client had evicted more, or of a course that has parted from the record
        if plan is None and visit is not None and standing.evicted_tasks <= visit.standing.evicted_tasks:
            alike = order.kind is not VisitKind.TRAIN or standing.trained == visit.standing.trained
            plan = visit.plan if alike else None
        if plan is None and order.kind is VisitKind.TRAIN:
            plan = self._next.get((facts.client_id, facts.task_index, standing))
        if plan is None:
            raise NotRecordedError(_missing(order))
        return plan

    def _too_large(self, order: VisitOrder) -> Plan | None:
        """Return the memory of a visit that did not fit as its client stands here, if it does not fit here either."""
        key = (str(order.kind), order.client_id, order.facts.task_index, Standing.of(order.facts))
        plan, limit = self._record.too_large.get(key), self._devices[order.client_id].memory_bytes
        return plan if plan is not None and limit is not None and plan.peak_memory_bytes > limit else None


def _key_of(order: VisitOrder) -> VisitKey:
    return str(order.kind), order.client_id, order.facts.task_index, order.facts.round_index


def _missing(order: VisitOrder) -> str:
    facts = order.facts
    what = f"{order.kind} visit of client {order.client_id} in task {facts.task_index}, round {facts.round_index}"
    what += f", with {facts.evicted_tasks} past tasks evicted" if facts.evicted_tasks else ""
    return f"the course takes account of the {what}, and the run has none"


class RecordedExecutor:
    """Makes no visit, and reports what was recorded of it."""

    def __init__(self, prices: RecordedPrices, scores: Mapping[int, Sequence[Score]]) -> None:
        self._prices, self._scores = prices, scores

    def dispatch(self, orders: Sequence[VisitOrder]) -> None:
        """Do nothing."""

    def report(self, order: VisitOrder) -> VisitReport:
        """Return what the visit reported when it was made."""
        return self._prices.report(order)

    def merge(self, merge: MergeOrder) -> None:
        """Do nothing."""

    def forget(self, orders: Collection[VisitOrder] | None = None) -> None:
        """Do nothing."""

    def score(self, client_ids: Sequence[int], learnt_tasks: int, *, with_global: bool) -> Iterator[Score]:
        """Yield the recorded scores."""
        yield from self._scores.get(learnt_tasks - 1, ())

    def global_parameters_sha256(self) -> None:
        """Return nothing: a replay holds no model."""

    def save(self, *, changes: bool = False) -> Saved:
        """Refuse: a replay holds no model."""
        raise NotImplementedError("a replay holds no model")

    def restore(self, saved: Saved) -> None:
        """Refuse: a replay holds no model."""
        raise NotImplementedError("a replay holds no model")


@dataclass(frozen=True)
class Replay:
    """A recorded run under a config, with the device of each client."""

    config: RunConfig
    record: RecordedVisits
    devices: tuple[Device, ...]

    def tell(self) -> Told:
        """Return what would happen, as far as the run says what it takes."""
        told = Told()
        engine = Engine(*self._parts())
        try:
            for task_index in range(self.config.scenario.places):
                for step in engine.rounds(task_index):
                    told.add(step, (task_index, False))
                for step in engine.finish(task_index, engine.trained):
                    told.add(step, (task_index, True))
        except (NotRecordedError, NobodyComes) as error:
            told.stopped = str(error)
        return told

    def rows(self) -> tuple[list[Row], float]:
        """Return the rows of visits, rounds, events and accuracy, and the virtual time at the end.

        Raises:
            NotRecordedError: if there is a visit that the run does not have.
        """
        rows: list[Row] = []
        course, prices, policy, conditions = self._parts()
        executor = RecordedExecutor(prices, self.record.scores)
        scheduler = Scheduler(course, prices, policy, conditions, executor, rows.extend)
        for _ in scheduler.run():
            pass
        return rows, scheduler.now_s

    def _parts(self) -> tuple[Course, RecordedPrices, Policy, Conditions]:
        """Return what tells a course; a policy remembers, so each telling has one of its own."""
        config = self.config
        scenario, conditions = config.scenario, build_conditions(config)
        images = ((_IMAGES,) * scenario.places,) * scenario.clients
        course = Course(
            seed=config.seed,
            tasks=scenario.places,
            rounds_per_task=config.training.rounds_per_task,
            classes=scenario.classes_per_task,
            images=images,
            test_images=images,
        )
        prices = RecordedPrices(self.record, self.devices, MODELS.get(config.model.name).kind)
        return course, prices, build_policy(config, conditions.availability), conditions
