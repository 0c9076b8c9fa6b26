"""Clients taken out of any availability: before they join, after they leave, and while their power is off.

Each is a set of *gaps* (from_s, to_s), in which a client is off whatever the model beneath says; to_s may be infinite.
A gap contains its start and not its end.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fedknow_ray.simulation.availability import Availability, Stretch

Gap = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Outage:
    """A loss of power: these clients are off from *from_s* until *to_s*.

    Raises:
        ValueError: if it starts before 0 s or does not end after it starts.
    """

    clients: frozenset[int]
    from_s: float
    to_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.from_s < self.to_s:
            raise ValueError(
                f"an outage must start at 0 s or later and end after that, got {self.from_s} to {self.to_s} s"
            )


class Outages(Availability):
    """Another availability, less the outages; outages of a client may overlap."""

    def __init__(self, inner: Availability, outages: Collection[Outage]) -> None:
        super().__init__()
        gaps: dict[int, list[Gap]] = {}
        for outage in outages:
            for client_id in outage.clients:
                gaps.setdefault(client_id, []).append((outage.from_s, outage.to_s))
        self._inner, self._gaps = inner, _Gaps(gaps)

    def is_member(self, client_id: int, time_s: float) -> bool:
        """Return whether the client takes part; an outage changes nothing of that."""
        return self._inner.is_member(client_id, time_s)

    def _stretch(self, client_id: int, time_s: float) -> Stretch:
        return self._gaps.stretch(self._inner, client_id, time_s)


class Membership(Availability):
    """Another availability, of clients that join and leave.

    *joins_s* and *leaves_s* have the times of those that do; others are there from the start, and for good.

    Raises:
        ValueError: if a time is negative or not finite, or a client does not leave after it joins.
    """

    def __init__(self, inner: Availability, joins_s: Mapping[int, float], leaves_s: Mapping[int, float]) -> None:
        super().__init__()
        gaps: dict[int, list[Gap]] = {}
        for client_id in sorted({*joins_s, *leaves_s}):
            joins, leaves = joins_s.get(client_id, 0.0), leaves_s.get(client_id, math.inf)
            if not 0 <= joins < leaves or leaves_s.get(client_id) == math.inf:
                raise ValueError(
                    f"client {client_id} must join at 0 s or later and leave at a time after that, "
                    f"got {joins} and {leaves} s"
                )
            gaps[client_id] = [gap for gap in ((0.0, joins), (leaves, math.inf)) if gap[0] < gap[1]]
        self._inner, self._joins_s, self._leaves_s, self._gaps = inner, joins_s, leaves_s, _Gaps(gaps)

    def is_member(self, client_id: int, time_s: float) -> bool:
        """Return whether the client has joined and not left."""
        here = self._joins_s.get(client_id, 0.0) <= time_s < self._leaves_s.get(client_id, math.inf)
        return here and self._inner.is_member(client_id, time_s)

    def _stretch(self, client_id: int, time_s: float) -> Stretch:
        return self._gaps.stretch(self._inner, client_id, time_s)


class _Gaps:
    """The gaps of each client as edges in order: edge 2 i is where gap i starts, edge 2 i + 1 where it ends."""

    def __init__(self, gaps: Mapping[int, Sequence[Gap]]) -> None:
        self._edges_s = {client_id: _merged(of_client) for client_id, of_client in gaps.items() if of_client}

    def stretch(self, inner: Availability, client_id: int, time_s: float) -> Stretch:
        """Return the stretch of the inner availability with the gaps cut out."""
        edges_s = self._edges_s.get(client_id)
        if edges_s is None:
            return inner.stretch(client_id, time_s)
        in_gap, change_s = _around(edges_s, time_s)
        if not in_gap:
            on, until_s = inner.stretch(client_id, time_s)
            if on:
                return Stretch(True, min(until_s, change_s))
            change_s = until_s
        return Stretch(False, _back_on(edges_s, inner, client_id, change_s))


def _merged(gaps: Sequence[Gap]) -> list[float]:
    edges_s: list[float] = []
    for from_s, to_s in sorted(gaps):
        if edges_s and from_s <= edges_s[-1]:
            edges_s[-1] = max(edges_s[-1], to_s)
        else:
            edges_s += [from_s, to_s]
    return edges_s


def _around(edges_s: Sequence[float], time_s: float) -> tuple[bool, float]:
    """Return whether a moment lies in a gap, and the next edge."""
    past = bisect_right(edges_s, time_s)
    return past % 2 == 1, edges_s[past] if past < len(edges_s) else math.inf


def _back_on(edges_s: Sequence[float], inner: Availability, client_id: int, time_s: float) -> float:
    """Return the earliest time from *time_s* on at which the client is on and in no gap.

    Ends, because each turn leaves a gap for good or finds the inner availability on.
    """
    while time_s < math.inf:
        in_gap, change_s = _around(edges_s, time_s)
        if in_gap:
            time_s = change_s
            continue
        on, until_s = inner.stretch(client_id, time_s)
        if on:
            return time_s
        time_s = until_s
    return math.inf
