"""A shared link: max-min fair rates, and the fluid model against a slow one in fractions."""

from __future__ import annotations

from fractions import Fraction
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.simulation.sharing import FairShare, Source, water_level
from fedknow_ray.simulation.trace import BandwidthTrace

Flow = tuple[float, float, int, Source]  # begin_s, active_s, bytes, source

quarters = st.integers(0, 60).map(lambda number: number / 4)
STEPPING = BandwidthTrace((0.0, 3.0, 7.5), (8.0, 0.0, 3.0))
RISING = BandwidthTrace((0.0, 5.0), (1.0, 20.0))
sources = st.sampled_from([1.0, 2.0, 2.5, 7.0, 40.0, STEPPING, RISING])


@st.composite
def flows(draw, source=sources) -> list[Flow]:
    many = draw(st.integers(1, 8))
    begins = sorted(draw(st.lists(quarters, min_size=many, max_size=many)))
    return [
        (begin_s, begin_s + draw(st.sampled_from([0.0, 0.25, 2.0])), draw(st.integers(1, 60)), draw(source))
        for begin_s in begins
    ]


def slow_rates(capacity: Fraction, caps: dict[int, Fraction]) -> dict[int, Fraction]:
    """Raise all rates together; who has its cap stops, and when nothing is left all stop."""
    rates = dict.fromkeys(caps, Fraction(0))
    growing = {flow for flow, cap in caps.items() if cap > 0}
    left = capacity
    while growing and left > 0:
        step = min(left / len(growing), *(caps[flow] - rates[flow] for flow in growing))
        for flow in growing:
            rates[flow] += step
        left -= step * len(growing)
        growing = {flow for flow in growing if rates[flow] < caps[flow]}
    return rates


def slow_ends(capacity: float, arrivals: list[Flow]) -> list[Fraction]:
    """Go from moment to moment, and at each work out everything anew."""
    left = [Fraction(size) for _, _, size, _ in arrivals]
    ends: list[Fraction | None] = [None] * len(arrivals)
    now = Fraction(0)
    while None in ends:
        active = [i for i, (_, active_s, _, _) in enumerate(arrivals) if active_s <= now and ends[i] is None]
        caps = {i: Fraction(cap_at(arrivals[i][3], float(now))) for i in active}
        rates = slow_rates(Fraction(capacity), caps)
        moments = [now + left[i] / rates[i] for i in active if rates[i]]
        moments += [Fraction(active_s) for _, active_s, _, _ in arrivals if active_s > now]
        steps = (
            time_s for i in active if isinstance(arrivals[i][3], BandwidthTrace) for time_s in arrivals[i][3].times_s
        )
        moments += [Fraction(time_s) for time_s in steps if time_s > now]
        then = min(moments)
        for i in active:
            left[i] -= rates[i] * (then - now)
            if left[i] == 0:
                ends[i] = then
        now = then
    return [end for end in ends if end is not None]


def cap_at(source: Source, time_s: float) -> float:
    return source.rate_at(time_s) if isinstance(source, BandwidthTrace) else source


def drive(capacity: float, arrivals: list[Flow]) -> list[tuple[float, int]]:
    """Begin each flow at its time, take out the ends before it, and return (end, flow) in the order of the ends."""
    share, ended = FairShare(capacity), []

    def take_until(limit_s: float) -> None:
        while (first := share.first_end()) is not None and first[0] <= limit_s:
            share.end(*first)
            ended.append(first)

    for flow, (begin_s, active_s, size, source) in enumerate(arrivals):
        take_until(begin_s)
        share.begin(begin_s, flow, active_s, size, source)
    take_until(inf)
    return ended


@pytest.mark.parametrize(
    ("caps", "level"),
    [
        ([], inf),
        ([(4.0, 2)], inf),
        ([(5.0, 2)], inf),  # exactly the capacity
        ([(6.0, 2)], 5.0),
        ([(1.0, 1), (8.0, 2)], 4.5),
        ([(0.0, 3), (100.0, 1)], 10.0),
        ([(1.0, 1), (2.0, 1), (3.0, 1), (9.0, 1)], 4.0),
    ],
)
def test_the_level_is_what_the_low_caps_leave(caps, level):
    assert water_level(10.0, caps) == level


def test_two_flows_share_and_the_one_that_stays_speeds_up():
    """10 bytes/s for two: 5 each until 20 bytes are through at 4 s; the other has 20 of its 40 left, at 10 bytes/s."""
    assert drive(10.0, [(0.0, 0.0, 20, 100.0), (0.0, 0.0, 40, 100.0)]) == [(4.0, 0), (6.0, 1)]


def test_a_late_flow_takes_its_share_from_its_beginning_on():
    """Alone until 1 s (10 of 30 bytes), then 5 bytes/s each: 20 more take 4 s; the second then has 10 left at 10."""
    assert drive(10.0, [(0.0, 0.0, 30, 100.0), (0.5, 1.0, 30, 100.0)]) == [(5.0, 0), (6.0, 1)]


def test_a_stop_in_a_trace_frees_the_link_for_others():
    """5 each until 3 s; then the trace is at 0 and the other has 10: its last 10 bytes take 1 s. The first goes on at
    7.5 s with 3 bytes/s for its 15 bytes."""
    assert drive(10.0, [(0.0, 0.0, 30, STEPPING), (0.0, 0.0, 25, 100.0)]) == [(4.0, 1), (12.5, 0)]


@settings(deadline=None, max_examples=300)
@given(flows(), st.sampled_from([1.0, 4.0, 10.0, 1000.0]))
def test_ends_are_those_of_the_slow_model(arrivals, capacity):
    fast = {flow: end_s for end_s, flow in drive(capacity, arrivals)}
    slow = slow_ends(capacity, arrivals)
    assert [fast[flow] for flow in range(len(arrivals))] == pytest.approx([float(end) for end in slow], rel=1e-9)


@settings(deadline=None)
@given(flows(), st.sampled_from([1.0, 4.0, 10.0, 1000.0]), quarters)
def test_rates_are_max_min_fair_and_conserve_the_capacity(arrivals, capacity, now_s):
    share = FairShare(capacity)
    begun = [(flow, arrival) for flow, arrival in enumerate(arrivals) if arrival[0] <= now_s]
    for flow, arrival in begun:
        share.begin(arrival[0], flow, *arrival[1:])
    rates = share.rates(now_s)
    caps = {flow: cap_at(arrivals[flow][3], now_s) for flow in rates}
    total, highest = sum(rates.values()), max(rates.values(), default=0.0)
    assert total <= capacity * (1 + 1e-12)
    for flow, rate in rates.items():
        assert rate <= caps[flow]
        if rate < caps[flow]:
            # Whoever is below its cap could gain only from somebody with no more, and from nothing that is left over.
            assert rate == highest
            assert total == pytest.approx(capacity, rel=1e-12)


@settings(deadline=None)
@given(quarters, st.integers(1, 60), sources)
def test_a_lone_flow_takes_its_private_time(begin_s, size, source):
    ((end_s, _),) = drive(1000.0, [(begin_s, begin_s + 0.25, size, source)])
    if isinstance(source, BandwidthTrace):
        assert end_s == pytest.approx(source.end_s(begin_s + 0.25, size), rel=1e-12)
    else:
        assert end_s == begin_s + 0.25 + size / source


@settings(deadline=None)
@given(flows(), st.sampled_from([1.0, 10.0]), quarters)
def test_bytes_sent_and_left_add_up_to_the_sizes(arrivals, capacity, now_s):
    """Cancelling everything at one moment: what is through cannot be more than the link has carried by then."""
    share, ended = FairShare(capacity), 0
    for flow, arrival in enumerate(arrivals):
        if arrival[0] <= now_s:
            share.begin(arrival[0], flow, *arrival[1:])
    begun = [flow for flow, arrival in enumerate(arrivals) if arrival[0] <= now_s]
    left = {flow: share.cancel(now_s, flow) for flow in begun}
    for flow in begun:
        assert 0 <= left[flow] <= arrivals[flow][2]
        if arrivals[flow][1] >= now_s:
            assert left[flow] == arrivals[flow][2]
        ended += arrivals[flow][2] - left[flow]
    assert ended <= capacity * now_s * (1 + 1e-12)
    assert share.first_end() is None


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(1, 10**7), st.floats(0.1, 1e6), sources)
def test_equal_flows_end_together_in_the_order_in_which_they_began(many, size, capacity, source):
    ended = drive(capacity, [(0.0, 0.25, size, source)] * many)
    assert [flow for _, flow in ended] == list(range(many))
    assert len({end_s for end_s, _ in ended}) == 1


@settings(deadline=None)
@given(flows(), st.sampled_from([1.0, 10.0]))
def test_a_cancelled_flow_is_as_if_it_stopped_there(arrivals, capacity):
    """Cancelled at the moment at which it began, before it was active, a flow changes nobody's end."""
    share, calm = FairShare(capacity), drive(capacity, arrivals)
    ended = []
    for flow, (begin_s, active_s, size, source) in enumerate(arrivals):
        while (first := share.first_end()) is not None and first[0] <= begin_s:
            share.end(*first)
            ended.append(first)
        share.begin(begin_s, 1000 + flow, begin_s + 1.0, 5, source)
        share.begin(begin_s, flow, active_s, size, source)
        assert share.cancel(begin_s, 1000 + flow) == 5
    while (first := share.first_end()) is not None:
        share.end(*first)
        ended.append(first)
    assert ended == calm
