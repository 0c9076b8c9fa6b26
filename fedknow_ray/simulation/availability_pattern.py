"""A pattern of on-stretches, given once or repeated for ever.

The edges of the pattern are numbered: edge 2 i is where stretch i starts, edge 2 i + 1 where it ends. A repeated
pattern has an edge for every whole number, its time always computed by the same expression, so that what is said at an
edge and what is said of it agree to the last bit.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence

SHORTEST_S = 1e-3
"""No stretch may be shorter, on or off: float64 tells times 1 ms apart up to 10^12 s, which is 30,000 years."""


class Pattern:
    """On within each of *intervals_s* (start, end), off between them; repeated every *period_s*, if it is given.

    Intervals stand in order and may touch, which makes one stretch of them. *offset_s* moves the whole pattern; a
    repeated one has always been going on.

    Raises:
        ValueError: with every fault: an interval that is not finite, starts before 0 s, is backward, is shorter than
            1 ms, overlaps or nearly touches the one before it, or ends after the period.
    """

    def __init__(
        self, intervals_s: Sequence[tuple[float, float]], *, period_s: float | None = None, offset_s: float = 0.0
    ) -> None:
        faults = list(interval_faults(intervals_s, period_s))
        if faults:
            raise ValueError("; ".join(faults))
        edges_s = _edges(intervals_s, period_s)
        self._edges_s = [offset_s + edge_s for edge_s in edges_s] if period_s is None else edges_s
        self._period_s, self._offset_s = period_s, offset_s
        self._always_on = period_s is not None and self._edges_s[1] - self._edges_s[0] >= period_s

    def stretch(self, time_s: float) -> tuple[bool, float]:
        """Return whether the pattern is on at a moment, and when that changes; infinity for never."""
        if self._always_on:
            return True, math.inf
        last = self._last_edge(time_s)
        return last % 2 == 0, self._edge(last + 1)

    def _last_edge(self, time_s: float) -> int:
        """Return the number of the last edge that is not after a moment; -1 before all of them."""
        if self._period_s is None:
            return bisect_right(self._edges_s, time_s) - 1
        turn = math.floor((time_s - self._offset_s) / self._period_s)
        within_s = time_s - (self._offset_s + turn * self._period_s)
        last = turn * len(self._edges_s) + bisect_right(self._edges_s, within_s) - 1
        # rounding may have put it an edge too early or too late
        while self._edge(last) > time_s:
            last -= 1
        while self._edge(last + 1) <= time_s:
            last += 1
        return last

    def _edge(self, number: int) -> float:
        if self._period_s is not None:
            turn, position = divmod(number, len(self._edges_s))
            return (self._offset_s + turn * self._period_s) + self._edges_s[position]
        return self._edges_s[number] if number < len(self._edges_s) else math.inf


def interval_faults(intervals_s: Sequence[tuple[float, float]], period_s: float | None = None) -> Iterator[str]:
    """Yield what is wrong with the intervals of one pattern, each with the values."""
    if period_s is not None and not SHORTEST_S <= period_s < math.inf:
        yield f"the period must be finite and at least {SHORTEST_S:g} s, got {period_s} s"
        return
    if not intervals_s:
        yield "there is no interval, so it would never be on; take it out, or give one"
    before: tuple[float, float] | None = None
    for interval_s in intervals_s:
        fault = _own_fault(*interval_s, period_s) or (before and _neighbour_fault(before, interval_s))
        if fault:
            yield f"{_shown(interval_s)} {fault}"
        before = interval_s
    if period_s is not None and intervals_s:
        off_s = intervals_s[0][0] + period_s - intervals_s[-1][1]
        if 0 < off_s < SHORTEST_S:
            yield f"it is off for only {off_s:g} s between two turns of {period_s} s; at least {SHORTEST_S:g} s, or 0"


def _own_fault(start_s: float, end_s: float, period_s: float | None) -> str | None:
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        return "is not finite"
    if start_s < 0:
        return "starts before 0 s"
    if end_s < start_s:
        return "ends before it starts"
    if end_s == start_s:
        return "is empty"
    if end_s - start_s < SHORTEST_S:
        return f"is shorter than {SHORTEST_S:g} s"
    if period_s is not None and end_s > period_s:
        return f"ends after the period of {period_s} s"
    return None


def _neighbour_fault(before: tuple[float, float], interval_s: tuple[float, float]) -> str | None:
    gap_s = interval_s[0] - before[1]
    if interval_s[0] < before[0]:
        return f"starts before {_shown(before)}, which stands before it; put them in order"
    if gap_s < 0:
        return f"overlaps {_shown(before)}"
    if 0 < gap_s < SHORTEST_S:
        return (
            f"starts only {gap_s:g} s after {_shown(before)}; at least {SHORTEST_S:g} s, or make one interval of them"
        )
    return None


def _shown(interval_s: tuple[float, float]) -> str:
    return f"[{interval_s[0]}, {interval_s[1]}]"


def _edges(intervals_s: Sequence[tuple[float, float]], period_s: float | None) -> list[float]:
    """Return the starts and ends of the stretches in order; intervals that touch are one, also across the period."""
    edges_s: list[float] = []
    for start_s, end_s in intervals_s:
        if edges_s and edges_s[-1] == start_s:
            edges_s[-1] = end_s
        else:
            edges_s += [start_s, end_s]
    if period_s is not None and len(edges_s) > 2 and edges_s[0] == 0 and edges_s[-1] == period_s:
        edges_s = [*edges_s[2:-1], period_s + edges_s[1]]
    return edges_s
