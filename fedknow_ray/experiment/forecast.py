"""What a run will take, before it is made: virtual time, bytes, joules, lost visits, and where memory ends.

All of it follows from plans, so the engine alone is run over the whole course and nothing is trained. What a run then
records is the same to the bit. Of the data set only the labels are read, since they say how many images a client has.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import UserError
from fedknow_ray.experiment.assembly import Outline, make_assembly, open_labels, outline
from fedknow_ray.experiment.grid import read_grid
from fedknow_ray.experiment.run import read_config
from fedknow_ray.federation.arriving import make_engine
from fedknow_ray.federation.course import Course
from fedknow_ray.federation.engine import Engine
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.ledger import Ledger
from fedknow_ray.federation.steps import Closed, Happened, Step
from fedknow_ray.federation.traffic import OnOutOfMemory
from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.results.schema import VisitRow
from fedknow_ray.scenario.datasets import Labels


@dataclass(frozen=True, slots=True)
class TaskForecast:
    """One task, from its first round to its end; *lost* counts visits by what became of them.

    *energy_j* is None where a device that visits lacks a wattage.
    """

    task_index: int
    start_s: float
    end_s: float
    upload_bytes: int
    download_bytes: int
    energy_j: float | None
    visits: int
    lost: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """The memory of one kind of device, by task: *peak_bytes* of each kind of visit, the most of all its clients.

    *kept_bytes* is what the method keeps, on storage or in memory, while a task is learnt, and *stored_bytes* what of
    it lies on storage. All three are of clients that have evicted nothing; *least_bytes* is the peak of those that have
    evicted what they can, the same where the config has nobody evict. *evicted_tasks* is the most that one of the
    clients has evicted in the course of the run, by the task of the visit. *memory_bytes* None is a device whose memory
    is not known: every visit fits.
    """

    device: str
    memory_bytes: int | None
    peak_bytes: Mapping[str, tuple[int, ...]]
    kept_bytes: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    least_bytes: Mapping[str, tuple[int, ...]]
    evicted_tasks: tuple[int, ...]

    def highest(self, task_index: int, *, least: bool = False) -> tuple[str, int]:
        """Return the kind of visit that takes the most memory in a task, and how many bytes: with nothing evicted, or
        at *least*."""
        peaks = self.least_bytes if least else self.peak_bytes
        return max(((kind, of[task_index]) for kind, of in peaks.items()), key=lambda pair: pair[1])

    def fits(self, task_index: int, *, least: bool = False) -> bool:
        """Return whether the device can hold each visit in a task, with nothing evicted or at *least*."""
        return self.memory_bytes is None or self.highest(task_index, least=least)[1] <= self.memory_bytes

    @property
    def stops_at(self) -> int | None:
        """The first task with a visit that the device cannot hold; None if there is none."""
        return next((t for t in range(len(self.kept_bytes)) if not self.fits(t, least=True)), None)

    @property
    def evicts_at(self) -> int | None:
        """The first task in which a client evicts knowledge; None if none does."""
        return next((t for t, evicted in enumerate(self.evicted_tasks) if evicted), None)


@dataclass(frozen=True, slots=True)
class Forecast:
    """One method's run; *unknown_watts* are the devices for which `energy_j` is None."""

    method: str
    virtual_time_s: float
    upload_bytes: int
    download_bytes: int
    energy_j: float | None
    unknown_watts: tuple[str, ...]
    tasks: tuple[TaskForecast, ...]
    memory: tuple[MemoryForecast, ...]

    @property
    def visits(self) -> int:
        """Visits of all tasks, lost ones too."""
        return sum(task.visits for task in self.tasks)

    @property
    def lost(self) -> dict[str, int]:
        """Lost visits of all tasks, by reason."""
        return dict(sum((Counter(task.lost) for task in self.tasks), Counter[str]()))


def forecast_file(
    path: Path, overrides: Sequence[str] = (), methods: Sequence[str] | None = None
) -> Iterator[tuple[RunConfig, Forecast]]:
    """Yield the forecast of each method on a config; None stands for the config's own method.

    With *methods*, overrides of `method.*` go to the methods that have such a key.

    Raises:
        UserError: if the config or the data are wrong, or if the clock is a measured one.
    """
    configs = [read_config(path, chosen) for chosen in _overrides(path, overrides, methods)]
    if configs[0].clock == "measured":
        raise UserError(
            "clock: measured takes the seconds of a visit from this host's processor while it trains, so there is "
            "nothing to forecast before; forecast the modelled seconds with --set clock=virtual"
        )
    labels = open_labels(configs[0])
    for config in configs:
        yield config, forecast(config, labels)


def forecast(config: RunConfig, labels: Labels) -> Forecast:
    """Return what a run of a config will record, from the labels of its data set.

    Raises:
        UserError: if the data does not suffice, or a device lacks a number that the run needs.
    """
    planned = outline(make_assembly(config, labels))
    engine = make_engine(planned.course, planned.ledger, planned.policy, planned.conditions)
    tell, events = _in_lockstep if planned.course.arrives_s is None else _by_time, list[Happened]()
    tasks = tell(planned, engine, events)
    rows = [row for _, made in tasks for row in made]
    return Forecast(
        method=config.method.name,
        virtual_time_s=engine.now_s,
        upload_bytes=sum(row.upload_bytes for row in rows),
        download_bytes=sum(row.download_bytes for row in rows),
        energy_j=_energy_j(rows),
        unknown_watts=tuple(sorted({row.device for row in rows if row.energy_j is None})),
        tasks=tuple(task for task, _ in tasks),
        memory=tuple(_memory(planned, events)),
    )


def _in_lockstep(planned: Outline, engine: Engine, events: list[Happened]) -> list[tuple[TaskForecast, list[VisitRow]]]:
    """Return the tasks one after the other, each with the visits that are made in it; add the events."""
    found, end_s = [], 0.0
    for task_index in range(planned.course.tasks):
        start_s = end_s
        steps = list(engine.rounds(task_index))
        steps += engine.finish(task_index, engine.trained)
        end_s = engine.now_s
        made = [flight.row(None) for flight in _closed(steps, events)]
        found.append((_task(task_index, start_s, end_s, made), made))
    return found


def _by_time(planned: Outline, engine: Engine, events: list[Happened]) -> list[tuple[TaskForecast, list[VisitRow]]]:
    """Return the places of the clients' sequences, each from its first visit to the end of its last; add the events."""
    flights = list(_closed(engine.tell(), events))
    found = []
    for place in range(planned.course.tasks):
        of_place = [flight for flight in flights if flight.priced.order.facts.task_index == place]
        made = [flight.row(None) for flight in of_place]
        start_s, end_s = min((f.start_s for f in of_place), default=0.0), max((f.end_s for f in of_place), default=0.0)
        found.append((_task(place, start_s, end_s, made), made))
    return found


def _overrides(path: Path, overrides: Sequence[str], methods: Sequence[str] | None) -> list[list[str]]:
    if methods is None:
        return [list(overrides)]
    grid = read_grid(path, methods, sets=overrides)
    return [[*case.overrides, *grid.seed_sets] for case in grid.cases()]


def _closed(steps: Iterable[Step], events: list[Happened]) -> Iterator[Flight]:
    """Yield the flights that steps close, and add to the events those that they tell of."""
    for step in steps:
        if isinstance(step, Closed):
            yield from step.flights
        elif isinstance(step, Happened):
            events.append(step)


def _task(task_index: int, start_s: float, end_s: float, rows: Sequence[VisitRow]) -> TaskForecast:
    return TaskForecast(
        task_index=task_index,
        start_s=start_s,
        end_s=end_s,
        upload_bytes=sum(row.upload_bytes for row in rows),
        download_bytes=sum(row.download_bytes for row in rows),
        energy_j=_energy_j(rows),
        visits=len(rows),
        lost=Counter(row.status for row in rows if row.status != "ok"),
    )


def _energy_j(rows: Sequence[VisitRow]) -> float | None:
    """Return the joules of visits, rounded once as in a run's summary; None where one is not known."""
    joules = [row.energy_j for row in rows if row.energy_j is not None]
    return math.fsum(joules) if len(joules) == len(rows) else None


def _memory(planned: Outline, events: Sequence[Happened]) -> Iterator[MemoryForecast]:
    """Yield the memory that the visits of each kind of device take, whether or not the course comes to make them."""
    ledger, course = planned.ledger, planned.course
    evicting = planned.conditions.on_out_of_memory is OnOutOfMemory.EVICT_OLDEST_KNOWLEDGE and ledger.method.evicts
    clients: dict[str, list[int]] = {}
    for client_id, device in enumerate(ledger.devices):
        clients.setdefault(device.name, []).append(client_id)
    for name, client_ids in clients.items():
        facts = [_facts(course, client_ids, task_index) for task_index in range(course.tasks)]
        forgetful = [[replace(one, evicted_tasks=one.task_index) for one in of] for of in facts]
        method, peaks = ledger.method, _peaks(ledger, facts, course.seed)
        yield MemoryForecast(
            device=name,
            memory_bytes=ledger.devices[client_ids[0]].memory_bytes,
            peak_bytes=peaks,
            kept_bytes=tuple(max(map(method.kept_bytes, of)) for of in facts),
            stored_bytes=tuple(max(map(method.stored_bytes, of)) for of in facts),
            least_bytes=_peaks(ledger, forgetful, course.seed) if evicting else peaks,
            evicted_tasks=_evicted(events, client_ids, course.tasks),
        )


def _evicted(events: Sequence[Happened], client_ids: Sequence[int], tasks: int) -> tuple[int, ...]:
    """Return the most past tasks that one of some clients had evicted by each task."""
    told = [
        (cast(int, event.detail["task_index"]), cast(int, event.detail["evicted_tasks"]))
        for event in events
        if event.kind == "knowledge_evicted" and event.client_id in client_ids
    ]
    return tuple(max((evicted for of, evicted in told if of <= task), default=0) for task in range(tasks))


def _peaks(ledger: Ledger, facts: Sequence[Sequence[VisitFacts]], seed: int) -> dict[str, tuple[int, ...]]:
    return {str(kind): tuple(_peak(ledger, kind, of, seed) for of in facts) for kind in _kinds(ledger)}


def _kinds(ledger: Ledger) -> list[VisitKind]:
    return [kind for kind in VisitKind if kind is not VisitKind.REFINE or ledger.method.refines]


def _facts(course: Course, client_ids: Sequence[int], task_index: int) -> list[VisitFacts]:
    """Return the facts of all visits that clients of one device can make in a task, but for those that are alike."""
    unlike: dict[tuple[tuple[int, ...], int], int] = {}
    for client_id in client_ids:
        sizes = course.images[client_id][: task_index + 1], sum(course.test_images[client_id][: task_index + 1])
        unlike.setdefault(sizes, client_id)
    return [
        course.facts(client_id, task_index, 0, trained_this_task=trained)
        for client_id in unlike.values()
        for trained in (False, True)
    ]


def _peak(ledger: Ledger, kind: VisitKind, facts: Sequence[VisitFacts], seed: int) -> int:
    return max(ledger.price(VisitOrder(kind, one, seed)).plan.peak_memory_bytes for one in facts)
