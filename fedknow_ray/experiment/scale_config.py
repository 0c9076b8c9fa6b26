"""The points of a scaling grid: methods x numbers of clients x numbers of tasks, each a whole config.

    config, --set, --methods -> base config of each method -> scenario.clients, scenario.tasks, fleet of each point

The fleet of a point has the config's own kinds of device in proportion, by largest remainder. All faults of all points
are found before anything runs. Nothing here opens the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from fedknow_ray.config.availability import DutyCycleAvailability
from fedknow_ray.config.model import FleetEntry, RunConfig
from fedknow_ray.config.policy import SynchronousPolicy
from fedknow_ray.errors import ConfigError, Fault
from fedknow_ray.experiment.apportionment import apportion
from fedknow_ray.experiment.grid import flow_text, read_grid
from fedknow_ray.experiment.run import read_config

_OPTION_OF = {"scenario.clients": "--clients", "scenario.tasks": "--tasks"}


class PointId(NamedTuple):
    """One point of the grid, and so one run."""

    method: str
    clients: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.method}, {_many(self.clients, 'client')}, {_many(self.tasks, 'task')}"

    @property
    def folder(self) -> str:
        """The name of its config and of its run directory."""
        return f"{self.method}-{self.clients}-clients-{self.tasks}-tasks"


class Axes(NamedTuple):
    """The numbers of clients and of tasks, each ascending."""

    clients: tuple[int, ...]
    tasks: tuple[int, ...]


def read_points(
    path: Path, clients: str, tasks: str, methods: Sequence[str] | None = None, sets: Sequence[str] = ()
) -> tuple[Axes, dict[PointId, RunConfig]]:
    """Return the axes and the config of each point, method by method, fewer clients first, then fewer tasks.

    *clients* and *tasks* are as the options have them, "10,20,50"; *methods* None is the config's own method; *sets*
    are "KEY=VALUE", of which those of `method.*` go to the methods that have the key.

    Raises:
        ConfigError: with every fault of the options and of all points, each once.
    """
    faults: list[Fault] = []
    axes = Axes(_read_axis("--clients", clients, faults), _read_axis("--tasks", tasks, faults))
    for option in sets:
        key = _key(option)
        if key in _OPTION_OF:
            faults.append(Fault(f"--set {option}", key, f"belongs to another option: {_OPTION_OF[key]}"))
    overrides = _overrides(path, methods, sets, faults)
    if faults:
        raise ConfigError(faults)
    # a config's own number of tasks is not run, so it may be one that the data set has no classes for
    bases = {
        method: _try_config(path, [*of_method, f"scenario.tasks={axes.tasks[0]}"], faults)
        for method, of_method in overrides.items()
    }
    points: dict[PointId, RunConfig] = {}
    for method, base in bases.items():
        faults += _own_sequences(base, tasks)
        for number in axes.clients if base is not None else ():
            faults += _named_clients(base, number)
            for count in axes.tasks:
                config = _point(path, overrides[method], base, number, count, faults)
                if config is not None:
                    points[PointId(config.method.name, number, count)] = config
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return axes, points


def scaled_fleet(fleet: Sequence[FleetEntry], clients: int) -> list[dict[str, Any]]:
    """Return a fleet of so many clients with the same kinds of device in proportion, as plain values.

    The counts are apportioned by largest remainder; an entry that gets no client is left out.
    """
    counts = apportion([entry.count for entry in fleet], clients)
    return [
        {**entry.model_dump(mode="json", exclude_none=True), "count": count}
        for entry, count in zip(fleet, counts, strict=True)
        if count
    ]


def names_clients(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, what can stand in its place) of each part of a config that names clients by their ids.

    An availability trace is none: it has intervals for as many clients as it likes, and one that has too few is refused
    when it is read.
    """
    if isinstance(config.policy, SynchronousPolicy) and config.policy.cohorts is not None:
        yield "policy.cohorts", "training.client_fraction draws the clients of a round"
    for index, outage in enumerate(config.outages):
        if outage.clients is not None:
            yield f"outages.{index}.clients", "devices and fraction name clients of a fleet of any size"
    if config.failures.schedule:
        yield "failures.schedule", "failures.probability is for a fleet of any size"
    if config.failures.bad_updates:
        yield "failures.bad_updates", "leave them out"
    if isinstance(config.availability, DutyCycleAvailability) and isinstance(config.availability.offset_s, tuple):
        yield "availability.offset_s", "random, or one offset for all, is for a fleet of any size"


def _named_clients(base: RunConfig | None, clients: int) -> Iterator[Fault]:
    if base is None or clients == base.scenario.clients:
        return
    own = base.scenario.clients
    for key, instead in names_clients(base):
        message = f"names clients by their ids, which are those of the config's own {own} clients; {instead}"
        yield Fault(f"--clients {clients}", key, message)


def _own_sequences(base: RunConfig | None, tasks: str) -> Iterator[Fault]:
    """Yield a fault for what says by itself how many tasks a client learns."""
    if base is None:
        return
    where, told = f"--tasks {tasks}", "says how many tasks a client learns one after the other, whatever --tasks says"
    if isinstance(base.scenario.task_order, tuple):
        yield Fault(where, "scenario.task_order", f"{told}; same or shuffled has as many as there are")
    if base.task_arrival.trace is not None:
        yield Fault(where, "task_arrival.trace", f"{told}; every_s is for any number")


def _read_axis(option: str, text: str, faults: list[Fault]) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    where = f"{option} {text}"
    wrong = [word for word in words if not (word.isascii() and word.isdigit() and int(word) > 0)]
    if wrong:
        faults.append(Fault(where, "", f"must be whole numbers from 1 up, as in 10,20,50; got {wrong[0]!r}"))
        return ()
    numbers = sorted(map(int, words))
    twice = [number for number, after in pairwise(numbers) if number == after]
    if twice:
        faults.append(Fault(where, "", f"names {twice[0]} twice; leave one out"))
    return tuple(numbers)


def _overrides(
    path: Path, methods: Sequence[str] | None, sets: Sequence[str], faults: list[Fault]
) -> dict[str | None, list[str]]:
    """Return the overrides of each method; None is the config's own."""
    if methods is None:
        return {None: list(sets)}
    try:
        grid = read_grid(path, methods, sets=[option for option in sets if _key(option) not in _OPTION_OF])
    except ConfigError as error:
        faults += error.faults
        return {}
    return {case.method: [*case.overrides, *grid.seed_sets] for case in grid.cases()}


def _point(
    path: Path, overrides: Sequence[str], base: RunConfig | None, clients: int, tasks: int, faults: list[Fault]
) -> RunConfig | None:
    if base is None:
        return None
    # what was set of the fleet is in the base, and its places are others in a fleet of another size
    kept = [option for option in overrides if _key(option).partition(".")[0] != "fleet"]
    own = {
        f"scenario.clients={clients}": f"--clients {clients}",
        f"scenario.tasks={tasks}": f"--tasks {tasks}",
        f"fleet={flow_text(scaled_fleet(base.fleet, clients))}": f"--clients {clients}",
    }
    return _try_config(path, [*kept, *own], faults, said_as=own)


def _try_config(
    path: Path, overrides: Iterable[str], faults: list[Fault], said_as: Mapping[str, str] | None = None
) -> RunConfig | None:
    """Return the config, or put its faults, under the options that were given, behind the others."""
    try:
        return read_config(path, list(overrides))
    except ConfigError as error:
        places = {f"--set {override}": option for override, option in (said_as or {}).items()}
        faults += [replace(fault, where=places.get(fault.where, fault.where)) for fault in error.faults]
        return None


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _key(option: str) -> str:
    return option.partition("=")[0].strip()
