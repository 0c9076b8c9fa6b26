"""The virtual clock: a queue of events in a total order, so that the same run happens in the same order everywhere.

Events are ordered by (time_s, priority, sequence): among events of one moment the lower priority comes first, and
among those the one that was pushed first. A priority is a number, or a tuple of them, the same kind for all events of a
queue. The clock stands at the event that was popped last.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Any, Generic, TypeAlias, TypeVar

E = TypeVar("E")

Priority: TypeAlias = float | tuple[float, ...]


class EventQueue(Generic[E]):
    """Events to come, and the virtual time that has been reached; *now_s* is where the clock begins.

    >>> queue = EventQueue[str]()
    >>> queue.push(2.0, "upload done"), queue.push(1.0, "compute done")
    (0, 1)
    >>> queue.pop(), queue.now_s
    ((1.0, 'compute done'), 1.0)
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self._heap: list[tuple[float, Any, int, E]] = []
        self._sequence = 0
        self._now_s = now_s
        self.last_priority: Any = None
        """The priority of the event that was popped last; None before the first."""

    @property
    def now_s(self) -> float:
        """Virtual seconds since the start of the run."""
        return self._now_s

    @property
    def next_s(self) -> float:
        """The time of the next event; infinity if none is left."""
        return self._heap[0][0] if self._heap else math.inf

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, time_s: float, event: E, priority: Priority = 0) -> int:
        """Schedule an event and return its sequence number, which is unique: events are never compared.

        Raises:
            ValueError: if the time is not finite, or lies before `now_s`.
        """
        if not math.isfinite(time_s):
            raise ValueError(f"an event needs a finite time, got {time_s} s")
        if time_s < self._now_s:
            raise ValueError(f"an event at {time_s} s lies in the past: the clock stands at {self._now_s} s")
        sequence = self._sequence
        self._sequence += 1
        heappush(self._heap, (time_s, priority, sequence, event))
        return sequence

    def pop(self) -> tuple[float, E]:
        """Remove the next event, advance the clock to it, and return (time_s, event).

        Raises:
            IndexError: if no event is left.
        """
        if not self._heap:
            raise IndexError(f"no event is left at {self._now_s} s")
        self._now_s, self.last_priority, _, event = heappop(self._heap)
        return self._now_s, event

    def is_past(self, time_s: float, priority: Priority) -> bool:
        """Return whether the clock has gone by a place in the order: an event there would have been popped before."""
        return self.last_priority is not None and (time_s, priority) < (self._now_s, self.last_priority)
