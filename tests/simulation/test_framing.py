"""Framing: a header for each packet, and lost packets sent again, byte by byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.simulation.framing import Framing

SMALL = Framing(mtu_bytes=60, header_bytes=24)  # 10 of the header within the MTU: 50 payload bytes a packet


def test_a_full_packet_has_what_the_mtu_leaves():
    """1,500 - 20 of IPv4 - 32 of TCP; Ethernet's 14 do not count against the MTU."""
    assert Framing().packet_payload_bytes == 1448


def test_a_header_shorter_than_ethernets_takes_nothing_from_the_mtu():
    assert Framing(mtu_bytes=100, header_bytes=4).packet_payload_bytes == 100


@pytest.mark.parametrize(("payload", "wire"), [(0, 0), (1, 25), (50, 74), (51, 51 + 48), (100, 148), (101, 173)])
def test_each_packet_has_a_header(payload, wire):
    assert SMALL.wire_bytes(payload) == wire


def test_nothing_is_sent_again_for_an_empty_payload():
    assert SMALL.lossy_wire_bytes(0, 0.5, np.random.default_rng(1)) == 0


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 2**32))
def test_only_whole_packets_are_sent_again(payload, seed):
    """What is above the loss-free bytes is full packets of 74 bytes, and copies of the last one."""
    extra = SMALL.lossy_wire_bytes(payload, 0.1, np.random.default_rng(seed)) - SMALL.wire_bytes(payload)
    last = payload - (SMALL.packets(payload) - 1) * 50 + 24
    assert extra >= 0
    assert any((extra - again * last) % 74 == 0 for again in range(extra // last + 1))


def test_without_loss_nothing_is_sent_again():
    assert SMALL.lossy_wire_bytes(12_345, 0.0, np.random.default_rng(1)) == SMALL.wire_bytes(12_345)


def test_packets_sent_again_have_the_mean_of_the_negative_binomial():
    """n p / (1 - p) = 1,000 x 0.2 / 0.8 = 250, standard deviation sqrt(n p) / (1 - p) = 17.7; mean of 400 draws."""
    draws = np.random.default_rng(7)
    again = [(SMALL.lossy_wire_bytes(50_000, 0.2, draws) - 74_000) / 74 for _ in range(400)]
    assert np.mean(again) == pytest.approx(250, abs=4 * 17.7 / 20)
    assert np.std(again) == pytest.approx(17.7, rel=0.2)


@pytest.mark.parametrize(("mtu", "header"), [(52, 66), (10, 66)])
def test_a_packet_needs_room_for_a_payload(mtu, header):
    with pytest.raises(ValueError, match=f"66 header_bytes leave no room for a payload in {mtu}"):
        Framing(mtu, header)


def test_a_header_is_not_negative():
    with pytest.raises(ValueError, match="header_bytes must not be negative, got -1"):
        Framing(header_bytes=-1)
