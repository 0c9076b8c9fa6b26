"""Who is picked for a round, or for a slot that has become free. Pure decisions from a seed; no input or output.

Every draw is from the stream "cohort" of the turn's task and round, over client ids in ascending order, so it depends
neither on workers nor on the order of calls. Two picks of one turn would be drawn alike: give each a turn of its own
(for free slots, the number of the visit within the task in place of the round).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

import numpy as np

from fedknow_ray.errors import UnknownNameError
from fedknow_ray.seeding import stream
from fedknow_ray.simulation.availability import Availability


@dataclass(frozen=True, slots=True)
class Turn:
    """What is known when clients are picked.

    *free* the clients that make no visit now, in ascending order; *planned_s* the duration of a client's next visit,
    None where it is not known; *last_visit_s* when a client's last visit ended, absent before its first.
    """

    task_index: int
    round_index: int
    time_s: float
    free: Sequence[int]
    planned_s: Callable[[int], float] | None = None
    last_visit_s: Mapping[int, float] = field(default_factory=dict)


class Selection(ABC):
    """Picks clients out of those that are free."""

    def __init__(self, *, availability: Availability, seed: int) -> None:
        self._availability, self._seed = availability, seed

    @abstractmethod
    def pick(self, turn: Turn, count: int) -> tuple[int, ...]:
        """Return *count* clients in ascending order; fewer, or none, where there are not as many to pick from."""

    def _rng(self, turn: Turn) -> np.random.Generator:
        return stream(self._seed, "cohort", task=turn.task_index, round_index=turn.round_index)

    def _draw(self, candidates: Sequence[int], turn: Turn, count: int) -> tuple[int, ...]:
        """Return *count* of the candidates, uniformly without replacement, in ascending order."""
        if count >= len(candidates):
            return tuple(candidates)
        rng = self._rng(turn)
        if count == 1:
            # what choice would draw, for a sixth of the time: one number, below how many there are
            return (candidates[int(rng.integers(len(candidates)))],)
        picked = rng.choice(len(candidates), size=count, replace=False).tolist()
        return tuple(sorted(candidates[position] for position in picked))


class Uniform(Selection):
    """Uniform among all that take part, on or off: a server that does not know who is on. Who is off does not come."""

    def pick(self, turn: Turn, count: int) -> tuple[int, ...]:
        """Return clients that have joined and not left; some of them may be off."""
        return self._draw(self._availability.members_at(turn.free, turn.time_s), turn, count)


class Available(Selection):
    """Uniform among those that are on now.

    Where the duration of the visits is known, only among those that stay on for all of it, if there is any: the end of
    a client's stretch is taken as known, the best that a server could do with a forecast.
    """

    def pick(self, turn: Turn, count: int) -> tuple[int, ...]:
        """Return clients that are on."""
        staying: Sequence[int] = ()
        if turn.planned_s is not None:
            staying = self._availability.on_throughout(turn.free, turn.time_s, turn.planned_s)
        return self._draw(staying or self._availability.on_at(turn.free, turn.time_s), turn, count)


class LongestWaiting(Selection):
    """Among those that are on now, who has waited longest since the last visit; who had none yet comes first.

    Ties are broken by a seeded draw.
    """

    def pick(self, turn: Turn, count: int) -> tuple[int, ...]:
        """Return clients that are on."""
        on = self._availability.on_at(turn.free, turn.time_s)
        if count >= len(on):
            return tuple(on)
        lots = self._rng(turn).permutation(len(on)).tolist()
        last_s = [turn.last_visit_s.get(c, -math.inf) for c in on]
        return tuple(sorted(client_id for _, _, client_id in nsmallest(count, zip(last_s, lots, on, strict=True))))


SELECTIONS: dict[str, type[Selection]] = {
    "uniform": Uniform,
    "available": Available,
    "longest_waiting": LongestWaiting,
}


def make_selection(name: str, *, availability: Availability, seed: int) -> Selection:
    """Return the selection of a name.

    Raises:
        UnknownNameError: if there is none.
    """
    if name not in SELECTIONS:
        raise UnknownNameError("client selection", name, SELECTIONS)
    return SELECTIONS[name](availability=availability, seed=seed)
