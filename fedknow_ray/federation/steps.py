"""What the engine says has happened, in the order of virtual time; the scheduler carries it out.

Flights are objects that change while the engine goes on, so that a whole task's steps, taken together, say of each
flight what became of it before its visit is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fedknow_ray.federation.decisions import Merge
from fedknow_ray.federation.flight import Flight


@dataclass(frozen=True, slots=True)
class Began:
    """Flights begin, all from the present broadcast; some may be lost already."""

    flights: tuple[Flight, ...]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A flight has come to its end: its visit can be made by now."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Merged:
    """The server makes the next broadcast, number *index* + 1."""

    index: int
    merge: Merge


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing more will happen to these flights, nor to what their clients waited for."""

    flights: tuple[Flight, ...]


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """A round, or a merge of a policy without rounds, with all that belongs to it."""

    round_index: int
    start_s: float
    end_s: float
    clients: tuple[int, ...]
    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Happened:
    """Something for the table of events."""

    time_s: float
    kind: str
    client_id: int | None
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Learnt:
    """A client is through with a task of its own sequence, whose place is *task_index*; the present broadcast is the
    global model to score it with. In lockstep all clients are through at the end of the task, and there is no step."""

    time_s: float
    client_id: int
    task_index: int


Step: TypeAlias = Began | Arrived | Merged | Closed | RoundClosed | Happened | Learnt
