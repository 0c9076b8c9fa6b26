"""Which visits fail half way, and where: drawn for each visit by itself, or scheduled.

A visit that fails at the fraction 0.3 ends after 0.3 of its planned duration, and what it did until then is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedknow_ray.seeding import stream


@dataclass(frozen=True, slots=True)
class ScheduledFailure:
    """One visit that fails, at the fraction *at* of its duration; *kind* as the visit's order has it.

    Raises:
        ValueError: if *at* does not lie between 0 and 1.
    """

    client_id: int
    task_index: int
    round_index: int
    kind: str
    at: float

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise ValueError(f"a visit fails at a fraction between 0 and 1 of its duration, got {self.at}")


class Failures:
    """Says of each visit whether it fails: as scheduled, else with *probability*.

    Each visit has two draws from a stream of its own, whether it fails and where. So a greater probability keeps the
    failures of a smaller one, each at the same place, and adds others. A visit that is made again, with the same
    indices, must be counted by *attempt*, or it would fail for ever; a scheduled failure is that of attempt 0.

    Raises:
        ValueError: if the probability does not lie in [0, 1], or one visit is scheduled twice.
    """

    def __init__(self, *, probability: float = 0.0, schedule: Sequence[ScheduledFailure] = (), seed: int) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"the probability of a failure must lie in [0, 1], got {probability}")
        self._probability, self._seed = probability, seed
        self._schedule = {(f.client_id, f.task_index, f.round_index, f.kind): f.at for f in schedule}
        if len(self._schedule) < len(schedule):
            raise ValueError("a visit is scheduled to fail twice; a visit fails once")

    @property
    def any(self) -> bool:
        """Whether a visit can fail at all."""
        return self._probability > 0 or bool(self._schedule)

    def fails_at(self, client_id: int, task_index: int, round_index: int, kind: str, attempt: int = 0) -> float | None:
        """Return the fraction of its duration, in (0, 1), at which a visit fails; None if it does not."""
        if attempt == 0 and (scheduled := self._schedule.get((client_id, task_index, round_index, kind))) is not None:
            return scheduled
        if self._probability == 0:
            return None
        purpose = f"failure/{kind}" if attempt == 0 else f"failure/{kind}/attempt={attempt}"
        rng = stream(self._seed, purpose, client=client_id, task=task_index, round_index=round_index)
        fails = rng.random() < self._probability
        # random() may be 0; a whole number from 1 on may not
        return int(rng.integers(1, 2**53)) / 2**53 if fails else None
