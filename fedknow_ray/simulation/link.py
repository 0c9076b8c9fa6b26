"""The link between a client and the server: how long a payload is under way.

transfer_s = latency_s + payload_bytes / bytes_per_s,    0 for an empty payload, which is not sent
"""

from __future__ import annotations

import math
from dataclasses import dataclass


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
        ValueError: if a rate is not positive and finite, or the latency not finite and at least 0.
    """

    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    latency_s: float = 0.0
    """Added once a transfer, not once a packet."""

    def __post_init__(self) -> None:
        for field in ("uplink_bytes_per_s", "downlink_bytes_per_s"):
            rate = getattr(self, field)
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(f"{field} must be a finite rate greater than 0, got {rate}")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise ValueError(f"latency_s must be finite and at least 0, got {self.latency_s}")

    def upload_s(self, payload_bytes: int) -> float:
        """Return the seconds that an update takes to the server."""
        return transfer_s(payload_bytes, self.uplink_bytes_per_s, self.latency_s)

    def download_s(self, payload_bytes: int) -> float:
        """Return the seconds that a broadcast takes to the client."""
        return transfer_s(payload_bytes, self.downlink_bytes_per_s, self.latency_s)
