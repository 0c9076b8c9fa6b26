"""Flights one by one: the numbers of tests/federation/telling.py, without rounds or policies."""

from __future__ import annotations

import pytest
from fakes import LINK, PAYLOAD_BYTES, Lonely, conditions, make_ledger
from telling import as_planned, off, shared, spent

from fedknow_ray.federation.flight import Flight, Status
from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.traffic import Conditions, Rang, Traffic
from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.methods.method import Method, VisitFacts
from fedknow_ray.simulation.link import Link
from fedknow_ray.simulation.network import Network
from fedknow_ray.simulation.trace import BandwidthTrace


def priced(client_id: int, round_index: int = 0, method: Method | None = None) -> PricedVisit:
    facts = VisitFacts(client_id, 0, round_index, images=10, classes=2, trained_this_task=False)
    return make_ledger(method).price(VisitOrder(VisitKind.TRAIN, facts, seed=7))


def traffic(given: Conditions | None = None, now_s: float = 0.0) -> Traffic:
    return Traffic(given or conditions(), range(3), now_s)


def begun(roads: Traffic, *client_ids: int, method: Method | None = None) -> list[Flight]:
    flights = [Flight(priced(client_id, method=method)) for client_id in client_ids]
    for flight in flights:
        roads.begin(flight)
    return flights


def landings(roads: Traffic) -> list[tuple[float, int]]:
    found = []
    while (occurrence := roads.next()) is not None:
        assert isinstance(occurrence, Flight)
        found.append((roads.now_s, occurrence.client_id))
    return found


def test_flights_land_when_they_have_come_down_computed_and_gone_up():
    roads = traffic(now_s=100.0)
    slow, fast = begun(roads, 0, 1)
    assert landings(roads) == [(109.0, 1), (113.0, 0)]
    assert [spent(flight)[:3] for flight in (slow, fast)] == [(2.5, 6.0, 4.5), (2.5, 2.0, 4.5)]
    assert [(flight.start_s, flight.end_s) for flight in (slow, fast)] == [(100.0, 113.0), (100.0, 109.0)]


def test_who_has_a_flight_is_busy_until_it_lands():
    roads = traffic()
    begun(roads, 0, 2)
    assert (sorted(roads.busy), roads.idle) == ([0, 2], [1])
    roads.next()
    assert (sorted(roads.busy), roads.idle) == ([0], [1, 2])


def test_ends_of_one_moment_come_in_the_order_in_which_the_uploads_began():
    """And those began, of one moment, in the order of clients."""
    roads = traffic()
    begun(roads, 2, 1)
    assert landings(roads) == [(9.0, 1), (9.0, 2)]


def test_without_anything_to_send_there_is_computing_alone():
    roads = traffic()
    (flight,) = begun(roads, 1, method=Lonely())
    assert landings(roads) == [(2.0, 1)]
    assert spent(flight) == (0.0, 2.0, 0.0, 0, 0)


def test_a_flight_of_a_client_that_is_off_lands_lost_in_the_same_moment():
    roads = traffic(conditions(availability=off((1, 0.0, 9.0))))
    (flight,) = begun(roads, 1)
    assert landings(roads) == [(0.0, 1)]
    assert (flight.status, spent(flight)) == (Status.OFFLINE, (0.0, 0.0, 0.0, 0, 0))


def test_the_links_go_on_without_a_flight_that_was_lost():
    """Both downloads share 4 MB/s down to 2 MB/s each, which is the clients' own; both uploads share 1 MB/s."""
    roads = traffic(shared(server_downlink_bytes_per_s=1e6))
    first, second = begun(roads, 1, 2)
    while second.upload_s == 0 and roads.now_s < 4.5:
        # the uploads begin at 4.5 s and carry from 5 s on
        event = roads._next_event()
        assert isinstance(event, Flight)
        roads._advance(event)
    roads.ring(7.0, tag=3)
    assert roads.next() == Rang(3)
    roads.lose(first, Status.LATE)
    # 1 MB each so far; the 3 MB that are left have the link for themselves
    assert (first.upload_s, first.upload_bytes) == (2.5, 10**6)
    assert landings(roads) == [(10.0, 2)]
    assert (second.upload_s, second.upload_bytes) == (5.5, PAYLOAD_BYTES)


def test_with_a_shared_link_equal_transfers_take_twice_as_long():
    """4 MB each by 1 MB/s together: 0.5 s + 8 s in place of 4.5 s."""
    roads = traffic(shared(server_downlink_bytes_per_s=1e6))
    flights = begun(roads, 1, 2)
    assert landings(roads) == [(13.0, 1), (13.0, 2)]
    assert [flight.upload_s for flight in flights] == [8.5, 8.5]


def test_alarms_ring_after_all_else_of_their_moment():
    roads = traffic()
    roads.ring(9.0, tag=1)
    begun(roads, 1)
    roads.ring(4.0, tag=2)
    found = []
    while (occurrence := roads.next()) is not None:
        found.append((roads.now_s, occurrence.tag if isinstance(occurrence, Rang) else "landed"))
    assert found == [(4.0, 2), (9.0, "landed"), (9.0, 1)]


def test_a_loss_that_was_foreseen_does_not_reach_the_next_flight():
    """Client 1 goes off at 20 s, after its first visit; the second begins at 9 s and would end at 18 s."""
    roads = traffic(conditions(availability=off((1, 20.0, 30.0))))
    begun(roads, 1)
    assert isinstance(roads.next(), Flight)
    second = Flight(priced(1, round_index=1))
    roads.begin(second)
    third = Flight(priced(1, round_index=2))
    assert isinstance(roads.next(), Flight)
    roads.begin(third)
    assert landings(roads) == [(20.0, 1)]
    assert (second.status, third.status) == (Status.OK, Status.OFFLINE)


@pytest.mark.parametrize(
    ("at_s", "expected"),
    [
        (1.5, (1.5, 0.0, 0.0, 2 * 10**6, 0)),
        (2.5, (2.5, 0.0, 0.0, PAYLOAD_BYTES, 0)),
        (4.0, (2.5, 1.5, 0.0, PAYLOAD_BYTES, 0)),
        (4.5, (2.5, 2.0, 0.0, PAYLOAD_BYTES, 0)),
        (6.0, (2.5, 2.0, 1.5, PAYLOAD_BYTES, 10**6)),
    ],
)
def test_a_flight_that_is_lost_has_used_what_it_had_reached(at_s: float, expected: tuple[float, ...]):
    """Also at the very ends of its phases, of which an alarm comes last; foreseen or not it is the same."""
    for measure in (None, as_planned):
        roads = Traffic(conditions(), range(3), 0.0, measure)
        (flight,) = begun(roads, 1)
        roads.ring(at_s, tag=0)
        assert roads.next() == Rang(0)
        roads.lose(flight, Status.LATE)
        assert (spent(flight), flight.end_s) == (expected, at_s)
        assert landings(roads) == []


def test_an_undisturbed_visit_takes_what_it_takes_alone():
    roads = traffic(shared(server_downlink_bytes_per_s=1e5))
    assert (roads.undisturbed_s(priced(0)), roads.undisturbed_s(priced(1))) == (13.0, 9.0)


def test_an_upload_that_is_foreseen_begins_when_the_computing_has_ended():
    """Down at 2 MB/s, then from 10 s on 1 MB/s up in place of 0.1 MB/s: 8.5 s, 0.5 s of latency, and by 10 s 0.1 MB."""
    trace = BandwidthTrace((0.0, 10.0), (1e5, 1e6))
    link = Link(uplink_bytes_per_s=1.0, downlink_bytes_per_s=2e6, latency_s=0.5, uplink_trace=trace)
    roads = traffic(Conditions(network=lambda now_s: Network([link, LINK, LINK], seed=7, now_s=now_s)))
    assert roads.undisturbed_s(priced(0)) == pytest.approx(10.0 + 3.9)
    begun(roads, 0)
    assert landings(roads) == [(pytest.approx(13.9), 0)]


def test_measured_seconds_take_the_place_of_planned_ones():
    roads = Traffic(conditions(), range(3), 0.0, measure=lambda flight: 0.25)
    (flight,) = begun(roads, 0)
    assert landings(roads) == [(7.25, 0)]
    assert flight.compute_s == 0.25
