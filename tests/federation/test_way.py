"""What a visit takes on links of its own, on the numbers of tests/federation/fakes.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import LINK, PAYLOAD_BYTES, make_ledger

from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.federation.way import Way, foresee
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.simulation.link import Link
from fedknow_ray.simulation.network import Network
from fedknow_ray.simulation.trace import BandwidthTrace


def visit(**changes: int) -> PricedVisit:
    facts = VisitFacts(0, 0, 0, images=10, classes=2, trained_this_task=False)
    return replace(make_ledger().price(VisitOrder(VisitKind.TRAIN, facts, seed=7)), **changes)


def network(link: Link = LINK, **rates: float) -> Network[int]:
    return Network([link], seed=7, **rates)


def test_a_visit_comes_down_computes_and_goes_up():
    assert foresee(network(), visit(), 100.0) == Way(102.5, 108.5, 113.0, 2.5, 4.5)


def test_what_is_empty_takes_no_time():
    assert foresee(network(), visit(upload_bytes=0), 1.0) == Way(3.5, 9.5, 9.5, 2.5, 0.0)
    assert foresee(network(), visit(download_bytes=0, upload_bytes=0), 1.0) == Way(1.0, 7.0, 7.0, 0.0, 0.0)


def test_nobody_shares_the_links():
    assert foresee(network(server_uplink_bytes_per_s=1.0), visit(), 0.0).end_s == 13.0


def test_a_trace_is_followed_from_when_the_transfer_begins():
    """Up from 8.5 s on, with 0.5 s of latency: 1 MB/s to 10 s, then 2 MB/s for the 3 MB that are left."""
    link = replace(LINK, uplink_trace=BandwidthTrace((0.0, 10.0), (1e6, 2e6)))
    way = foresee(network(link), visit(upload_bytes=PAYLOAD_BYTES), 0.0)
    assert (way.end_s, way.upload_s) == (pytest.approx(11.5), pytest.approx(3.0))
