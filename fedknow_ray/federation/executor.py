"""The seam between control and execution: what the scheduler asks of a backend.

Orders are handed over at once and awaited when their event is due on the virtual clock. Tensors stay with the backend;
what comes back is metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.transport.payload import Buffer


@dataclass(frozen=True, slots=True)
class Saved:
    """All that a backend holds of a run: the present broadcast, and each client's state as `state_bytes` has it."""

    broadcast: Buffer
    states: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """What the next broadcast is made of; see `decisions.Merge` for the two formulas.

    *orders* of the visits whose updates go into it, in the order of the sum. Compared by value: a backend that was told
    of it beforehand knows it again.
    """

    orders: tuple[VisitOrder, ...]
    coefficients: tuple[float, ...]
    keep: float = 0.0
    from_base: bool = False

    @property
    def is_mean(self) -> bool:
        """Whether it is a plain weighted mean of the updates."""
        return self.keep == 0.0 and not self.from_base


class Executor(Protocol):
    """Makes visits and merges their updates; the broadcast of the moment is its own affair."""

    def dispatch(self, orders: Sequence[VisitOrder], merges: Sequence[MergeOrder] = ()) -> None:
        """Take visits to make from the present broadcast.

        *merges* are those to come that the visits' updates go into, where that is known: their sums can begin early.
        """

    def report(self, order: VisitOrder) -> VisitReport:
        """Wait for one visit and return its report, once. The visits of a client are asked for in their order."""

    def merge(self, merge: MergeOrder) -> None:
        """Make the next broadcast; all the visits that go into it have reported."""

    def score(self, client_ids: Sequence[int], learnt_tasks: int, *, with_global: bool) -> Iterable[Score]:
        """Return every client's scores on its first *learnt_tasks* tasks, in client order."""

    def global_parameters_sha256(self) -> str:
        """Return the digest of the present broadcast's arrays, in hexadecimal."""

    def save(self) -> Saved:
        """Return all that is held, while no visit is under way; another backend or packing can restore it."""

    def restore(self, saved: Saved) -> None:
        """Hold what was saved, of the same clients, instead of what is held now."""
