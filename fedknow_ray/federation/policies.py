"""Who visits in a round. Pure decisions from a seed; no input or output.

Synchronous: a cohort of fixed size is drawn for each round, and the round ends when its last client has uploaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedknow_ray.seeding import stream


class Synchronous:
    """Draws each round's cohort without replacement, or takes it from a given list, used again from its start.

    *clients* there are, *cohort_size* of them visit in each round.
    """

    def __init__(
        self, *, clients: int, cohort_size: int, seed: int, cohorts: Sequence[Sequence[int]] | None = None
    ) -> None:
        self._clients, self._size, self._seed, self._cohorts = clients, cohort_size, seed, cohorts

    def cohort(self, task_index: int, round_index: int, rounds_per_task: int) -> tuple[int, ...]:
        """Return the clients of one round, in client order."""
        if self._cohorts is not None:
            turn = task_index * rounds_per_task + round_index
            return tuple(sorted(self._cohorts[turn % len(self._cohorts)]))
        if self._size == self._clients:
            return tuple(range(self._clients))
        rng = stream(self._seed, "cohort", task=task_index, round_index=round_index)
        return tuple(sorted(int(c) for c in rng.choice(self._clients, size=self._size, replace=False)))
