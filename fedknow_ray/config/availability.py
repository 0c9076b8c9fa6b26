"""The sections `availability`, `outages` and `failures`: when clients are there, and which visits fail.

By default everybody is always on and nothing fails. A section says what its own keys may hold; what only several keys
together can get wrong is in the `..._findings` functions below, each of which yields (key path, message).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BeforeValidator, Field, Strict

from fedknow_ray.config.fields import Cohort, DurationS, Folder, Fraction, Frozen, Index, Name
from fedknow_ray.config.yaml import KeyPath, show
from fedknow_ray.units import parse_quantity

Findings: TypeAlias = Iterator[tuple[KeyPath, str]]

SHORTEST_S = 1e-3
"""The shortest stretch that a client may be on or off; as `simulation.availability_pattern.SHORTEST_S`."""


def _offset(value: Any) -> Any:
    """Read an offset: text and numbers as durations, a list of them as one for each client."""
    if value == "random":
        return value
    if isinstance(value, list | tuple):
        return tuple(_offset_of_one(entry) for entry in value)
    return _offset_of_one(value)


def _offset_of_one(value: Any) -> float:
    try:
        offset_s = parse_quantity(value, "seconds")
    except ValueError as error:
        told = f"must be random, a time such as 20 or '1 h', or a list of times, got {show(value)}"
        raise ValueError(told) from error
    if offset_s < 0:
        raise ValueError(f"must be at least 0, got {show(value)}")
    return offset_s


StretchS = Annotated[DurationS, Field(ge=SHORTEST_S)]
"""Seconds, or text with a unit; at least 1 ms."""
Offset = Annotated[float | tuple[float, ...] | Literal["random"], BeforeValidator(_offset)]
"""Seconds for all clients, a list with those of each client, or "random"."""
Probability = Annotated[float, Strict(), Field(ge=0, lt=1, allow_inf_nan=False)]
"""In [0, 1): at 1 nothing would ever arrive."""
Within = Annotated[float, Strict(), Field(gt=0, lt=1, allow_inf_nan=False)]
"""In (0, 1)."""


class AlwaysAvailability(Frozen):
    """Every client is on, for good."""

    name: Literal["always"] = "always"


class DutyCycleAvailability(Frozen):
    """Every client is on for on_s of every period_s."""

    name: Literal["duty_cycle"] = "duty_cycle"
    period_s: StretchS
    on_s: StretchS
    offset_s: Offset = "random"
    """When a stretch begins: for all clients alike, in a list for each, or drawn for each."""


class MarkovAvailability(Frozen):
    """Every client changes by itself between on and off; its stays are exponential with these means."""

    name: Literal["markov"] = "markov"
    mean_on_s: StretchS
    mean_off_s: StretchS


class TraceAvailability(Frozen):
    """Every client is on in the intervals that a file has for it."""

    name: Literal["trace"] = "trace"
    file: Folder
    """JSON file, relative to the working directory."""


AvailabilityConfig: TypeAlias = Annotated[
    AlwaysAvailability | DutyCycleAvailability | MarkovAvailability | TraceAvailability, Field(discriminator="name")
]


class OutageConfig(Frozen):
    """A loss of power in a region: some clients, named in one of three ways, are off for a while."""

    from_s: DurationS
    to_s: DurationS
    clients: Cohort | None = None
    """Client ids."""
    devices: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Names of devices: all clients that are one of them."""
    fraction: Fraction | None = None
    """Share of the clients, rounded to the nearest whole client, drawn at random."""

    def size(self, clients: int) -> int:
        """Return how many of *clients* clients the fraction is, halves up; 0 without one."""
        return int((self.fraction or 0.0) * clients + 0.5)


class ScheduledFailureConfig(Frozen):
    """One training visit that fails."""

    client: Index
    task: Index
    round: Index
    at: Within
    """The fraction of the visit's duration after which it fails."""


class BadUpdateConfig(Frozen):
    """One training visit whose client, broken or malicious, sends something else than what it has learnt."""

    client: Index
    task: Index
    round: Index
    sends: Literal["nan", "wrong_shape", "huge", "garbage"]
    """nan: its update with a value that is no number; wrong_shape: with a value missing; huge: values of 1e30;
    garbage: random bytes of some other length."""


class FailuresConfig(Frozen):
    """Which visits fail half way, and which bring a bad update."""

    probability: Probability = 0.0
    """Of each visit by itself; where it fails is drawn as well."""
    schedule: tuple[ScheduledFailureConfig, ...] = ()
    """Training visits that fail whatever is drawn."""
    bad_updates: tuple[BadUpdateConfig, ...] = ()
    """Training visits that come to their end and send what the server has to refuse."""


class FleetMember(Protocol):
    """What an entry of the fleet says of its clients."""

    @property
    def device(self) -> str:
        """The device that each of them is."""
        ...

    @property
    def count(self) -> int:
        """How many they are."""
        ...

    @property
    def joins_at_s(self) -> float | None:
        """When they join; null is from the start."""
        ...

    @property
    def leaves_at_s(self) -> float | None:
        """When they leave; null is never."""
        ...


def availability_findings(availability: AvailabilityConfig, clients: int) -> Findings:
    """Yield what does not go together in `availability`, for a run of so many clients."""
    if not isinstance(availability, DutyCycleAvailability):
        return
    period_s, on_s, offset_s = availability.period_s, availability.on_s, availability.offset_s
    if on_s > period_s:
        yield ("availability", "on_s"), f"{on_s:g} s is longer than the period of {period_s:g} s; lower it"
    elif 0 < period_s - on_s < SHORTEST_S:
        off = f"{on_s:.6f} of {period_s:.6f} s leaves less than {SHORTEST_S:g} s off"
        yield ("availability", "on_s"), f"{off}; give the whole period, or leave more"
    if isinstance(offset_s, tuple) and len(offset_s) != clients:
        yield (
            ("availability", "offset_s"),
            f"has {len(offset_s)} offsets for the {clients} clients (scenario.clients); give each client one",
        )


def outage_findings(outages: Sequence[OutageConfig], clients: int, devices: Collection[str]) -> Findings:
    """Yield what does not go together in `outages`, for a run of so many clients on these devices."""
    for index, outage in enumerate(outages):
        yield from ((("outages", index, *path), message) for path, message in _in_outage(outage, clients, devices))


def _in_outage(outage: OutageConfig, clients: int, devices: Collection[str]) -> Findings:
    if outage.to_s <= outage.from_s:
        yield ("to_s",), f"{outage.to_s:g} s is not after from_s, which is {outage.from_s:g} s"
    given = [key for key in ("clients", "devices", "fraction") if getattr(outage, key) is not None]
    if len(given) != 1:
        told = "none is given" if not given else f"{' and '.join(given)} are given"
        yield (), f"must have one of clients, devices and fraction, but {told}"
    for position, client_id in enumerate(outage.clients or ()):
        if client_id >= clients:
            yield ("clients", position), _no_client(client_id, clients)
    for position, device in enumerate(outage.devices or ()):
        if device not in devices:
            known = ", ".join(sorted(set(devices)))
            yield ("devices", position), f"no client is a {device!r}; the fleet has {known}"
    if outage.fraction is not None and outage.size(clients) == 0:
        yield (
            ("fraction",),
            f"{outage.fraction:g} of {clients} clients is none; raise it to {0.5 / clients:.3g} or more",
        )


def membership_findings(fleet: Sequence[FleetMember]) -> Findings:
    """Yield the entries of the fleet whose clients would leave before they have joined."""
    for index, entry in enumerate(fleet):
        joins_s = entry.joins_at_s or 0.0
        if entry.leaves_at_s is not None and entry.leaves_at_s <= joins_s:
            said = "joins_at_s, which is" if entry.joins_at_s is not None else "the start,"
            yield ("fleet", index, "leaves_at_s"), f"{entry.leaves_at_s:g} s is not after {said} {joins_s:g} s"


def failure_findings(failures: FailuresConfig, *, clients: int, tasks: int, rounds: int | None) -> Findings:
    """Yield what is wrong in `failures.schedule` and `failures.bad_updates`, for a run of this size.

    *rounds* are those of a task, None for no limit.
    """
    lists: tuple[tuple[str, Sequence[_NamedVisit], str], ...] = (
        ("schedule", failures.schedule, "a visit fails once"),
        ("bad_updates", failures.bad_updates, "a visit sends one update"),
    )
    for name, entries, once in lists:
        seen: dict[tuple[int, int, int], int] = {}
        for index, entry in enumerate(entries):
            key: KeyPath = ("failures", name, index)
            yield from (((*key, part), told) for part, told in _no_such_visit(entry, clients, tasks, rounds))
            first = seen.setdefault((entry.client, entry.task, entry.round), index)
            if first != index:
                yield key, f"is the visit of entry {first} again; {once}"


_NamedVisit: TypeAlias = ScheduledFailureConfig | BadUpdateConfig


def _no_such_visit(entry: _NamedVisit, clients: int, tasks: int, rounds: int | None) -> Iterator[tuple[str, str]]:
    if entry.client >= clients:
        yield "client", _no_client(entry.client, clients)
    if entry.task >= tasks:
        yield "task", f"there is no task {entry.task}: scenario.tasks is {tasks}, so they are 0 to {tasks - 1}"
    if rounds is not None and entry.round >= rounds:
        told = f"training.rounds_per_task is {rounds}, so they are 0 to {rounds - 1}"
        yield "round", f"there is no round {entry.round}: {told}"


def _no_client(client_id: int, clients: int) -> str:
    return f"there is no client {client_id}: scenario.clients is {clients}, so they are 0 to {clients - 1}"
