"""The link between a client and the server: how long a payload is under way.

transfer_s = latency_s + payload_bytes / bytes_per_s,    0 for an empty payload, which is not sent
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from fedknow_ray.simulation.trace import BandwidthTrace


class Direction(StrEnum):
    """Which way a payload goes, named by its end: each crosses a link of the client's and one of the server's."""

    TO_CLIENT = "to_client"
    """A broadcast: out by the server's uplink, in by the client's downlink."""
    TO_SERVER = "to_server"
    """An update: out by the client's uplink, in by the server's downlink."""


def transfer_s(payload_bytes: int, bytes_per_s: float, latency_s: float) -> float:
    """Return the seconds from the first byte's departure to the last one's arrival.

    Raises:
        ValueError: if the size is negative.
    """
    if payload_bytes < 0:
        raise ValueError(f"payload_bytes must not be negative, got {payload_bytes}")
    return latency_s + payload_bytes / bytes_per_s if payload_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Link:
    """One client's own link, seen from the client.

    Raises:
        ValueError: if a rate is not positive and finite, or the latency or the jitter not finite and at least 0.
    """

    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    latency_s: float = 0.0
    """Added once a transfer, not once a packet."""
    jitter_s: float = 0.0
    """The mean of a further latency, drawn for each transfer from the exponential distribution."""
    uplink_trace: BandwidthTrace | None = None
    """Takes the place of `uplink_bytes_per_s`."""
    downlink_trace: BandwidthTrace | None = None
    """Takes the place of `downlink_bytes_per_s`."""

    def __post_init__(self) -> None:
        for field in ("uplink_bytes_per_s", "downlink_bytes_per_s"):
            rate = getattr(self, field)
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(f"{field} must be a finite rate greater than 0, got {rate}")
        for field in ("latency_s", "jitter_s"):
            time_s = getattr(self, field)
            if not (math.isfinite(time_s) and time_s >= 0):
                raise ValueError(f"{field} must be finite and at least 0, got {time_s}")

    def rate(self, direction: Direction) -> float | BandwidthTrace:
        """Return the client's rate in a direction: bytes/s, or the trace that has it."""
        if direction is Direction.TO_SERVER:
            return self.uplink_bytes_per_s if self.uplink_trace is None else self.uplink_trace
        return self.downlink_bytes_per_s if self.downlink_trace is None else self.downlink_trace

    def upload_s(self, payload_bytes: int) -> float:
        """Return the seconds that an update takes to the server at a steady rate, without jitter.

        Raises:
            ValueError: if the uplink has a trace: the seconds depend on the start, so ask a `Network`.
        """
        return self._steady_s(payload_bytes, Direction.TO_SERVER)

    def download_s(self, payload_bytes: int) -> float:
        """Return the seconds that a broadcast takes to the client at a steady rate, without jitter.

        Raises:
            ValueError: if the downlink has a trace: the seconds depend on the start, so ask a `Network`.
        """
        return self._steady_s(payload_bytes, Direction.TO_CLIENT)

    def _steady_s(self, payload_bytes: int, direction: Direction) -> float:
        rate = self.rate(direction)
        if isinstance(rate, BandwidthTrace):
            raise ValueError(f"a transfer {direction} follows a trace, so its seconds depend on when it begins")
        return transfer_s(payload_bytes, rate, self.latency_s)
