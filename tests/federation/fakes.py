"""A method, devices, prices and an executor with round numbers, for tests of control alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Policy
from fedknow_ray.federation.executor import MergeOrder
from fedknow_ray.federation.ledger import Ledger
from fedknow_ray.federation.policies import RoundRules, Rounds
from fedknow_ray.federation.scheduler import Scheduler
from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.selection import Uniform
from fedknow_ray.federation.standing import Progress, SchedulerState
from fedknow_ray.federation.traffic import Conditions
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport, plan_visit
from fedknow_ray.methods.method import ClientState, Hyperparameters, Method, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.results.schema import Row
from fedknow_ray.simulation.availability import AlwaysOn
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.link import Link
from fedknow_ray.simulation.network import Network
from fedknow_ray.simulation.work import Work, WorkItem


def moving(phase: str, megabytes: int) -> Work:
    return Work((WorkItem(phase, 1, 0, megabytes * 10**6),))


class FakeCosts:
    """Head training takes 2 MB of traffic; 100 bytes are resident."""

    def head_training(self, facts: VisitFacts) -> Work:
        return moving("head", 2)

    def evaluation(self, facts: VisitFacts) -> Work:
        return Work.none()

    def resident_bytes(self, facts: VisitFacts) -> int:
        return 100

    model_bytes = 0

    def evaluation_bytes(self, facts: VisitFacts) -> int:
        return 100

    def ending_bytes(self, facts: VisitFacts, *, trains_head: bool) -> int:
        return 100

    def head_training_bytes(self, facts: VisitFacts) -> int:
        return 100


class FakeMethod(Method):
    """Training moves 6 MB, refining 3 MB, the end of a task 1 MB and half as much again of peak."""

    federated = True
    asks_to_refine = False

    def __init__(self) -> None:
        super().__init__(Hyperparameters(), None, FakeCosts())  # type: ignore[arg-type]

    @property
    def refines(self) -> bool:
        return self.asks_to_refine

    def plan_train(self, facts: VisitFacts) -> Plan:
        return Plan(moving("train", 6), 1000)

    def plan_refine(self, facts: VisitFacts) -> Plan:
        return Plan(moving("refine", 3), 1000)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        return Plan(moving("finish", 1), 1500)

    def train(self, learner: Any, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        raise AssertionError("the fake executor makes no visit")


class Refining(FakeMethod):
    asks_to_refine = True


class Lonely(FakeMethod):
    federated = False


def device(name: str, megabytes_per_s: float, memory_bytes: int | None = 2000) -> Device:
    """A board whose time is memory traffic alone; 10 W busy, 1 W idle."""
    return Device(name, name, "cpu", memory_bytes, 1.0, megabytes_per_s * 1e6, 1.0, 10.0, None, {"small_cnn": 1.0})


#: Seconds of a training visit (6 MB): 6 and 2.
DEVICES = (device("slow", 1.0), device("fast", 3.0), device("fast", 3.0))
#: 4 MB: 0.5 + 2 s down, 0.5 + 4 s up.
LINK = Link(uplink_bytes_per_s=1e6, downlink_bytes_per_s=2e6, latency_s=0.5)
PAYLOAD_BYTES = 4 * 10**6


def make_ledger(method: Method | None = None) -> Ledger:
    return Ledger(method or FakeMethod(), DEVICES, PAYLOAD_BYTES, PAYLOAD_BYTES, "small_cnn")


def conditions(**changes: Any) -> Conditions:
    """Three clients on `LINK`, always on."""
    return Conditions(network=lambda now_s: Network([LINK] * 3, seed=7, now_s=now_s), **changes)


def synchronous(cohorts: Sequence[Sequence[int]], rounds: int = 2) -> Rounds:
    return Rounds(RoundRules(rounds, 3, 3), Uniform(availability=AlwaysOn(), seed=7), cohorts)


@dataclass
class FakeExecutor:
    """Reports what was planned (*tamper* may change it) and remembers what it was asked."""

    ledger: Ledger
    tamper: Callable[[VisitOrder, VisitReport], VisitReport] = lambda order, report: report
    dispatched: list[list[VisitOrder]] = field(default_factory=list)
    reported: list[VisitOrder] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)
    merged: list[MergeOrder] = field(default_factory=list)
    forgotten: list[Collection[VisitOrder] | None] = field(default_factory=list)
    scored: list[tuple[list[int], int, bool]] = field(default_factory=list)

    def dispatch(self, orders: Sequence[VisitOrder]) -> None:
        self.dispatched.append(list(orders))

    def report(self, order: VisitOrder) -> VisitReport:
        self.reported.append(order)
        sends = order.kind is VisitKind.TRAIN and self.ledger.method.federated
        work = plan_visit(order, self.ledger.method).work
        received, sent = PAYLOAD_BYTES * self.ledger.method.federated, PAYLOAD_BYTES * sends
        report = VisitReport(work, 0.5, None, None, download_bytes=received, upload_bytes=sent)
        return self.tamper(order, report)

    def merge(self, merge: MergeOrder) -> None:
        self.commits.append(len(self.reported))
        self.merged.append(merge)

    def forget(self, orders: Collection[VisitOrder] | None = None) -> None:
        self.forgotten.append(orders)

    def score(self, client_ids: Sequence[int], learnt_tasks: int, *, with_global: bool) -> Iterator[Score]:
        self.scored.append((list(client_ids), learnt_tasks, with_global))
        for client_id in client_ids:
            for task_index in range(learnt_tasks):
                yield Score(client_id, "own", task_index, correct=1 + client_id, total=4)
                if with_global:
                    yield Score(client_id, "global", task_index, correct=4, total=4)

    def global_parameters_sha256(self) -> str:
        return "0" * 64


@dataclass
class Trial:
    """A scheduler on fakes: three clients, two rounds a task; `rows` are recorded as they come."""

    method: Method = field(default_factory=FakeMethod)
    tasks: int = 1
    cohorts: tuple[tuple[int, ...], ...] = ((0, 1), (1, 2))
    tamper: Callable[[VisitOrder, VisitReport], VisitReport] = lambda order, report: report
    start: SchedulerState | None = None
    policy: Policy | None = None
    conditions: Conditions = field(default_factory=conditions)
    devices: tuple[Device, ...] = DEVICES

    def __post_init__(self) -> None:
        ledger = replace(make_ledger(self.method), devices=self.devices)
        self.executor = FakeExecutor(ledger, self.tamper)
        self.rows: list[Row] = []
        images = ((10, 11), (20, 21), (30, 31))
        course = Course(seed=7, tasks=self.tasks, rounds_per_task=2, classes=2, images=images, test_images=images)
        policy = self.policy or synchronous(self.cohorts)
        self.scheduler = Scheduler(course, ledger, policy, self.conditions, self.executor, self.rows.extend, self.start)

    def run(self) -> list[Progress]:
        return list(self.scheduler.run())

    def rows_of(self, kind: type[Any]) -> list[Any]:
        return [row for row in self.rows if isinstance(row, kind)]
