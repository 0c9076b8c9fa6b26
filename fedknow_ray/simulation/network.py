"""Transfers under way between clients and the server, as events: a transfer begins, and its end is the next event.

A scheduler says what begins and is cancelled, asks for the first end, and takes it out when its clock is there:

    end = now_s + (latency_s + jitter_s + wire_bytes / rate)      a client's own link, nothing shared
    rate = min(client's rate, level)                              the server's link shared, `simulation.sharing`

With a trace the quotient is the time in which the trace carries the bytes. Latency and jitter pass before the first
byte moves and take no part in the sharing. All that is drawn depends on the seed, the client, the direction and the
`StreamPosition`, not on the order of events.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from fedknow_ray.seeding import stream
from fedknow_ray.simulation.framing import Framing
from fedknow_ray.simulation.link import Direction, Link, transfer_s
from fedknow_ray.simulation.sharing import FairShare, Source
from fedknow_ray.simulation.trace import BandwidthTrace

K = TypeVar("K", bound=Hashable)


class StreamPosition(NamedTuple):
    """Where in a run a transfer belongs: it decides what is drawn for it. *kind* is the kind of the visit."""

    task_index: int
    round_index: int
    kind: str


class Terms(NamedTuple):
    """What a transfer takes, before anybody shares: bytes on the wire, seconds before the first of them, its cap."""

    wire_bytes: int
    delay_s: float
    source: Source

    def alone(self, now_s: float) -> tuple[float, float]:
        """Return when it ends on a link of its own, and the seconds until then, free of rounding at a steady rate."""
        if isinstance(self.source, BandwidthTrace):
            end_s = self.source.end_s(now_s + self.delay_s, self.wire_bytes) if self.wire_bytes else now_s
            return end_s, end_s - now_s
        duration_s = transfer_s(self.wire_bytes, self.source, self.delay_s)
        return now_s + duration_s, duration_s

    def end_s(self, now_s: float) -> float:
        """Return when it ends on a link of its own."""
        return self.alone(now_s)[0]

    def sent_bytes(self, begin_s: float, now_s: float) -> int:
        """Return the whole bytes of a transfer that have gone by now, on a link of its own."""
        active_s = begin_s + self.delay_s
        if now_s <= active_s:
            return 0
        if now_s >= self.end_s(begin_s):
            return self.wire_bytes
        if isinstance(self.source, BandwidthTrace):
            sent = self.source.sent_bytes(active_s, now_s)
        else:
            sent = (now_s - active_s) * self.source
        return min(self.wire_bytes, math.floor(sent))


@dataclass(frozen=True, slots=True)
class _Flight:
    sequence: int
    begin_s: float
    terms: Terms
    share: FairShare | None


class Network(Generic[K]):
    """The links of all clients, *links* by client id, and the server's; *now_s* is where its clock begins.

    `server_uplink_bytes_per_s` is what the server sends by, to all clients together; `server_downlink_bytes_per_s` what
    it receives by. None does not limit a direction: its transfers do not know of each other.

    Raises:
        ValueError: if a server's rate is not positive and finite, the share of lost packets is not in [0, 1), or
            packets are lost without framing, which says what a packet is.
    """

    def __init__(
        self,
        links: Sequence[Link],
        *,
        seed: int,
        framing: Framing | None = None,
        loss_fraction: float = 0.0,
        server_uplink_bytes_per_s: float | None = None,
        server_downlink_bytes_per_s: float | None = None,
        now_s: float = 0.0,
    ) -> None:
        if not 0 <= loss_fraction < 1:
            raise ValueError(f"loss_fraction must be at least 0 and less than 1, got {loss_fraction}")
        if loss_fraction and framing is None:
            raise ValueError(f"a loss_fraction of {loss_fraction} needs framing: packets are lost, not bytes")
        self._links, self._seed, self._framing, self._loss_fraction = tuple(links), seed, framing, loss_fraction
        self._shares: dict[Direction, FairShare] = {}
        for direction, rate in (
            (Direction.TO_CLIENT, server_uplink_bytes_per_s),
            (Direction.TO_SERVER, server_downlink_bytes_per_s),
        ):
            if rate is not None:
                if not (math.isfinite(rate) and rate > 0):
                    raise ValueError(f"the server's rate {direction} must be finite and greater than 0, got {rate}")
                self._shares[direction] = FairShare(rate, now_s)
        self._flights: dict[K, _Flight] = {}
        self._keys: dict[int, K] = {}
        self._private: list[tuple[float, int]] = []
        self._now_s, self._sequence = now_s, 0

    def __len__(self) -> int:
        """Return how many transfers are in flight."""
        return len(self._flights)

    def holds(self, key: K) -> bool:
        """Return whether a transfer of this key is in flight."""
        return key in self._flights

    @property
    def is_private(self) -> bool:
        """Whether no direction is shared, so that each transfer's end is known when it begins."""
        return not self._shares

    def is_shared(self, direction: Direction) -> bool:
        """Return whether transfers in a direction share the server's link, so that none has a duration of its own."""
        return direction in self._shares

    def terms(self, client_id: int, direction: Direction, payload_bytes: int, position: StreamPosition) -> Terms:
        """Return the bytes on the wire and the delay of a transfer; the same for the same arguments, at any time.

        Raises:
            ValueError: if the size is negative.
        """
        if payload_bytes < 0:
            raise ValueError(f"payload_bytes must not be negative, got {payload_bytes}")
        link = self._links[client_id]
        if not payload_bytes:
            return Terms(0, 0.0, link.rate(direction))
        delay_s, wire_bytes = link.latency_s, payload_bytes
        if link.jitter_s:
            delay_s += float(self._stream("jitter", client_id, direction, position).exponential(link.jitter_s))
        if self._framing is not None and self._loss_fraction:
            draws = self._stream("loss", client_id, direction, position)
            wire_bytes = self._framing.lossy_wire_bytes(payload_bytes, self._loss_fraction, draws)
        elif self._framing is not None:
            wire_bytes = self._framing.wire_bytes(payload_bytes)
        return Terms(wire_bytes, delay_s, link.rate(direction))

    def duration_s(
        self, now_s: float, client_id: int, direction: Direction, payload_bytes: int, position: StreamPosition
    ) -> float:
        """Return the seconds of a transfer that would begin now, where the direction is not shared; begins nothing.

        Raises:
            ValueError: if the direction is shared.
        """
        if self.is_shared(direction):
            raise ValueError(f"transfers {direction} share the server's link: how long one takes depends on the others")
        return self.terms(client_id, direction, payload_bytes, position).alone(now_s)[1]

    def begin(
        self,
        now_s: float,
        key: K,
        client_id: int,
        direction: Direction,
        payload_bytes: int,
        position: StreamPosition,
    ) -> int:
        """Begin a transfer and return its bytes on the wire; an empty payload is not sent, and ends now.

        Raises:
            ValueError: if the key is in flight, the size is negative, the time lies before the last call's, or an end
                has been passed over.
        """
        if key in self._flights:
            raise ValueError(f"a transfer {key!r} is in flight already")
        terms = self.terms(client_id, direction, payload_bytes, position)
        share = self._shares.get(direction) if terms.wire_bytes else None
        self._go_to(now_s, share)
        sequence = self._sequence
        self._sequence += 1
        if share is None:
            heappush(self._private, (terms.end_s(now_s), sequence))
        else:
            share.begin(now_s, sequence, now_s + terms.delay_s, terms.wire_bytes, terms.source)
        self._flights[key] = _Flight(sequence, now_s, terms, share)
        self._keys[sequence] = key
        return terms.wire_bytes

    def next_end(self) -> tuple[float, K] | None:
        """Return (time, key) of the first end, given the transfers in flight; of one moment, the one begun first."""
        first = self._first() if self._flights else None
        return None if first is None else (first[0], self._keys[first[1]])

    def end(self, now_s: float) -> K:
        """Take out the transfer that ends first, and return its key.

        Raises:
            ValueError: if that is not now.
        """
        first = self._first()
        if first is None or first[0] != now_s:
            raise ValueError(f"no transfer ends at {now_s} s: the first end is {'none' if first is None else first[0]}")
        key = self._keys.pop(first[1])
        share = self._flights.pop(key).share
        if share is None:
            heappop(self._private)
            self._tidy()
        else:
            share.end(now_s, first[1])
        self._now_s = now_s
        return key

    def cancel(self, now_s: float, key: K) -> int:
        """Take out a transfer before its end, and return the whole bytes of it that are on the wire already.

        Raises:
            KeyError: if no such transfer is in flight.
            ValueError: if the time lies before the last call's, or an end has been passed over.
        """
        flight = self._flights[key]
        self._go_to(now_s, flight.share)
        del self._flights[key], self._keys[flight.sequence]
        if flight.share is None:
            self._tidy()
            return flight.terms.sent_bytes(flight.begin_s, now_s)
        return math.floor(flight.terms.wire_bytes - flight.share.cancel(now_s, flight.sequence))

    def _first(self) -> tuple[float, int] | None:
        ends = [share.first_end() for share in self._shares.values()]
        if self._private:
            ends.append(self._private[0])
        return min((end for end in ends if end is not None), default=None)

    def _tidy(self) -> None:
        """Keep a transfer that was not cancelled at the head of the private ones."""
        while self._private and self._private[0][1] not in self._keys:
            heappop(self._private)

    def _go_to(self, now_s: float, share: FairShare | None) -> None:
        if not (math.isfinite(now_s) and now_s >= self._now_s):
            raise ValueError(f"the network stands at {self._now_s} s and cannot go to {now_s} s")
        passed_s = math.inf if share is None else share.advance(now_s)
        if self._private:
            passed_s = min(passed_s, self._private[0][0])
        if passed_s < now_s:
            raise ValueError(f"an end at {passed_s} s was not taken out before {now_s} s")
        self._now_s = now_s

    def _stream(self, what: str, client_id: int, direction: Direction, position: StreamPosition) -> np.random.Generator:
        return stream(
            self._seed,
            f"link/{what}/{direction}/{position.kind}",
            client=client_id,
            task=position.task_index,
            round_index=position.round_index,
        )
