"""Tasks told by the engine alone, on the numbers of tests/federation/fakes.py, and conditions to tell them in.

A training visit takes 2.5 s down, 6 s of computing on client 0 or 2 s on clients 1 and 2, and 4.5 s up: 13 s and 9 s.
The end of a task takes 2.5 s and 1 s, or 1/3 s; 3 s, or 1 s where the client was not trained in the task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fakes import LINK, FakeMethod, conditions, make_ledger

from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Merge, Policy
from fedknow_ray.federation.engine import Engine
from fedknow_ray.federation.engine_state import EngineState
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.policies import RoundRules, Rounds
from fedknow_ray.federation.selection import make_selection
from fedknow_ray.federation.steps import Closed, Happened, Merged, RoundClosed, Step
from fedknow_ray.federation.traffic import Conditions
from fedknow_ray.methods.method import Method
from fedknow_ray.simulation.availability import AlwaysOn, Availability
from fedknow_ray.simulation.availability_gaps import Outage, Outages
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.failures import Failures, ScheduledFailure
from fedknow_ray.simulation.network import Network

S = TypeVar("S")

IMAGES = ((10, 11, 12), (20, 21, 22), (30, 31, 32))
NEVER_AGAIN = math.inf


def off(*gaps: tuple[int, float, float]) -> Outages:
    """Three clients that are on but for the gaps (client, from_s, to_s)."""
    return Outages(AlwaysOn(), [Outage(frozenset({client}), from_s, to_s) for client, from_s, to_s in gaps])


def failing(*visits: tuple[int, int, int, float]) -> Failures:
    """Training visits (client, task, round, fraction of the duration) that fail."""
    return Failures(schedule=[ScheduledFailure(c, t, r, "train", at) for c, t, r, at in visits], seed=7)


def shared(**rates: float) -> Conditions:
    """The links of the fakes behind a server's link of some rate, each way."""
    return Conditions(network=lambda now_s: Network([LINK] * 3, seed=7, now_s=now_s, **rates))


def in_rounds(
    rounds: int = 1,
    needed: int = 3,
    started: int = 3,
    *,
    cohorts: Sequence[Sequence[int]] | None = None,
    selection: str = "uniform",
    availability: Availability | None = None,
    **rules: Any,
) -> Rounds:
    picks = make_selection(selection, availability=availability or AlwaysOn(), seed=7)
    return Rounds(RoundRules(rounds, needed, started, **rules), picks, cohorts)


@dataclass
class Told:
    """What an engine has told of some tasks; *restart* takes it apart at each boundary, and goes on from its state."""

    policy: Policy
    conditions: Conditions = field(default_factory=conditions)
    tasks: int = 1
    method: Method = field(default_factory=FakeMethod)
    devices: tuple[Device, ...] | None = None
    measure: Callable[[Flight], float] | None = None
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        ledger = make_ledger(self.method)
        self.ledger = ledger if self.devices is None else replace(ledger, devices=self.devices)
        self.engine = self.make_engine()
        for task_index in range(self.tasks):
            self.steps += self.engine.rounds(task_index)
            self.steps += self.engine.finish(task_index, self.engine.trained)

    def make_engine(self, state: EngineState | None = None) -> Engine:
        course = Course(seed=7, tasks=self.tasks, rounds_per_task=2, classes=2, images=IMAGES, test_images=IMAGES)
        return Engine(course, self.ledger, self.policy, self.conditions, state, self.measure)

    def of(self, kind: type[S]) -> list[S]:
        return [step for step in self.steps if isinstance(step, kind)]

    @property
    def rounds(self) -> list[tuple[int, float, float, tuple[int, ...]]]:
        return [(r.round_index, r.start_s, r.end_s, r.clients) for r in self.of(RoundClosed)]

    @property
    def merges(self) -> list[Merge]:
        return [step.merge for step in self.of(Merged)]

    @property
    def merged(self) -> list[list[tuple[int, int]]]:
        """Of each merge, the (client, round_index) behind its updates."""
        return [[(f.client_id, f.priced.order.facts.round_index) for f in merge.flights] for merge in self.merges]

    @property
    def events(self) -> list[tuple[float, str, int | None]]:
        return [(step.time_s, step.kind, step.client_id) for step in self.of(Happened)]

    def flights(self, kind: str = "train") -> list[Flight]:
        """The flights that were closed, in that order."""
        return [f for step in self.of(Closed) for f in step.flights if f.priced.order.kind == kind]

    def statuses(self, kind: str = "train") -> list[tuple[int, str]]:
        return [(flight.client_id, str(flight.status)) for flight in self.flights(kind)]


def as_planned(flight: Flight) -> float:
    """Measured seconds, which need an event for each phase, that are what was planned."""
    return flight.priced.compute_s


def spent(flight: Flight) -> tuple[float, float, float, int, int]:
    """Seconds and bytes of a flight: down, computing, up; down, up."""
    return flight.download_s, flight.compute_s, flight.upload_s, flight.download_bytes, flight.upload_bytes


def plain(flights: Iterable[Flight]) -> list[dict[str, Any]]:
    """All that a table would know of flights."""
    return [vars_of(flight) for flight in flights]


def vars_of(flight: Flight) -> dict[str, Any]:
    names = ("start_s", "end_s", "download_s", "compute_s", "upload_s", "wait_s", "download_bytes", "upload_bytes")
    order = flight.priced.order
    return {
        "order": (str(order.kind), order.client_id, order.facts.task_index, order.facts.round_index),
        **{name: getattr(flight, name) for name in (*names, "version", "used_in", "attempt")},
        "status": str(flight.status),
    }
