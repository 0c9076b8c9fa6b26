"""One link shared max-min fairly: nobody can be given more without taking it from somebody who has no more than that.

    rate of a transfer = min(its own cap, level),   level so that the rates add up to the capacity,
                         or no limit where the caps add up to less

The model is fluid: between events each transfer runs at a constant rate. Rates change when a transfer becomes active,
ends or is cancelled, and when a trace steps.

Transfers with the same cap always have the same rate, so they form a *group* with one count of the bytes that each of
them has been served. A transfer that joins at count s with b bytes to go is done at count s + b, whatever the rates do.
An event so costs O(G) on arrays and O(log n) beside it, and equal transfers end at the same moment, to the bit.

Shapes: G groups, one for each rate or trace that caps somebody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import TypeAlias

from fedknow_ray.simulation.trace import BandwidthTrace

Source: TypeAlias = float | BandwidthTrace
"""What caps a transfer: the rate of its own link in bytes/s, or a trace of it."""


def water_level(capacity: float, caps: Sequence[tuple[float, int]]) -> float:
    """Return the rate above which nobody gets any; infinity if all get their caps.

    *caps* are (cap, how many have it), ascending.

    >>> water_level(10.0, [(1.0, 1), (8.0, 2)])
    4.5
    """
    left, count = capacity, sum([many for _, many in caps])
    for cap, many in caps:
        if cap * count > left:
            return left / count
        left -= cap * many
        count -= many
    return math.inf


@dataclass(slots=True)
class _Group:
    """Active transfers with one source. *ends* is a heap of (count at the end, sequence); a living one is its head."""

    source: Source
    cap: float
    next_step_s: float
    count: int = 0
    served_bytes: float = 0.0
    rate: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)

    def sketch(self) -> _Group:
        """Return a copy that knows of the first end alone."""
        return _Group(self.source, self.cap, self.next_step_s, self.count, self.served_bytes, 0.0, self.ends[:1])


class _Fluid:
    """The groups at one moment, those that wait for their latency to pass, and how they go on.

    *waiting* is a heap of (time from which it is active, sequence, bytes, source).
    """

    def __init__(self, capacity: float, now_s: float) -> None:
        self.capacity, self.now_s = capacity, now_s
        self.groups: dict[Source, _Group] = {}
        self.waiting: list[tuple[float, int, float, Source]] = []
        self._by_cap: list[_Group] | None = None
        """None where caps or counts have changed since, so that the rates are old."""
        self._next_end: tuple[float, int, _Group | None] | None = None
        self._next_step_s: float | None = None

    def sketch(self) -> _Fluid:
        """Return a copy that goes on in the same way, to the bit, until the first end."""
        copy = _Fluid(self.capacity, self.now_s)
        copy.groups = {source: group.sketch() for source, group in self.groups.items()}
        copy.waiting = list(self.waiting)
        return copy

    def regroup(self) -> None:
        """Have all rates worked out anew before time goes on: caps or counts have changed."""
        self._by_cap = self._next_end = self._next_step_s = None

    def rated(self) -> list[_Group]:
        """Return the groups, the lowest cap first, with their rates of this moment."""
        if self._by_cap is None:
            self._by_cap = sorted(self.groups.values(), key=attrgetter("cap"))
            level = water_level(self.capacity, [(group.cap, group.count) for group in self._by_cap])
            for group in self._by_cap:
                group.rate = group.cap if group.cap < level else level
        return self._by_cap

    def next_end(self) -> tuple[float, int, _Group | None]:
        """Return (time, sequence, group) of the first end if nothing else happens; infinity if there is none."""
        if self._next_end is None:
            first_s, first_sequence, first_group = math.inf, -1, None
            now_s = self.now_s
            for group in self.rated():
                if not group.rate:
                    continue
                end, sequence = group.ends[0]
                end_s = now_s + (end - group.served_bytes) / group.rate
                if end_s < first_s or (end_s == first_s and sequence < first_sequence):
                    first_s, first_sequence, first_group = end_s, sequence, group
            # A count that was rounded up may lie past an end, by less than a byte.
            self._next_end = (max(first_s, now_s), first_sequence, first_group)
        return self._next_end

    def next_change_s(self) -> float:
        """Return when the next transfer becomes active or the next trace steps; infinity if never."""
        if self._next_step_s is None:
            self._next_step_s = min([group.next_step_s for group in self.groups.values()], default=math.inf)
        return min(self._next_step_s, self.waiting[0][0]) if self.waiting else self._next_step_s

    def serve(self, until_s: float) -> None:
        """Let time go on to a moment before which nothing happens."""
        duration_s = until_s - self.now_s
        if duration_s > 0:
            for group in self.rated():
                group.served_bytes += group.rate * duration_s
            self.now_s = until_s
            self._next_end = None

    def change(self) -> list[tuple[int, _Group, float]]:
        """Take the steps of this moment; return (sequence, group, count at the end) of those that become active."""
        for group in self.groups.values():
            if group.next_step_s <= self.now_s:
                group.cap, group.next_step_s = self._cap(group.source)
        joined = []
        while self.waiting and self.waiting[0][0] <= self.now_s:
            _, sequence, size_bytes, source = heappop(self.waiting)
            if source not in self.groups:
                self.groups[source] = _Group(source, *self._cap(source))
            group = self.groups[source]
            end = group.served_bytes + size_bytes
            group.count += 1
            heappush(group.ends, (end, sequence))
            joined.append((sequence, group, end))
        self.regroup()
        return joined

    def _cap(self, source: Source) -> tuple[float, float]:
        """Return (what a source allows now, when that changes)."""
        if isinstance(source, BandwidthTrace):
            return source.rate_at(self.now_s), source.next_step_s(self.now_s)
        return source, math.inf


class FairShare:
    """Transfers under way on one shared link; each is known by its *sequence*, the order in which they began."""

    def __init__(self, capacity_bytes_per_s: float, now_s: float = 0.0) -> None:
        self._fluid = _Fluid(capacity_bytes_per_s, now_s)
        self._active: dict[int, tuple[_Group, float]] = {}
        self._done: list[tuple[float, int]] = []
        self._first: tuple[float, int] | None = None
        self._settled = False
        """Whether nothing more happens at the moment at which the fluid stands."""

    def begin(self, now_s: float, sequence: int, active_s: float, size_bytes: float, source: Source) -> None:
        """Add a transfer of more than 0 bytes that takes part in the sharing from *active_s* on."""
        self.advance(now_s)
        heappush(self._fluid.waiting, (active_s, sequence, size_bytes, source))
        self._first, self._settled = None, False

    def first_end(self) -> tuple[float, int] | None:
        """Return (end, sequence) of the transfer that ends first if none is added; the same until one is."""
        if self._done:
            return self._done[0]
        if self._first is None and (self._active or self._fluid.waiting):
            self._first = self._foresee()
        return self._first

    def end(self, now_s: float, sequence: int) -> None:
        """Take out the transfer that `first_end` names, at its end."""
        self.advance(now_s)
        self._drop_done(sequence)

    def cancel(self, now_s: float, sequence: int) -> float:
        """Take out a transfer wherever it stands; return the bytes that it had still to go."""
        self.advance(now_s)
        self._first = None
        if sequence in self._active:
            group, end = self._active.pop(sequence)
            self._leave(group)
            return max(0.0, end - group.served_bytes)
        waiting = [entry for entry in self._fluid.waiting if entry[1] == sequence]
        if not waiting:
            self._drop_done(sequence)
            return 0.0
        self._fluid.waiting.remove(waiting[0])
        heapify(self._fluid.waiting)
        return waiting[0][2]

    def rates(self, now_s: float) -> dict[int, float]:
        """Return the rate in bytes/s of each transfer that is active just after a moment, in no order."""
        self.advance(now_s)
        self._fluid.rated()
        return {sequence: group.rate for sequence, (group, _) in self._active.items()}

    def advance(self, now_s: float) -> float:
        """Go through all that happens up to a moment, ends before changes of the same moment.

        Returns the earliest end that has been reached and not taken out, or infinity.
        """
        if self._settled and now_s == self._fluid.now_s:
            return self._done[0][0] if self._done else math.inf
        fluid, self._first = self._fluid, None
        while True:
            end_s, _, group = fluid.next_end()
            change_s = fluid.next_change_s()
            if group is not None and end_s <= change_s and end_s <= now_s:
                fluid.serve(end_s)
                self._finish(group, end_s)
            elif change_s <= now_s:
                fluid.serve(change_s)
                self._active.update({sequence: (joined, end) for sequence, joined, end in fluid.change()})
            else:
                fluid.serve(now_s)
                self._settled = True
                return self._done[0][0] if self._done else math.inf

    def _foresee(self) -> tuple[float, int]:
        """Return the first end, with all that happens before it: on a copy, since a transfer may yet be added."""
        fluid = self._fluid
        end_s, sequence, _ = fluid.next_end()
        change_s = fluid.next_change_s()
        while end_s > change_s:
            fluid = fluid.sketch() if fluid is self._fluid else fluid
            fluid.serve(change_s)
            fluid.change()
            end_s, sequence, _ = fluid.next_end()
            change_s = fluid.next_change_s()
        return end_s, sequence

    def _finish(self, group: _Group, end_s: float) -> None:
        """Move those of a group that are done from the active ones; the count is put right where it was rounded."""
        group.served_bytes = max(group.served_bytes, group.ends[0][0])
        while group.ends and group.ends[0][0] <= group.served_bytes:
            sequence = group.ends[0][1]
            del self._active[sequence]
            heappush(self._done, (end_s, sequence))
            self._leave(group)

    def _leave(self, group: _Group) -> None:
        """Keep the group in order when one of its transfers is active no longer; an empty group is forgotten."""
        group.count -= 1
        while group.ends and group.ends[0][1] not in self._active:
            heappop(group.ends)
        if not group.count:
            del self._fluid.groups[group.source]
        self._fluid.regroup()

    def _drop_done(self, sequence: int) -> None:
        self._done = [entry for entry in self._done if entry[1] != sequence]
        heapify(self._done)
