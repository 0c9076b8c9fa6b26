"""The network's section and the fleet's overrides: defaults, bounds, and which of two sources holds."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedknow_ray.config.network import FramingConfig, LinkConfig, LinkOverrides, NetworkConfig


def fault(model, **keys) -> tuple[tuple[int | str, ...], str]:
    with pytest.raises(ValidationError) as caught:
        model(**keys)
    (error,) = caught.value.errors()
    return error["loc"], error["msg"]


def test_all_but_the_first_three_keys_are_neutral():
    assert NetworkConfig().model_dump() == {
        "uplink_bytes_per_s": 1e6,
        "downlink_bytes_per_s": 1e6,
        "latency_s": 0.02,
        "jitter_s": 0.0,
        "uplink_trace": None,
        "downlink_trace": None,
        "framing": None,
        "loss_fraction": 0.0,
        "server_uplink_bytes_per_s": None,
        "server_downlink_bytes_per_s": None,
    }


def test_values_have_units():
    network = NetworkConfig(
        uplink_bytes_per_s="50 kB/s", jitter_s="5 ms", server_uplink_bytes_per_s="8 Mbit/s", uplink_trace="lte.csv"
    )
    assert (network.uplink_bytes_per_s, network.jitter_s, network.server_uplink_bytes_per_s) == (5e4, 0.005, 1e6)
    assert network.uplink_trace == Path("lte.csv")


def test_a_resolved_section_resolves_to_itself():
    network = NetworkConfig(framing={}, loss_fraction=0.01, downlink_trace="lte.csv")
    assert NetworkConfig(**network.model_dump(mode="json")) == network


def test_framing_is_that_of_tcp_over_ethernet():
    """Ethernet 14, IPv4 20, TCP 20 and 12 of timestamps."""
    assert FramingConfig() == FramingConfig(mtu_bytes=1500, header_bytes=14 + 20 + 20 + 12)


@pytest.mark.parametrize(
    "keys",
    [
        {"jitter_s": -1},
        {"loss_fraction": 1, "framing": {}},
        {"loss_fraction": -0.1},
        {"server_uplink_bytes_per_s": 0},
        {"framing": {"mtu_bytes": 0}},
        {"framing": {"header_bytes": -1}},
        {"jitter": 1},
    ],
)
def test_what_is_out_of_bounds_is_refused(keys):
    with pytest.raises(ValidationError):
        NetworkConfig(**keys)


def test_packets_can_only_be_lost_where_there_are_packets():
    place, message = fault(NetworkConfig, loss_fraction=0.01)
    assert place == ("loss_fraction",)
    assert "0.01 needs framing, which says what a packet is; give framing: {}, or set it to 0" in message
    assert NetworkConfig(loss_fraction=0.01, framing={}).loss_fraction == 0.01


def test_a_faulty_framing_is_one_fault():
    assert fault(NetworkConfig, loss_fraction=0.01, framing={"mtu_bytes": 0})[0] == ("framing", "mtu_bytes")


def test_a_packet_needs_room_for_a_payload():
    message = fault(FramingConfig, mtu_bytes=52)[1]
    assert "52 of the 66 header_bytes count against mtu_bytes 52 and leave no room for a payload" in message
    assert FramingConfig(mtu_bytes=53).mtu_bytes == 53


def test_an_entry_without_links_of_its_own_has_the_networks():
    network = NetworkConfig(uplink_bytes_per_s=5e4, jitter_s=0.1, downlink_trace="lte.csv", framing={})
    expected = LinkConfig(uplink_bytes_per_s=5e4, jitter_s=0.1, downlink_trace="lte.csv")
    assert network.link_with() == network.link_with(LinkOverrides()) == expected


def test_an_entry_replaces_what_it_names():
    link = NetworkConfig(latency_s=0.1).link_with(LinkOverrides(downlink_bytes_per_s=2e6, latency_s=0, jitter_s=0.3))
    assert link == LinkConfig(downlink_bytes_per_s=2e6, latency_s=0.0, jitter_s=0.3)


def test_an_entrys_rate_replaces_the_networks_trace_in_its_direction():
    network = NetworkConfig(uplink_trace="a.csv", downlink_trace="b.csv")
    link = network.link_with(LinkOverrides(uplink_bytes_per_s=5e4))
    assert (link.uplink_trace, link.uplink_bytes_per_s, link.downlink_trace) == (None, 5e4, Path("b.csv"))


def test_an_entry_gives_a_rate_or_a_trace():
    message = fault(LinkOverrides, uplink_bytes_per_s=5e4, uplink_trace="a.csv")[1]
    assert "both uplink_bytes_per_s (50000) and uplink_trace (a.csv) are given" in message
    assert LinkOverrides(uplink_bytes_per_s=5e4, downlink_trace="a.csv").downlink_trace == Path("a.csv")
