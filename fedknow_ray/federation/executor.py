"""The seam between control and execution: what the scheduler asks of a backend.

Orders are handed over at once and awaited when their event is due on the virtual clock. Tensors stay with the backend;
what comes back is metadata.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.transport.payload import Buffer


@dataclass(frozen=True, slots=True)
class SavedVisit:
    """A visit that was dispatched and has not gone into a merge: the broadcast *base* that it starts from, and its
    *update* if it has reported; without one it is still to be made."""

    order: VisitOrder
    base: Buffer
    update: Buffer | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a backend holds of a run: the present broadcast, clients' states as `state_bytes` has them, and the visits
    under way. A client without a state has made no visit; a state is that after its last visit that has reported."""

    broadcast: Buffer
    states: Mapping[int, bytes]
    visits: tuple[SavedVisit, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """What the next broadcast is made of; see `decisions.Merge` for the two formulas.

    *orders* of the visits whose updates go into it, in the order of the sum.
    """

    orders: tuple[VisitOrder, ...]
    coefficients: tuple[float, ...]
    keep: float = 0.0
    from_base: bool = False

    @property
    def tasks_seen(self) -> int:
        """How many tasks there have been so far, as far as the visits that go into it know."""
        return 1 + max(order.facts.task_index for order in self.orders)

    @property
    def is_mean(self) -> bool:
        """Whether it is a plain weighted mean of the updates."""
        return self.keep == 0.0 and not self.from_base


class Executor(Protocol):
    """Makes visits and merges their updates; the broadcast of the moment is its own affair."""

    def dispatch(self, orders: Sequence[VisitOrder]) -> None:
        """Take visits to make from the present broadcast."""

    def report(self, order: VisitOrder) -> VisitReport:
        """Wait for one visit and return its report, once. The visits of a client are asked for in their order.

        An update that the server's door refuses (`federation.door`) is let go of; the report says why.
        """

    def merge(self, merge: MergeOrder) -> None:
        """Make the next broadcast; all the visits that go into it have reported."""

    def forget(self, orders: Collection[VisitOrder] | None = None) -> None:
        """Let go of the updates of visits that go into no merge; without *orders* of all, while none is under way."""

    def score(self, client_ids: Sequence[int], learnt_tasks: int, *, with_global: bool) -> Iterable[Score]:
        """Return every client's scores on its first *learnt_tasks* tasks, in client order."""

    def global_parameters_sha256(self) -> str | None:
        """Return the digest of the present broadcast's arrays, in hexadecimal; None where no model is held."""

    def save(self, *, changes: bool = False) -> Saved:
        """Return what is held; another backend or packing can restore it.

        With *changes* only the states of clients that have changed since the last time that they were asked for so, or
        since `restore`.
        """

    def restore(self, saved: Saved) -> None:
        """Hold what was saved of the same clients, and nothing else; the visits under way are dispatched again."""
