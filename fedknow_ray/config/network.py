"""The section `network`, and what one entry of the fleet may say about its own links.

    end of a transfer = its beginning + latency_s + jitter + wire bytes / rate

Every key but the first three is neutral by default: nothing is drawn, framed, shared or read from a file.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict, ValidationInfo, field_validator, model_validator

from fedknow_ray.config.fields import Count, DurationS, Folder, Frozen, Index, RateBytesPerS

ETHERNET_HEADER_BYTES = 14
"""Of the header bytes, those that the MTU does not limit."""


class FramingConfig(Frozen):
    """Packets: each carries a header, and their payload is what the MTU leaves."""

    mtu_bytes: Count = 1500
    """What a packet may have behind its Ethernet header: IP header, TCP header and payload."""
    header_bytes: Index = 66
    """Bytes on the wire of a packet beside its payload: Ethernet 14, IPv4 20, TCP with timestamps 32."""

    @model_validator(mode="after")
    def _leaves_room(self) -> FramingConfig:
        inside = max(0, self.header_bytes - ETHERNET_HEADER_BYTES)
        if inside >= self.mtu_bytes:
            raise ValueError(
                f"{inside} of the {self.header_bytes} header_bytes count against mtu_bytes {self.mtu_bytes} and leave "
                "no room for a payload; raise mtu_bytes or lower header_bytes"
            )
        return self


class LinkConfig(Frozen):
    """One client's own link."""

    uplink_bytes_per_s: RateBytesPerS = 1.0e6
    downlink_bytes_per_s: RateBytesPerS = 1.0e6
    latency_s: DurationS = 0.02
    """Added once a transfer, not once a packet."""
    jitter_s: DurationS = 0.0
    """Further latency of each transfer: the mean of an exponential distribution; 0 draws nothing."""
    uplink_trace: Folder | None = None
    """CSV file of time_s,bytes_per_s, relative to the working directory: each rate holds from its time on. It takes the
    place of uplink_bytes_per_s."""
    downlink_trace: Folder | None = None
    """As uplink_trace, in the place of downlink_bytes_per_s."""


class LinkOverrides(Frozen):
    """What the clients of one entry of the fleet have in place of the network's; null is the network's."""

    uplink_bytes_per_s: RateBytesPerS | None = None
    downlink_bytes_per_s: RateBytesPerS | None = None
    latency_s: DurationS | None = None
    jitter_s: DurationS | None = None
    uplink_trace: Folder | None = None
    downlink_trace: Folder | None = None

    @model_validator(mode="after")
    def _one_source_a_direction(self) -> LinkOverrides:
        for direction in ("uplink", "downlink"):
            trace, rate = getattr(self, f"{direction}_trace"), getattr(self, f"{direction}_bytes_per_s")
            if trace is not None and rate is not None:
                raise ValueError(
                    f"both {direction}_bytes_per_s ({rate:g}) and {direction}_trace ({trace}) are given, and the trace "
                    "would take the place of the rate; leave one of them out"
                )
        return self


class NetworkConfig(LinkConfig):
    """The link of each client, and the server's; fleet entries may have links of their own."""

    framing: FramingConfig | None = None
    """Counts a header for each packet; null sends the payload's bytes and nothing else."""
    loss_fraction: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0
    """Share of the packets that are lost, and sent again until they arrive."""
    server_uplink_bytes_per_s: RateBytesPerS | None = None
    """What the server sends by to all clients together, shared max-min fairly; null does not limit it."""
    server_downlink_bytes_per_s: RateBytesPerS | None = None
    """What the server receives by from all clients together, shared max-min fairly; null does not limit it."""

    @field_validator("loss_fraction")
    @classmethod
    def _packets_are_lost(cls, loss_fraction: float, info: ValidationInfo) -> float:
        # A faulty framing is not in info.data, and has its own message.
        if loss_fraction and "framing" in info.data and info.data["framing"] is None:
            raise ValueError(
                f"{loss_fraction:g} needs framing, which says what a packet is; give framing: {{}}, or set it to 0"
            )
        return loss_fraction

    def link_with(self, overrides: LinkOverrides | None = None) -> LinkConfig:
        """Return the link of a client whose entry of the fleet says this; a rate there also replaces a trace here."""
        given = {} if overrides is None else {key: value for key, value in overrides if value is not None}
        link = {key: getattr(self, key) for key in LinkConfig.model_fields}
        for direction in ("uplink", "downlink"):
            if f"{direction}_bytes_per_s" in given:
                link[f"{direction}_trace"] = None
        return LinkConfig(**{**link, **given})
