"""Flights between their beginning and their end: links, computing, losses, in order of virtual time.

    begin -> download -> compute -> upload -> arrived              or lost: off, failed, late, out of memory

Of one moment, ends of transfers come first, in the order in which they began, then the rest in that of clients. A visit
that ends at the very moment at which its client goes off has ended. Nothing here knows of rounds or policies.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from fedknow_ray.federation.flight import Flight, Phase, Status
from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.visit import VisitOrder
from fedknow_ray.simulation.availability import AlwaysOn, Availability
from fedknow_ray.simulation.clock import EventQueue
from fedknow_ray.simulation.failures import Failures
from fedknow_ray.simulation.link import Direction
from fedknow_ray.simulation.network import Network, StreamPosition

#: After all arrivals of one moment, which have the client's id as their priority.
_LOSS, _RING = 2**31, 2**32


class OnOutOfMemory(StrEnum):
    """What comes of a visit that its device cannot hold."""

    FAIL = "fail"
    """It is lost."""
    DROP_CLIENT = "drop_client"
    """It is lost, and its client leaves for good."""
    EVICT_OLDEST_KNOWLEDGE = "evict_oldest_knowledge"
    """Its client throws away the knowledge of its oldest tasks if that helps (eviction); else it is lost."""


@dataclass(frozen=True)
class Conditions:
    """What clients live in: their links, when they are on, which visits fail, and what becomes of those that do not
    fit.

    *network* makes the links of a run whose clock stands at a time.
    """

    network: Callable[[float], Network[Flight]]
    availability: Availability = field(default_factory=AlwaysOn)
    failures: Failures = field(default_factory=lambda: Failures(seed=0))
    on_out_of_memory: OnOutOfMemory = OnOutOfMemory.FAIL


@dataclass(frozen=True, slots=True)
class Landed:
    """A flight has ended, as its status says."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Rang:
    """An alarm has come; *tag* is what it was set with."""

    tag: int


Occurrence: TypeAlias = Landed | Rang


@dataclass(frozen=True, slots=True)
class _Loss:
    flight: Flight
    status: Status


class Traffic:
    """Flights on their way, one a client, and the virtual clock.

    *measure* gives the compute seconds of a flight that has begun; without it they are the planned ones.
    """

    def __init__(
        self,
        conditions: Conditions,
        clients: Iterable[int],
        now_s: float,
        measure: Callable[[Flight], float] | None = None,
    ) -> None:
        self._conditions, self._measure = conditions, measure
        self._clock: EventQueue[Flight | _Loss | Rang] = EventQueue(now_s)
        self._network = conditions.network(now_s)
        self._now_s = now_s
        self.busy: dict[int, Flight] = {}
        """The flight of each client that has one."""
        self.idle = sorted(clients)
        """The clients that have none, ascending: kept, since a policy asks for them at every event."""

    @property
    def now_s(self) -> float:
        """The virtual time."""
        return self._now_s

    def is_on(self, client_id: int) -> bool:
        """Return whether a client is on now."""
        return self._conditions.availability.is_on(client_id, self._now_s)

    def begin(self, flight: Flight) -> None:
        """Begin a flight; one whose client is off is lost in the same moment."""
        flight.start_s = flight.phase_start_s = flight.end_s = self._now_s
        self.busy[flight.client_id] = flight
        self.retire(flight.client_id)
        if not self.is_on(flight.client_id):
            self._clock.push(self._now_s, _Loss(flight, Status.OFFLINE), priority=flight.client_id)
            return
        self._foresee_loss(flight)
        if flight.priced.download_bytes:
            self._send(flight, Direction.TO_CLIENT, flight.priced.download_bytes)
        else:
            self._clock.push(self._now_s, flight, priority=flight.client_id)

    def lose(self, flight: Flight, status: Status) -> None:
        """End a flight that brings nothing, with the seconds and bytes that it has used."""
        spent_s, on_the_link = self._now_s - flight.phase_start_s, self._network.holds(flight)
        sent_bytes = self._network.cancel(self._now_s, flight) if on_the_link else 0
        if flight.phase is Phase.DOWNLOAD:
            flight.download_s, flight.download_bytes = spent_s, min(sent_bytes, flight.priced.download_bytes)
        elif flight.phase is Phase.COMPUTE:
            flight.compute_s = spent_s
        else:
            flight.upload_s, flight.upload_bytes = spent_s, min(sent_bytes, flight.priced.upload_bytes)
        self._land(flight, status)

    def retire(self, client_id: int) -> None:
        """Take a client out of those that are idle."""
        del self.idle[bisect_left(self.idle, client_id)]

    def ring(self, at_s: float, tag: int) -> None:
        """Set an alarm."""
        self._clock.push(at_s, Rang(tag), priority=_RING)

    def undisturbed_s(self, visit: PricedVisit) -> float:
        """Return the seconds of a visit that would begin now, on a link that nobody shares."""
        position, client_id = _position(visit.order), visit.order.client_id

        def transferred_s(direction: Direction, size: int, begin_s: float) -> float:
            return self._network.terms(client_id, direction, size, position).end_s(begin_s) if size else begin_s

        computed_s = transferred_s(Direction.TO_CLIENT, visit.download_bytes, self._now_s) + visit.compute_s
        return transferred_s(Direction.TO_SERVER, visit.upload_bytes, computed_s) - self._now_s

    def next(self) -> Occurrence | None:
        """Go on to the next thing that matters, and return it; None if nothing is left to happen."""
        while (event := self._next_event()) is not None:
            if isinstance(event, Rang):
                return event
            if isinstance(event, _Loss):
                self.lose(event.flight, event.status)
                return Landed(event.flight)
            self._advance(event)
            if not event.flying:
                return Landed(event)
        return None

    def _next_event(self) -> Flight | _Loss | Rang | None:
        """Take out the first event that still means something: of one moment, transfers first."""
        while True:
            transfer = self._network.next_end()
            if transfer is not None and transfer[0] <= self._clock.next_s:
                self._now_s = transfer[0]
                return self._network.end(self._now_s)
            if not len(self._clock):
                return None
            time_s, event = self._clock.pop()
            flight = event.flight if isinstance(event, _Loss) else event
            if isinstance(flight, Rang) or flight.flying:
                self._now_s = time_s
                return event

    def _advance(self, flight: Flight) -> None:
        """Take a flight from the end of a phase into the next one."""
        priced = flight.priced
        if flight.phase is Phase.DOWNLOAD:
            flight.download_bytes = priced.download_bytes
            flight.download_s = self._transfer_s(flight, Direction.TO_CLIENT, priced.download_bytes)
            self._compute(flight)
        elif flight.phase is Phase.COMPUTE and priced.upload_bytes:
            flight.phase, flight.phase_start_s = Phase.UPLOAD, self._now_s
            self._send(flight, Direction.TO_SERVER, priced.upload_bytes)
        else:
            if flight.phase is Phase.UPLOAD:
                flight.upload_bytes = priced.upload_bytes
                flight.upload_s = self._transfer_s(flight, Direction.TO_SERVER, priced.upload_bytes)
            self._land(flight, Status.OK)

    def _compute(self, flight: Flight) -> None:
        flight.phase, flight.phase_start_s = Phase.COMPUTE, self._now_s
        if not flight.priced.fits:
            self._land(flight, Status.OUT_OF_MEMORY)
            return
        flight.compute_s = flight.priced.compute_s if self._measure is None else self._measure(flight)
        self._clock.push(self._now_s + flight.compute_s, flight, priority=flight.client_id)

    def _foresee_loss(self, flight: Flight) -> None:
        order = flight.priced.order
        facts, client_id = order.facts, flight.client_id
        off_s = self._conditions.availability.on_until(client_id, self._now_s)
        at = self._conditions.failures.fails_at(
            client_id, facts.task_index, facts.round_index, str(order.kind), flight.attempt
        )
        fails_s = math.inf if at is None else self._now_s + at * self.undisturbed_s(flight.priced)
        if min(off_s, fails_s) < math.inf:
            loss = _Loss(flight, Status.FAILED if fails_s < off_s else Status.OFFLINE)
            self._clock.push(min(off_s, fails_s), loss, priority=_LOSS + client_id)

    def _send(self, flight: Flight, direction: Direction, payload_bytes: int) -> None:
        position = _position(flight.priced.order)
        self._network.begin(self._now_s, flight, flight.client_id, direction, payload_bytes, position)

    def _transfer_s(self, flight: Flight, direction: Direction, payload_bytes: int) -> float:
        """Return the seconds of a transfer that ends now: of a link of its own as they are, free of rounding."""
        if self._network.is_shared(direction):
            return self._now_s - flight.phase_start_s
        position = _position(flight.priced.order)
        return self._network.duration_s(flight.phase_start_s, flight.client_id, direction, payload_bytes, position)

    def _land(self, flight: Flight, status: Status) -> None:
        flight.phase, flight.status, flight.end_s = Phase.DONE, status, self._now_s
        del self.busy[flight.client_id]
        insort(self.idle, flight.client_id)


def _position(order: VisitOrder) -> StreamPosition:
    return StreamPosition(order.facts.task_index, order.facts.round_index, str(order.kind))
