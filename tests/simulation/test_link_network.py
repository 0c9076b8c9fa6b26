"""The network as events: private transfers in closed form, shared ones, what is drawn, and misuse."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.simulation.framing import Framing
from fedknow_ray.simulation.link import Direction, Link
from fedknow_ray.simulation.network import Network, StreamPosition
from fedknow_ray.simulation.trace import BandwidthTrace

DOWN, UP = Direction.TO_CLIENT, Direction.TO_SERVER
FIRST = StreamPosition(task_index=0, round_index=0, kind="train")
LINK = Link(uplink_bytes_per_s=100.0, downlink_bytes_per_s=1000.0, latency_s=0.5)

times = st.floats(0, 1e6)
sizes = st.integers(0, 10**10)
links = st.builds(Link, st.floats(1, 1e9), st.floats(1, 1e9), st.floats(0, 10))


def network(*links: Link, **settings) -> Network[str]:
    return Network(links or (LINK, LINK), seed=1, **settings)


@settings(deadline=None)
@given(times, sizes, links)
def test_a_neutral_network_has_the_ends_of_the_plain_link_to_the_bit(now_s, payload_bytes, link):
    for direction, plain_s in ((DOWN, link.download_s(payload_bytes)), (UP, link.upload_s(payload_bytes))):
        neutral = network(link)
        assert neutral.duration_s(now_s, 0, direction, payload_bytes, FIRST) == plain_s
        assert neutral.begin(now_s, "a", 0, direction, payload_bytes, FIRST) == payload_bytes
        assert neutral.next_end() == (now_s + plain_s, "a")


def test_transfers_end_in_order_of_time_and_then_of_beginning():
    net = network()
    net.begin(0.0, "late", 0, UP, 1000, FIRST)
    net.begin(0.0, "b", 1, DOWN, 1000, FIRST)
    net.begin(0.0, "a", 0, DOWN, 1000, FIRST)
    ends = []
    while (first := net.next_end()) is not None:
        assert net.end(first[0]) == first[1]
        ends.append(first)
    assert ends == [(1.5, "b"), (1.5, "a"), (10.5, "late")]
    assert len(net) == 0


def test_an_empty_payload_is_not_sent_and_ends_at_once():
    net = network(server_uplink_bytes_per_s=1.0)
    assert net.begin(3.0, "a", 0, DOWN, 0, FIRST) == 0
    assert net.next_end() == (3.0, "a")
    assert net.end(3.0) == "a"


def test_a_trace_takes_the_place_of_the_rate():
    """100 bytes at 0.5 s: 50 until 1 s at 100 bytes/s, nothing until 4 s, the rest at 25 bytes/s in 2 s."""
    link = Link(9.0, 9.0, latency_s=0.5, uplink_trace=BandwidthTrace((0.0, 1.0, 4.0), (100.0, 0.0, 25.0)))
    net = network(link)
    assert net.duration_s(0.0, 0, UP, 100, FIRST) == 6.0
    net.begin(0.0, "a", 0, UP, 100, FIRST)
    assert net.next_end() == (6.0, "a")
    assert net.cancel(5.0, "a") == 75


def test_a_plain_link_with_a_trace_does_not_guess():
    link = Link(9.0, 9.0, downlink_trace=BandwidthTrace((0.0,), (100.0,)))
    assert link.upload_s(90) == 10.0
    with pytest.raises(ValueError, match="a transfer to_client follows a trace"):
        link.download_s(90)


def test_the_servers_uplink_is_shared_by_what_goes_to_clients():
    """Both are active from 0.5 s at 500 bytes/s each; the uplinks of the clients are not touched."""
    net = network(server_uplink_bytes_per_s=1000.0)
    net.begin(0.0, "a", 0, DOWN, 1000, FIRST)
    net.begin(0.0, "b", 1, DOWN, 1500, FIRST)
    net.begin(0.0, "up", 1, UP, 1000, FIRST)
    assert net.next_end() == (2.5, "a")
    assert net.end(2.5) == "a"
    assert net.next_end() == (3.0, "b")
    assert net.end(3.0) == "b"
    assert net.next_end() == (10.5, "up")
    assert (net.is_shared(DOWN), net.is_shared(UP)) == (True, False)


def test_the_servers_downlink_is_shared_by_what_comes_from_clients():
    net = network(server_downlink_bytes_per_s=50.0)
    net.begin(0.0, "a", 0, UP, 100, FIRST)
    net.begin(0.0, "b", 1, UP, 100, FIRST)
    assert net.next_end() == (4.5, "a")
    assert net.cancel(2.5, "b") == 50
    assert net.next_end() == (3.5, "a")


def test_a_cancelled_transfer_has_sent_what_was_on_the_wire():
    net = network()
    for key, now_s in (("early", 0.0), ("half", 0.0), ("whole", 0.0)):
        net.begin(now_s, key, 0, DOWN, 1001, FIRST)
    assert net.cancel(0.4, "early") == 0  # its latency had not passed
    assert net.cancel(1.0, "half") == 500
    end_s, key = net.next_end()
    assert (net.cancel(end_s, key), net.next_end()) == (1001, None)


def test_framing_adds_headers_to_what_is_sent():
    net = network(framing=Framing(mtu_bytes=60, header_bytes=24))
    assert net.begin(0.0, "a", 0, DOWN, 101, FIRST) == 173
    assert net.next_end() == (0.5 + 173 / 1000, "a")


def test_jitter_is_drawn_for_each_transfer_and_does_not_depend_on_the_order():
    jittery = Link(100.0, 1000.0, latency_s=0.5, jitter_s=0.1)
    places = [
        (client, direction, StreamPosition(task, round_index, kind))
        for client in (0, 1)
        for direction in (DOWN, UP)
        for task in (0, 1)
        for round_index in (0, 1)
        for kind in ("train", "refine")
    ]
    one, other = network(jittery, jittery), network(jittery, jittery)
    delays = {place: one.terms(place[0], place[1], 10, place[2]).delay_s for place in places}
    assert {p: other.terms(p[0], p[1], 10, p[2]).delay_s for p in reversed(places)} == delays
    assert len(set(delays.values())) == len(places)
    assert min(delays.values()) > 0.5
    elsewhere = Network((jittery, jittery), seed=2)
    assert elsewhere.terms(0, DOWN, 10, FIRST).delay_s != delays[0, DOWN, FIRST]


def test_jitter_has_its_mean():
    """The mean of 2,000 exponential draws lies within 4 standard errors, 4 x 0.2 / sqrt(2000), of 0.2."""
    net = network(Link(1.0, 1.0, jitter_s=0.2))
    delays = [net.terms(0, UP, 1, StreamPosition(0, index, "train")).delay_s for index in range(2000)]
    assert sum(delays) / 2000 == pytest.approx(0.2, abs=4 * 0.2 / 2000**0.5)


def test_lost_packets_are_drawn_and_counted():
    net = network(framing=Framing(mtu_bytes=60, header_bytes=24), loss_fraction=0.25)
    sent = [net.terms(0, UP, 5000, StreamPosition(0, index, "train")).wire_bytes for index in range(200)]
    assert all((wire_bytes - 7400) % 74 == 0 for wire_bytes in sent)
    assert sum(sent) / 200 == pytest.approx(7400 / 0.75, rel=0.02)
    assert net.terms(0, UP, 5000, StreamPosition(0, 7, "train")).wire_bytes == sent[7]


@pytest.mark.parametrize("direction", [DOWN, UP])
@settings(deadline=None)
@given(now_s=st.floats(0, 1e4), payload_bytes=st.integers(1, 10**8))
def test_a_lone_transfer_on_a_wide_shared_link_takes_its_private_time(direction, now_s, payload_bytes):
    wide = {"server_uplink_bytes_per_s": 1e12, "server_downlink_bytes_per_s": 1e12}
    shared = network(**wide)
    shared.begin(now_s, "a", 0, direction, payload_bytes, FIRST)
    duration_s = network().duration_s(now_s, 0, direction, payload_bytes, FIRST)
    assert shared.next_end()[0] == pytest.approx(now_s + duration_s, rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.integers(0, 5000)), min_size=1, max_size=12))
def test_the_order_of_ends_is_total_and_repeats(begins):
    """Shared and private directions together: ends never go back in time, and every transfer ends once."""

    def ends() -> list[tuple[float, int]]:
        net = Network[int]((LINK, LINK), seed=1, server_uplink_bytes_per_s=1500.0)
        ended = []
        for key, (begin_s, down, size) in enumerate(sorted(begins)):
            while (first := net.next_end()) is not None and first[0] < begin_s:
                ended.append((first[0], net.end(first[0])))
            net.begin(float(begin_s), key, key % 2, DOWN if down else UP, size, FIRST)
        while (first := net.next_end()) is not None:
            ended.append((first[0], net.end(first[0])))
        return ended

    one = ends()
    assert one == ends()
    assert sorted(key for _, key in one) == list(range(len(begins)))
    assert [end_s for end_s, _ in one] == sorted(end_s for end_s, _ in one)


def test_what_shares_the_servers_link_has_no_duration_of_its_own():
    with pytest.raises(ValueError, match="transfers to_client share the server's link"):
        network(server_uplink_bytes_per_s=1.0).duration_s(0.0, 0, DOWN, 1, FIRST)


def test_a_key_is_in_flight_once():
    net = network()
    net.begin(0.0, "a", 0, DOWN, 1, FIRST)
    with pytest.raises(ValueError, match="a transfer 'a' is in flight already"):
        net.begin(0.0, "a", 1, DOWN, 1, FIRST)


@pytest.mark.parametrize("shared", [{}, {"server_uplink_bytes_per_s": 1e6}])
def test_an_end_cannot_be_passed_over(shared):
    net = network(**shared)
    net.begin(0.0, "a", 0, DOWN, 1000, FIRST)
    with pytest.raises(ValueError, match=r"an end at 1\.5 s was not taken out before 2\.0 s"):
        net.begin(2.0, "b", 1, DOWN, 1, FIRST)


def test_only_the_first_end_can_be_taken_out():
    net = network()
    with pytest.raises(ValueError, match=r"no transfer ends at 1\.0 s: the first end is none"):
        net.end(1.0)
    net.begin(0.0, "a", 0, DOWN, 1000, FIRST)
    with pytest.raises(ValueError, match=r"no transfer ends at 1\.0 s: the first end is 1\.5"):
        net.end(1.0)


@pytest.mark.parametrize("now_s", [4.0, float("nan"), float("inf")])
def test_the_clock_does_not_go_back(now_s):
    net = Network((LINK,), seed=1, now_s=5.0)
    with pytest.raises(ValueError, match=r"the network stands at 5\.0 s and cannot go to"):
        net.begin(now_s, "a", 0, DOWN, 1, FIRST)


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="payload_bytes must not be negative, got -1"):
        network().begin(0.0, "a", 0, DOWN, -1, FIRST)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_fraction": 0.1}, r"a loss_fraction of 0\.1 needs framing"),
        ({"loss_fraction": 1.0}, "loss_fraction must be at least 0 and less than 1"),
        ({"server_uplink_bytes_per_s": 0.0}, "the server's rate to_client must be finite and greater than 0, got 0"),
        ({"server_downlink_bytes_per_s": float("inf")}, "the server's rate to_server must be finite"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(**settings)
