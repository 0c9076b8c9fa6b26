"""What a policy sees of a run, and what it can decide: no clock, no link and no model of its own.

A policy is asked when something has happened (`Policy`), looks at the `View`, and answers with decisions, which are
carried out in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fedknow_ray.federation.flight import Flight


@dataclass(frozen=True, slots=True)
class Start:
    """Have clients train from the present broadcast. One that is off does not come: its visit is lost at once.

    *round_index* is in the visits' seeds: no client may have two visits of one index in a task.
    """

    client_ids: tuple[int, ...]
    round_index: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """Wake the policy at a time, unless the task is over by then."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End flights that are still on their way: they are late."""

    flights: tuple[Flight, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """Make the next broadcast of the updates of flights that have arrived.

        (sum_i coefficient_i u_i + keep w) / (sum_i coefficient_i + keep)                       with from_base False
        w + sum_i coefficient_i (u_i - b_i)                                                     with from_base True

    u_i the update, b_i the broadcast that its visit started from, w the present broadcast.
    """

    flights: tuple[Flight, ...]
    coefficients: tuple[float, ...]
    keep: float = 0.0
    from_base: bool = False


@dataclass(frozen=True, slots=True)
class EndRound:
    """Close a round. *flights* began in it; those on their way go on.

    With *refine* the clients whose visits arrived visit once more where the method asks for it, before the next round.
    """

    round_index: int
    flights: tuple[Flight, ...]
    refine: bool = True


@dataclass(frozen=True, slots=True)
class EndTask:
    """All training visits of the task are made; what is on its way is stopped."""


Decision: TypeAlias = Start | Alarm | Stop | Merge | EndRound | EndTask


class View(Protocol):
    """What a policy may look at."""

    @property
    def now_s(self) -> float:
        """The virtual time."""

    @property
    def task_index(self) -> int:
        """The task that is being learnt."""

    @property
    def more_to_come(self) -> bool:
        """Whether a client has, or will have, more training visits to make than those that are on their way.

        In lockstep it always is so: there the policy itself knows how long a task is.
        """

    def free(self) -> Sequence[int]:
        """Return the clients that take part and make no visit now, ascending.

        To be looked at, not kept or changed: it may be the engine's own list.
        """

    def on(self, client_ids: Sequence[int]) -> Sequence[int]:
        """Return those of some clients that are on now, in their order; if all are, it may be what was given."""

    @property
    def visiting(self) -> int:
        """How many clients make a visit now."""

    def next_on_s(self, client_ids: Sequence[int]) -> float:
        """Return when the first of some clients is on, now or later; infinity if none ever is.

        Those that visit now, or have been dropped, do not count. Of none given, all others do, and may still join.
        """

    def planned_s(self, client_id: int) -> float:
        """Return how long the client's next training visit would take if nothing happened to it."""

    @property
    def last_visit_s(self) -> Mapping[int, float]:
        """When each client's last visit ended; absent before its first."""

    @property
    def merges(self) -> int:
        """How many merges there have been: the version of the present broadcast."""


class Policy(Protocol):
    """Says who visits when, and whose updates make the next broadcast.

    Where tasks come to each client by time there is one task, in the policy's eyes, which ends when no client has
    `more_to_come`; how long a client's own tasks are is not the policy's affair.
    """

    @property
    def in_rounds(self) -> bool:
        """Whether updates wait for the end of a round, so that no client can go on with the merged model before."""

    def rounds_of_a_task(self) -> int:
        """Return how many indices its `Start` decisions go through in a task."""

    def task_begins(self, view: View) -> list[Decision]:
        """A task begins; nothing is on its way."""

    def began(self, flights: Sequence[Flight]) -> None:
        """The clients of a `Start` are on their way, or lost already."""

    def arrived(self, flight: Flight, view: View) -> list[Decision]:
        """A training visit has come to its end with an update."""

    def lost(self, flight: Flight, view: View) -> list[Decision]:
        """A training visit will bring no update."""

    def woken(self, view: View) -> list[Decision]:
        """An alarm that was set has come."""

    def freed(self, view: View) -> list[Decision]:
        """Clients may be free that were not, or nobody has more to come, without a training visit having ended."""

    def round_closed(self, view: View) -> list[Decision]:
        """A round is closed, and its refining visits have ended."""
