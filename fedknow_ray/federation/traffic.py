"""Flights between their beginning and their end: links, computing, losses, in order of virtual time.

    begin -> download -> compute -> upload -> arrived              or lost: off, failed, late, out of memory

Of one moment, ends of transfers come first, in the order in which they began, then the rest in that of clients: ends of
computing, then losses, then alarms. A visit that ends at the very moment at which its client goes off has ended.
Nothing here knows of rounds or policies.

Where no link is shared and no seconds are measured, a visit's whole way is known as soon as it begins, and only its end
is an event; what it had reached is worked out if it is lost. Course and order are the same as with an event for each
phase, to the bit: an end has a *place* among all that happens in its moment, and what comes before it has happened.
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
from fedknow_ray.federation.way import Way, foresee, position_of
from fedknow_ray.simulation.availability import AlwaysOn, Availability
from fedknow_ray.simulation.clock import EventQueue
from fedknow_ray.simulation.failures import Failures
from fedknow_ray.simulation.link import Direction
from fedknow_ray.simulation.network import Network

#: A place begins with one of these. Those of transfers go on with when they began, and the place of the event in which
#: they did; the others with the client.
_TRANSFER, _COMPUTED, _LOSS, _RING = range(4)
_Place: TypeAlias = tuple[float, ...]


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
class Rang:
    """An alarm has come; *tag* is what it was set with."""

    tag: int


Occurrence: TypeAlias = Flight | Rang
"""A flight has ended, as its status says; or an alarm has come."""


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
        self._foreseen = measure is None and self._network.is_private
        self._ways: dict[Flight, tuple[Way, _Place]] = {}
        """With all known from the beginning, the ways of the flights that are on theirs, and the places of the events
        in which they began."""
        self._fail = conditions.failures.any
        self.now_s = now_s
        """The virtual time."""
        self.busy: dict[int, Flight] = {}
        """The flight of each client that has one."""
        self.idle = sorted(clients)
        """The clients that have none, ascending: kept, since a policy asks for them at every event."""

    def is_on(self, client_id: int) -> bool:
        """Return whether a client is on now."""
        return self._conditions.availability.is_on(client_id, self.now_s)

    def begin(self, flight: Flight) -> None:
        """Begin a flight; one whose client is off is lost in the same moment."""
        client_id, now_s = flight.client_id, self.now_s
        flight.start_s = flight.phase_start_s = flight.end_s = now_s
        self.busy[client_id] = flight
        self.retire(client_id)
        on, until_s = self._conditions.availability.stretch(client_id, now_s)
        if not on:
            self._clock.push(now_s, _Loss(flight, Status.OFFLINE), (_COMPUTED, client_id))
            return
        way = self._go(flight) if self._foreseen else None
        if until_s < math.inf or self._fail:
            self._foresee_loss(flight, until_s, way)
        if way is not None:
            return
        if flight.priced.download_bytes:
            self._send(flight, Direction.TO_CLIENT, flight.priced.download_bytes)
        else:
            self._clock.push(now_s, flight, (_COMPUTED, client_id))

    def lose(self, flight: Flight, status: Status) -> None:
        """End a flight that brings nothing, with the seconds and bytes that it has used."""
        if self._foreseen:
            self._catch_up(flight)
        spent_s, sent_bytes = self.now_s - flight.phase_start_s, self._sent_bytes(flight)
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
        self._clock.push(at_s, Rang(tag), (_RING,))

    def undisturbed_s(self, visit: PricedVisit) -> float:
        """Return the seconds of a visit that would begin now, on a link that nobody shares."""
        return foresee(self._network, visit, self.now_s).end_s - self.now_s

    def next(self) -> Occurrence | None:
        """Go on to the next thing that matters, and return it; None if nothing is left to happen."""
        while (event := self._next_event()) is not None:
            if isinstance(event, Rang):
                return event
            if isinstance(event, _Loss):
                self.lose(event.flight, event.status)
                return event.flight
            if self._foreseen:
                self._arrive(event)
                return event
            self._advance(event)
            if not event.flying:
                return event
        return None

    def _next_event(self) -> Flight | _Loss | Rang | None:
        """Take out the first event that still means something: of one moment, transfers first."""
        while True:
            transfer = None if self._foreseen else self._network.next_end()
            if transfer is not None and transfer[0] <= self._clock.next_s:
                self.now_s = transfer[0]
                return self._network.end(self.now_s)
            try:
                time_s, event = self._clock.pop()
            except IndexError:
                return None
            flight = event.flight if isinstance(event, _Loss) else event
            if isinstance(flight, Rang) or flight.phase is not Phase.DONE:
                self.now_s = time_s
                return event

    def _advance(self, flight: Flight) -> None:
        """Take a flight from the end of a phase into the next one."""
        priced = flight.priced
        if flight.phase is Phase.DOWNLOAD:
            flight.download_bytes = priced.download_bytes
            flight.download_s = self._transfer_s(flight, Direction.TO_CLIENT, priced.download_bytes)
            self._compute(flight)
        elif flight.phase is Phase.COMPUTE and priced.upload_bytes:
            flight.phase, flight.phase_start_s = Phase.UPLOAD, self.now_s
            self._send(flight, Direction.TO_SERVER, priced.upload_bytes)
        else:
            if flight.phase is Phase.UPLOAD:
                flight.upload_bytes = priced.upload_bytes
                flight.upload_s = self._transfer_s(flight, Direction.TO_SERVER, priced.upload_bytes)
            self._land(flight, Status.OK)

    def _compute(self, flight: Flight) -> None:
        flight.phase, flight.phase_start_s = Phase.COMPUTE, self.now_s
        if not flight.priced.fits:
            self._land(flight, Status.OUT_OF_MEMORY)
            return
        flight.compute_s = flight.priced.compute_s if self._measure is None else self._measure(flight)
        self._clock.push(self.now_s + flight.compute_s, flight, (_COMPUTED, flight.client_id))

    def _foresee_loss(self, flight: Flight, off_s: float, way: Way | None) -> None:
        order = flight.priced.order
        facts = order.facts
        at = self._conditions.failures.fails_at(
            facts.client_id, facts.task_index, facts.round_index, order.kind, flight.attempt
        )
        fails_s = math.inf
        if at is not None:
            alone_s = self.undisturbed_s(flight.priced) if way is None else way.end_s - self.now_s
            fails_s = self.now_s + at * alone_s
        if off_s < math.inf or fails_s < math.inf:
            loss = _Loss(flight, Status.FAILED if fails_s < off_s else Status.OFFLINE)
            self._clock.push(min(off_s, fails_s), loss, (_LOSS, flight.client_id))

    def _send(self, flight: Flight, direction: Direction, payload_bytes: int) -> None:
        position = position_of(flight.priced.order)
        self._network.begin(self.now_s, flight, flight.client_id, direction, payload_bytes, position)

    def _transfer_s(self, flight: Flight, direction: Direction, payload_bytes: int) -> float:
        """Return the seconds of a transfer that ends now: of a link of its own as they are, free of rounding."""
        if self._network.is_shared(direction):
            return self.now_s - flight.phase_start_s
        position = position_of(flight.priced.order)
        return self._network.duration_s(flight.phase_start_s, flight.client_id, direction, payload_bytes, position)

    def _land(self, flight: Flight, status: Status) -> None:
        flight.phase, flight.status, flight.end_s = Phase.DONE, status, self.now_s
        del self.busy[flight.client_id]
        insort(self.idle, flight.client_id)

    # With all known from the beginning.

    def _go(self, flight: Flight) -> Way:
        """Foresee a flight to its end, which alone is an event."""
        visit, client_id = flight.priced, flight.client_id
        way = foresee(self._network, visit, self.now_s)
        begun_in = self._clock.last_priority or ()
        self._ways[flight] = way, begun_in
        if not flight.priced.fits:
            self._clock.push(way.download_end_s, flight, _downloaded(flight, begun_in))
        elif visit.upload_bytes:
            self._clock.push(way.end_s, flight, (_TRANSFER, way.compute_end_s, _COMPUTED, client_id))
        else:
            self._clock.push(way.end_s, flight, (_COMPUTED, client_id))
        return way

    def _arrive(self, flight: Flight) -> None:
        """End a flight to which nothing has happened."""
        visit, (way, _) = flight.priced, self._ways.pop(flight)
        flight.download_s, flight.download_bytes = way.download_s, visit.download_bytes
        if not flight.priced.fits:
            self._land(flight, Status.OUT_OF_MEMORY)
            return
        flight.compute_s = visit.compute_s
        flight.upload_s, flight.upload_bytes = way.upload_s, visit.upload_bytes
        self._land(flight, Status.OK)

    def _catch_up(self, flight: Flight) -> None:
        """Bring a flight into the phase in which it stands: past all ends of phases that came before this event."""
        if flight not in self._ways:
            return
        visit, (way, begun_in) = flight.priced, self._ways.pop(flight)
        if not self._clock.is_past(way.download_end_s, _downloaded(flight, begun_in)):
            return
        flight.download_s, flight.download_bytes = way.download_s, visit.download_bytes
        flight.phase, flight.phase_start_s = Phase.COMPUTE, way.download_end_s
        if self._clock.is_past(way.compute_end_s, (_COMPUTED, flight.client_id)):
            flight.compute_s = visit.compute_s
            flight.phase, flight.phase_start_s = Phase.UPLOAD, way.compute_end_s

    def _sent_bytes(self, flight: Flight) -> int:
        """Return the bytes that have gone of the transfer in which a flight stands, which ends with it."""
        if not self._foreseen:
            return self._network.cancel(self.now_s, flight) if self._network.holds(flight) else 0
        if flight.phase is Phase.COMPUTE:
            return 0
        down = flight.phase is Phase.DOWNLOAD
        size = flight.priced.download_bytes if down else flight.priced.upload_bytes
        direction = Direction.TO_CLIENT if down else Direction.TO_SERVER
        terms = self._network.terms(flight.client_id, direction, size, position_of(flight.priced.order))
        return terms.sent_bytes(flight.phase_start_s, self.now_s)


def _downloaded(flight: Flight, begun_in: _Place) -> _Place:
    """Return the place of the end of a flight's download, given that of the event in which the flight began."""
    if flight.priced.download_bytes:
        return _TRANSFER, flight.start_s, *begun_in[:2]
    return _COMPUTED, flight.client_id
