"""Links: latency once a transfer, bytes over bandwidth, nothing for nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.simulation.link import Link, transfer_s

sizes = st.integers(1, 10**10)


def test_a_transfer_is_latency_plus_bytes_over_bandwidth():
    assert transfer_s(1000, 500.0, 0.25) == 2.25


def test_each_direction_has_its_own_bandwidth():
    link = Link(uplink_bytes_per_s=100.0, downlink_bytes_per_s=1000.0, latency_s=0.5)
    assert (link.upload_s(1000), link.download_s(1000)) == (10.5, 1.5)


def test_an_empty_payload_is_not_sent():
    link = Link(uplink_bytes_per_s=1.0, downlink_bytes_per_s=1.0, latency_s=9.0)
    assert (link.upload_s(0), link.download_s(0)) == (0.0, 0.0)


@given(sizes, sizes)
def test_more_bytes_never_arrive_earlier(left, right):
    link = Link(uplink_bytes_per_s=1e6, downlink_bytes_per_s=1e6, latency_s=0.02)
    assert (link.upload_s(left) <= link.upload_s(right)) or left > right


@given(sizes)
def test_doubling_the_bandwidth_halves_what_is_not_latency(payload_bytes):
    assert transfer_s(payload_bytes, 2e6, 0.0) == transfer_s(payload_bytes, 1e6, 0.0) / 2


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["uplink_bytes_per_s", "downlink_bytes_per_s"])
def test_a_rate_must_be_finite_and_positive(field, rate):
    rates = {"uplink_bytes_per_s": 1.0, "downlink_bytes_per_s": 1.0, field: rate}
    with pytest.raises(ValueError, match=f"{field} must be a finite rate greater than 0, got {rate}"):
        Link(**rates)


@pytest.mark.parametrize("latency_s", [-0.1, float("nan"), float("inf")])
def test_a_latency_must_be_finite_and_not_negative(latency_s):
    with pytest.raises(ValueError, match="latency_s must be finite and at least 0"):
        Link(uplink_bytes_per_s=1.0, downlink_bytes_per_s=1.0, latency_s=latency_s)


def test_a_negative_size_is_refused_with_its_value():
    with pytest.raises(ValueError, match="payload_bytes must not be negative, got -5"):
        transfer_s(-5, 1.0, 0.0)
