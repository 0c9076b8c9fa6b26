"""`on_out_of_memory: evict_oldest_knowledge`: a client forgets its oldest past tasks until a visit fits its device.

Tasks are thrown away one after another, oldest first, and no more of them than it takes. Where a visit would not fit
with none left either, nothing is thrown away, and the visit is lost as it is with `fail`.

A client makes room when its visit begins, before it downloads, and if it is on. What is gone stays gone, whatever
becomes of that visit. Nothing needs to be told to the client beside its orders: the facts of each one say how many
tasks are evicted, and the visit that is made of it drops what the client still holds of them. Throwing away takes no
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.ledger import PricedVisit, Prices
from fedknow_ray.federation.steps import Happened
from fedknow_ray.federation.visit import VisitKind, VisitOrder


@dataclass(frozen=True, slots=True)
class Evicted:
    """How many of its oldest past tasks a client has thrown away, and how many when it last came to train."""

    tasks: int
    at_training: int = 0

    def newly(self, kind: str, *, trained: bool) -> int:
        """Return `VisitFacts.newly_evicted` of a visit of a client that has or has not trained in the task."""
        return self.tasks - self.at_training if trained and kind == VisitKind.TRAIN else 0

    def order(self, order: VisitOrder) -> VisitOrder:
        """Return an order of a visit that begins with so many tasks evicted."""
        newly = self.newly(order.kind, trained=order.facts.trained_this_task)
        return replace(order, facts=replace(order.facts, evicted_tasks=self.tasks, newly_evicted=newly))


class Evictions:
    """What each client has thrown away, by the visits that begin; *clients* is what there was before.

    Without *evicting*, or with a method that cannot evict, nobody throws anything away.
    """

    def __init__(self, prices: Prices, clients: Mapping[int, Evicted], *, evicting: bool) -> None:
        self._prices, self._clients = prices, dict(clients)
        self._evicting = evicting and prices.method.evicts

    @property
    def clients(self) -> dict[int, Evicted]:
        """What each client has thrown away, if anything."""
        return dict(self._clients)

    def of(self, client_id: int) -> Evicted:
        """Return what a client has thrown away by now."""
        return self._clients.get(client_id, Evicted(0))

    def as_it_is(self, order: VisitOrder) -> VisitOrder:
        """Return an order of a visit with what its client has thrown away by now."""
        # a run may begin with clients that know nothing of its past tasks, and have them evict no others
        return self.of(order.client_id).order(order) if self._evicting or order.client_id in self._clients else order

    def foreseen(self, visit: PricedVisit) -> PricedVisit:
        """Return a visit as it would be if it began now."""
        return self._fitted(visit)[0]

    def begin(self, flight: Flight, now_s: float, is_on: Callable[[int], bool]) -> Happened | None:
        """Price a flight that begins as its client is now, and if it is on have it make room; say so if it did."""
        if not self._evicting:
            return None
        self.reprice(flight)
        if flight.priced.fits or not is_on(flight.client_id):
            return None
        before = self.of(flight.client_id)
        visit, tried_bytes = self._fitted(flight.priced)
        evicted_tasks = visit.order.facts.evicted_tasks
        if evicted_tasks == before.tasks:
            return None
        flight.priced = visit
        self._clients[flight.client_id] = replace(before, tasks=evicted_tasks)
        detail = {
            **visit.order.indices,
            "evicted_tasks": evicted_tasks,
            "tried_bytes": tried_bytes,
            "peak_memory_bytes": visit.plan.peak_memory_bytes,
            "device_memory_bytes": visit.device.memory_bytes,
        }
        return Happened(now_s, "knowledge_evicted", flight.client_id, detail)

    def reprice(self, flight: Flight) -> None:
        """Price a flight that was priced a while ago as its client is now."""
        order = self.as_it_is(flight.priced.order)
        if order != flight.priced.order:
            flight.priced = self._prices.price(order)

    def trained(self, client_id: int) -> None:
        """Note that a training visit has come to its end: its client has prepared itself for what it remembers."""
        if client_id in self._clients:
            evicted = self._clients[client_id]
            self._clients[client_id] = replace(evicted, at_training=evicted.tasks)

    def tried(self, visit: PricedVisit) -> dict[str, object]:
        """Return what the table of events has further of a visit that did not fit: what it takes as it is, and with
        each further task evicted."""
        if not self._evicting:
            return {}
        return {"evicted_tasks": visit.order.facts.evicted_tasks, "tried_bytes": self._fitted(visit)[1]}

    def _fitted(self, visit: PricedVisit) -> tuple[PricedVisit, list[int]]:
        """Return a visit with the fewest tasks evicted with which it fits, else as it is, and the bytes of those that
        do not fit before it, in order."""
        tried_bytes: list[int] = []
        for fewer in self._forgetting(visit) if self._evicting else [visit]:
            if fewer.fits:
                return fewer, tried_bytes
            tried_bytes.append(fewer.plan.peak_memory_bytes)
        return visit, tried_bytes

    def _forgetting(self, visit: PricedVisit) -> Iterator[PricedVisit]:
        """Yield a visit as it is, then with one past task fewer each."""
        yield visit
        order = visit.order
        before = self.of(order.client_id)
        for tasks in range(order.facts.evicted_tasks + 1, order.facts.task_index + 1):
            yield self._prices.price(replace(before, tasks=tasks).order(order))
