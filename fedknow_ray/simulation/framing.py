"""What a payload takes on the wire: a header on each packet, and lost packets sent again.

    wire_bytes = payload_bytes + header_bytes * packets + the bytes of the packets that were sent again

A lost packet is sent again until it arrives, so of n packets with a share p lost, a number that is negative binomial
with n and 1 - p is sent again, n p / (1 - p) in the mean. That a sender slows down when packets are lost is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ETHERNET_HEADER_BYTES = 14
"""Of the header bytes, those that stand before what the MTU limits."""


@dataclass(frozen=True, slots=True)
class Framing:
    """Packets of at most *mtu_bytes*, less their headers.

    66 header bytes are Ethernet 14, IPv4 20 and TCP with timestamps 32. The MTU bounds all but Ethernet's, so that a
    packet has 1,500 - 52 = 1,448 payload bytes.

    Raises:
        ValueError: if a packet has no room for a payload, or a size is negative.
    """

    mtu_bytes: int = 1500
    header_bytes: int = 66

    def __post_init__(self) -> None:
        if self.header_bytes < 0:
            raise ValueError(f"header_bytes must not be negative, got {self.header_bytes}")
        if self.packet_payload_bytes < 1:
            raise ValueError(f"{self.header_bytes} header_bytes leave no room for a payload in {self.mtu_bytes}")

    @property
    def packet_payload_bytes(self) -> int:
        """Payload bytes of a full packet."""
        return self.mtu_bytes - max(0, self.header_bytes - ETHERNET_HEADER_BYTES)

    def packets(self, payload_bytes: int) -> int:
        """Return how many packets a payload takes."""
        return -(-payload_bytes // self.packet_payload_bytes)

    def wire_bytes(self, payload_bytes: int) -> int:
        """Return the bytes on the wire when nothing is lost."""
        return payload_bytes + self.header_bytes * self.packets(payload_bytes)

    def lossy_wire_bytes(self, payload_bytes: int, loss_fraction: float, draws: np.random.Generator) -> int:
        """Return the bytes on the wire with the packets that are sent again, full ones and the last by themselves."""
        full = self.packets(payload_bytes) - 1
        if full < 0:
            return 0
        last_bytes = payload_bytes - full * self.packet_payload_bytes + self.header_bytes
        arrives = 1.0 - loss_fraction
        again = int(draws.negative_binomial(full, arrives)) if full else 0
        last_again = int(draws.negative_binomial(1, arrives))
        full_bytes = self.packet_payload_bytes + self.header_bytes
        return self.wire_bytes(payload_bytes) + again * full_bytes + last_again * last_bytes
