"""Whether two courses of a run train the same: the first visit or merge in which they differ.

What is learnt depends on the visits that arrive, in the order of each client, the broadcast that each starts from, the
past tasks that its client has evicted, the merges, and whether a visit comes before a task's scores or after them.
Seconds are of no account.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from fedknow_ray.federation.decisions import Merge
from fedknow_ray.federation.flight import Flight, Status
from fedknow_ray.federation.steps import Closed, Merged, Step
from fedknow_ray.federation.visit import VisitKind

When = tuple[int, bool]
"""The task that is learnt, and whether its rounds are over."""


@dataclass
class Told:
    """The visits of a course, in the order of each client, and its merges; *stopped* why it could be told no further.

    A merge is known by the visits that go into it, and by its numbers.
    """

    visits: dict[int, list[tuple[Flight, When]]] = field(default_factory=dict)
    merges: list[Merge] = field(default_factory=list)
    stopped: str | None = None

    def add(self, step: Step, when: When) -> None:
        """Take down a step of the course."""
        if isinstance(step, Closed):
            for flight in step.flights:
                self.visits.setdefault(flight.client_id, []).append((flight, when))
        elif isinstance(step, Merged):
            self.merges.append(step.merge)


@dataclass(frozen=True, slots=True)
class _Mark:
    """What matters of a visit."""

    kind: VisitKind
    task_index: int
    round_index: int
    when: When
    status: Status
    version: int
    merge: int | None
    evicted: int

    @staticmethod
    def of(flight: Flight, when: When) -> _Mark:
        order = flight.priced.order
        facts = order.facts
        return _Mark(
            kind=order.kind,
            task_index=facts.task_index,
            round_index=facts.round_index,
            when=when,
            status=flight.status,
            version=flight.version,
            merge=flight.used_in,
            evicted=facts.evicted_tasks,
        )

    def __str__(self) -> str:
        if self.kind is VisitKind.FINISH_TASK:
            return f"visit at the end of task {self.task_index}"
        what = "training visit" if self.kind is VisitKind.TRAIN else "refining visit"
        return f"{what} in task {self.task_index}, round {self.round_index}"


def first_difference(before: Told, after: Told) -> str | None:
    """Return the first thing in which *after* is another course than *before*, told in words; None if they agree."""
    found = [
        difference for client in sorted({*before.visits, *after.visits}) for difference in _of(client, before, after)
    ]
    if found:
        return min(found)[2]
    if after.stopped is not None:
        return after.stopped
    for index, (one, other) in enumerate(zip_longest(map(_merge, before.merges), map(_merge, after.merges))):
        if one != other:
            return f"merge {index} would weigh its updates in another way"
    return None


def _of(client: int, before: Told, after: Told) -> Iterator[tuple[float, int, str]]:
    """Yield the first difference between a client's visits, with the time at which the earlier of them began."""
    for one, other in zip_longest(before.visits.get(client, []), after.visits.get(client, [])):
        if other is None and after.stopped is not None:
            return
        was, would = (None if visit is None else _Mark.of(*visit) for visit in (one, other))
        if after.stopped is not None and was is not None and would is not None:
            # the course ended before the merges of its last visits
            was = replace(was, merge=would.merge)
        if was != would:
            start_s = min(visit[0].start_s for visit in (one, other) if visit is not None)
            yield start_s, client, f"client {client}'s {_say(was, would)}"
            return


def _say(was: _Mark | None, would: _Mark | None) -> str:
    if would is None:
        return f"{was} would not be made"
    if was is None:
        return f"{would} would be made, and was not"
    if (was.kind, was.task_index, was.round_index) != (would.kind, would.task_index, would.round_index):
        return f"{would} would come in place of its {was}"
    if was.status != would.status:
        return f"{would} would come to the status {would.status}, and came to {was.status}"
    if was.version != would.version:
        return f"{would} would start from broadcast {would.version}, and started from {was.version}"
    if was.evicted != would.evicted:
        return f"{would} would begin with {would.evicted} past tasks evicted, and began with {was.evicted}"
    if was.when != would.when:
        return f"{would} would be made in another task"
    return f"{would} would go into {_named(would.merge)}, and went into {_named(was.merge)}"


def _named(merge: int | None) -> str:
    return "no merge" if merge is None else f"merge {merge}"


def _merge(merge: Merge) -> tuple[object, ...]:
    orders = [flight.priced.order for flight in merge.flights]
    visits = tuple((order.client_id, order.facts.task_index, order.facts.round_index) for order in orders)
    return visits, merge.coefficients, merge.keep, merge.from_base
