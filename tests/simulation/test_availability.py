"""When clients are on: stretches by hand, and the laws that every model keeps."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.errors import ConfigError
from fedknow_ray.simulation.availability import (
    AlwaysOn,
    Availability,
    Markov,
    Patterned,
    Stretch,
    duty_cycle,
    random_offsets,
)
from fedknow_ray.simulation.availability_gaps import Membership, Outage, Outages
from fedknow_ray.simulation.availability_pattern import Pattern
from fedknow_ray.simulation.availability_trace import parse_trace, read_trace

CLIENTS = 3
times_s = st.floats(0, 1e7) | st.integers(0, 10**7).map(float)


@st.composite
def intervals(draw: st.DrawFn, end_s: float | None = None) -> list[tuple[float, float]]:
    """Sound intervals; those of a list may touch, and end at *end_s* if it is given."""
    lengths_s = draw(st.lists(st.integers(1, 500), min_size=2, max_size=8))
    end_s = end_s or float(sum(lengths_s))
    edges_s = [sum(lengths_s[:n]) * end_s / sum(lengths_s) for n in range(len(lengths_s) + 1)]
    touching = draw(st.booleans())
    pairs = list(pairwise(edges_s))
    return pairs if touching else pairs[draw(st.integers(0, 1)) :: 2]


@st.composite
def periodic(draw: st.DrawFn) -> Patterned:
    period_s = float(draw(st.integers(10, 5000)))
    offset_s = draw(st.floats(0, 1e4))
    patterns = [Pattern(draw(intervals(period_s)), period_s=period_s, offset_s=offset_s) for _ in range(CLIENTS)]
    return Patterned(patterns)


plain = st.one_of(
    st.just(AlwaysOn()),
    periodic(),
    st.builds(
        lambda of_client: Patterned([Pattern(i) for i in of_client]), st.lists(intervals(), min_size=3, max_size=3)
    ),
    st.builds(
        lambda on_s, off_s, seed: Markov(mean_on_s=on_s, mean_off_s=off_s, seed=seed),
        st.floats(1e4, 1e6),
        st.floats(1e4, 1e6),
        st.integers(0, 2**31),
    ),
)


@st.composite
def outages(draw: st.DrawFn) -> Outage:
    from_s = draw(times_s)
    clients = draw(st.frozensets(st.integers(0, CLIENTS - 1)))
    return Outage(clients, from_s, draw(st.floats(from_s, 2e7, exclude_min=True) | st.just(math.inf)))


with_outages = st.builds(Outages, plain, st.lists(outages(), max_size=5))
members = st.builds(
    lambda inner, joins_s, stays_s: Membership(inner, {0: joins_s}, {0: joins_s + stays_s, 1: stays_s}),
    with_outages,
    times_s,
    st.floats(1, 1e7),
)
every_model = st.one_of(plain, with_outages, members)


def forgetful(model: Availability) -> Availability:
    """Return the model without its memory of the last answers, so that each answer is worked out."""
    inner: Availability | None = model
    while inner is not None:
        inner._recent.clear()
        inner = getattr(inner, "_inner", None)
    return model


@settings(deadline=None)
@given(every_model, st.integers(0, CLIENTS - 1), times_s)
def test_next_on_is_on_and_nothing_before_it_is(model: Availability, client_id: int, time_s: float):
    next_s = model.next_on(client_id, time_s)
    assert next_s >= time_s
    if next_s < math.inf:
        assert forgetful(model).is_on(client_id, next_s)
    if next_s > time_s:
        last_s = min(math.nextafter(next_s, 0), 1e9)
        for moment_s in (time_s, time_s + (last_s - time_s) / 2, last_s):
            assert not forgetful(model).is_on(client_id, moment_s)
            assert model.next_on(client_id, moment_s) == next_s


@settings(deadline=None)
@given(every_model, st.integers(0, CLIENTS - 1), times_s)
def test_a_client_is_on_just_before_the_end_of_its_stretch_and_off_at_it(
    model: Availability, client_id: int, time_s: float
):
    start_s = model.next_on(client_id, time_s)
    if start_s == math.inf:
        return
    until_s = model.on_until(client_id, start_s)
    assert until_s > start_s
    last_s = min(math.nextafter(until_s, 0), 1e9)
    for moment_s in (start_s, start_s + (last_s - start_s) / 2, last_s):
        assert forgetful(model).is_on(client_id, moment_s)
        assert model.on_until(client_id, moment_s) == until_s
    if until_s < math.inf:
        assert not forgetful(model).is_on(client_id, until_s)


@settings(deadline=None)
@given(st.lists(times_s, min_size=1, max_size=20), st.data(), st.integers(0, 2**31))
def test_answers_do_not_depend_on_the_order_of_the_questions(moments: list[float], data: st.DataObject, seed: int):
    def markov() -> Markov:
        return Markov(mean_on_s=3e5, mean_off_s=1e5, seed=seed)

    questions = [(client_id, time_s) for client_id in range(CLIENTS) for time_s in moments]
    one, other = markov(), markov()
    first = {question: one.stretch(*question) for question in questions}
    second = {question: other.stretch(*question) for question in data.draw(st.permutations(questions))}
    assert first == second


@settings(deadline=None)
@given(every_model, st.lists(times_s, min_size=2, max_size=20))
def test_answers_are_the_same_with_and_without_memory_of_the_last(model: Availability, moments: list[float]):
    remembered = [model.stretch(0, time_s) for time_s in moments]
    assert remembered == [forgetful(model).stretch(0, time_s) for time_s in moments]


@settings(deadline=None)
@given(every_model, st.lists(times_s, max_size=8))
def test_those_who_are_on_are_those_whom_it_says_to_be_on(model: Availability, moments: list[float]):
    for time_s in moments:
        on = [c for c in range(CLIENTS) if model.is_on(c, time_s)]
        assert model.on_at(range(CLIENTS), time_s) == on
        staying = [c for c in on if model.on_until(c, time_s) >= time_s + 100 * c]
        assert model.on_throughout(range(CLIENTS), time_s, lambda client_id: 100.0 * client_id) == staying
        members = [c for c in range(CLIENTS) if model.is_member(c, time_s)]
        assert model.members_at(range(CLIENTS), time_s) == members
        assert set(on) <= set(members)


def test_always_on():
    assert AlwaysOn().stretch(7, 5.0) == (True, math.inf)
    assert AlwaysOn().is_member(7, 5.0)


def test_a_duty_cycle_by_hand():
    """On for 4 of 10 s; client 1 starts 3 s later, client 2 starts 8 s later and so is on until 2 s at first."""
    model = duty_cycle(period_s=10, on_s=4, offsets_s=[0, 3, 8])
    assert model.stretch(0, 0) == (True, 4)
    assert model.stretch(0, 4) == (False, 10)
    assert model.stretch(0, 1013.5) == (True, 1014)
    assert model.stretch(1, 0) == (False, 3)
    assert model.stretch(2, 0) == (True, 2)
    assert model.stretch(2, 2) == (False, 8)


def test_a_cycle_without_an_off_is_always_on():
    assert duty_cycle(period_s=10, on_s=10, offsets_s=[3]).stretch(0, 99) == (True, math.inf)


def test_edges_that_rounding_moves_stay_consistent():
    """0.1 s is no float64: a quotient alone would put some of these moments a turn too early or too late."""
    model = duty_cycle(period_s=0.1, on_s=0.05, offsets_s=[0.3])
    time_s = 0.0
    for _ in range(1000):
        start_s = model.next_on(0, time_s)
        time_s = model.on_until(0, start_s)
        assert model.is_on(0, start_s)
        assert not model.is_on(0, time_s)
    # 1000 turns of 0.1 s from 0.0 s on, whose stretches end 0.05 s after they start
    assert time_s == pytest.approx(99.95)


def test_drawn_offsets_lie_in_the_period_and_differ():
    drawn = random_offsets(clients=50, period_s=86400, seed=1)
    assert all(0 <= offset_s < 86400 for offset_s in drawn)
    assert len(set(drawn)) == 50
    assert random_offsets(clients=60, period_s=86400, seed=1)[:50] == drawn
    assert random_offsets(clients=50, period_s=86400, seed=2) != drawn


def on_share(model: Availability, client_id: int, end_s: float) -> float:
    on_s, time_s = 0.0, 0.0
    while time_s < end_s:
        on, until_s = model.stretch(client_id, time_s)
        on_s += min(until_s, end_s) - time_s if on else 0.0
        time_s = until_s
    return on_s / end_s


@pytest.mark.parametrize(("mean_on_s", "mean_off_s"), [(300, 100), (10, 90), (1, 1)])
def test_the_share_of_on_time_of_a_markov_chain_tends_to_its_expectation(mean_on_s: float, mean_off_s: float):
    """10,000 cycles: the share's standard deviation is p (1 - p) sqrt(2 / 10,000), at most 0.0036."""
    model = Markov(mean_on_s=mean_on_s, mean_off_s=mean_off_s, seed=1)
    expected = mean_on_s / (mean_on_s + mean_off_s)
    assert on_share(model, 0, 10_000 * (mean_on_s + mean_off_s)) == pytest.approx(expected, abs=0.018)


@pytest.mark.parametrize("time_s", [0.0, 50.0])
def test_a_markov_chain_starts_as_it_goes_on(time_s: float):
    """Stationary: of 4,000 clients 3,000 are on at any moment, 5 standard deviations are 137."""
    model = Markov(mean_on_s=300, mean_off_s=100, seed=1)
    assert len(model.on_at(range(4000), time_s)) == pytest.approx(3000, abs=137)


def test_a_markov_chain_depends_on_seed_and_client():
    first = Markov(mean_on_s=300, mean_off_s=100, seed=1)
    other = Markov(mean_on_s=300, mean_off_s=100, seed=2)
    assert len({first.stretch(0, 1e4), first.stretch(1, 1e4), other.stretch(0, 1e4)}) == 3


@pytest.mark.parametrize("mean_s", [0, -1, math.inf, math.nan])
def test_a_markov_chain_refuses_a_mean_that_is_none(mean_s: float):
    with pytest.raises(ValueError, match="mean_off_s must be greater than 0"):
        Markov(mean_on_s=1, mean_off_s=mean_s, seed=1)


@pytest.mark.parametrize("time_s", [-1.0, math.inf, math.nan])
def test_moments_that_are_none_are_refused(time_s: float):
    with pytest.raises(ValueError, match="at finite times, got"):
        AlwaysOn().stretch(0, time_s)


def test_the_end_of_a_stretch_is_refused_to_who_is_off():
    with pytest.raises(ValueError, match=r"client 1 is off at 0.0 s, until 3.0 s"):
        duty_cycle(period_s=10, on_s=4, offsets_s=[0, 3]).on_until(1, 0.0)


def test_outages_by_hand():
    """A duty cycle of 4 in 10 s; the power fails from 2 to 12 s, and from 23 to 30 s, told in two parts."""
    cycle = duty_cycle(period_s=10, on_s=4, offsets_s=[0, 0])
    zero = frozenset({0})
    model = Outages(cycle, [Outage(zero, 23, 26), Outage(zero, 2, 12), Outage(zero, 25, 30)])
    assert model.stretch(0, 0) == (True, 2)
    assert model.stretch(0, 2) == (False, 12)
    assert model.stretch(0, 12) == (True, 14)
    assert model.stretch(0, 14) == (False, 20)
    assert model.stretch(0, 23) == (False, 30)
    assert model.stretch(0, 30) == (True, 34)
    assert [model.stretch(1, t) for t in (0, 2, 5)] == [cycle.stretch(1, t) for t in (0, 2, 5)]


def test_an_outage_within_another_shortens_nothing():
    zero = frozenset({0})
    assert Outages(AlwaysOn(), [Outage(zero, 2, 12), Outage(zero, 3, 5)]).stretch(0, 4) == (False, 12)


def test_an_outage_that_outlasts_a_stretch_waits_for_the_next():
    model = Outages(duty_cycle(period_s=10, on_s=4, offsets_s=[0]), [Outage(frozenset({0}), 2, 15)])
    assert model.stretch(0, 3) == (False, 20)


@pytest.mark.parametrize(("from_s", "to_s"), [(-1, 2), (2, 2), (3, 2), (math.nan, 2)])
def test_an_outage_that_is_none_is_refused(from_s: float, to_s: float):
    with pytest.raises(ValueError, match="must start at 0 s or later and end after that"):
        Outage(frozenset({0}), from_s, to_s)


def test_joining_and_leaving_by_hand():
    model = Membership(AlwaysOn(), {0: 10}, {0: 20, 1: 5})
    assert model.stretch(0, 0) == (False, 10)
    assert model.stretch(0, 10) == (True, 20)
    assert model.stretch(0, 20) == (False, math.inf)
    assert model.stretch(1, 0) == (True, 5)
    assert model.stretch(2, 0) == (True, math.inf)
    assert [model.is_member(0, t) for t in (0, 10, 19, 20)] == [False, True, True, False]
    assert [model.is_member(2, t) for t in (0, 10)] == [True, True]


def test_a_member_without_power_is_a_member():
    model = Outages(Membership(AlwaysOn(), {0: 10}, {}), [Outage(frozenset({0}), 5, 20)])
    assert model.is_member(0, 15)
    assert not model.is_on(0, 15)
    assert not model.is_member(0, 7)


@pytest.mark.parametrize(
    ("joins_s", "leaves_s"), [(5.0, 5.0), (6.0, 5.0), (-1.0, 5.0), (math.nan, 5.0), (0.0, math.inf)]
)
def test_a_membership_that_is_none_is_refused(joins_s: float, leaves_s: float):
    with pytest.raises(ValueError, match="client 3 must join at 0 s or later"):
        Membership(AlwaysOn(), {3: joins_s}, {3: leaves_s})


def test_a_trace_by_hand():
    model = parse_trace({"clients": [[[0, 5], [5, 8], [10, 12]], [[3, 4]], [[1, 2]]]}, 2, where="t.json")
    assert model.stretch(0, 1) == (True, 8)
    assert model.stretch(0, 8) == (False, 10)
    assert model.stretch(0, 12) == (False, math.inf)
    assert model.stretch(1, 0) == Stretch(False, 3)


def test_a_repeated_trace_goes_on_across_its_period():
    """[9, 10] and the next turn's [0, 2] are one stretch."""
    model = parse_trace({"period_s": 10, "clients": [[[0, 2], [4, 5], [9, 10]]]}, 1, where="t.json")
    assert model.stretch(0, 0) == (True, 2)
    assert model.stretch(0, 2) == (False, 4)
    assert model.stretch(0, 9) == (True, 12)
    assert model.stretch(0, 11) == (True, 12)
    assert model.stretch(0, 1015) == (False, 1019)


def test_a_trace_that_fills_its_period_is_always_on():
    model = parse_trace({"period_s": 10, "clients": [[[0, 2], [2, 10]]]}, 1, where="t.json")
    assert model.stretch(0, 7) == (True, math.inf)


def test_traces_by_client_id(tmp_path: Path):
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({"clients": {"1": [[0, 5]], "0": [[7, 9]], "12": [[0, 1]]}}))
    model = read_trace(file, 2)
    assert model.next_on(0, 0) == 7
    assert model.is_on(1, 0)


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        ([[0, 5], [4, 8]], "clients.0: [4, 8] overlaps [0, 5]"),
        ([[6, 8], [0, 5]], "clients.0: [0, 5] starts before [6, 8], which stands before it; put them in order"),
        ([[5, 0]], "clients.0: [5, 0] ends before it starts"),
        ([[-1, 5]], "clients.0: [-1, 5] starts before 0 s"),
        ([[5, 5]], "clients.0: [5, 5] is empty"),
        ([[5, 5.0005]], "clients.0: [5, 5.0005] is shorter than 0.001 s"),
        ([[8, 21]], "clients.0: [8, 21] ends after the period of 20 s"),
        ([], "clients.0: there is no interval, so it would never be on; take it out, or give one"),
        ([[0, 19.9999]], "clients.0: it is off for only 0.0001 s between two turns of 20 s; at least 0.001 s, or 0"),
        ([[0, 5, 7]], "clients.0: must be a list of [start_s, end_s], got [[0, 5, 7]]"),
        ([[0, True]], "clients.0: must be a list of [start_s, end_s], got [[0, true]]"),
        ([[0, 10**400]], "clients.0: must be a list of [start_s, end_s], got [[0, 1" + "0" * 54),
        ("on", 'clients.0: must be a list of [start_s, end_s], got "on"'),
    ],
)
def test_a_trace_that_is_none_is_refused_with_file_client_and_values(trace: object, told: str):
    with pytest.raises(ConfigError) as caught:
        parse_trace({"period_s": 20, "clients": [trace]}, 1, where="t.json")
    assert [str(fault) for fault in caught.value.faults] == [f"t.json: {told}"]


def test_a_gap_that_is_too_short_to_tell_is_refused():
    with pytest.raises(ConfigError, match=r"\[5.0001, 6\] starts only 0.0001 s after \[0, 5\]; at least 0.001 s, or"):
        parse_trace({"clients": [[[0, 5], [5.0001, 6]]]}, 1, where="t.json")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "must be an object with the key clients, got []"),
        ({"clients": 3}, "clients: must be a list of traces, or an object of client ids, each with its trace"),
        ({"clients": {}}, "clients: has no trace for 2 of the 2 clients: 0, 1"),
        ({"clients": [[[0, 1]]]}, "clients: has no trace for 1 of the 2 clients: 1"),
        ({"clients": [[[0, 1]]] * 2, "period": 3}, "period: unknown key; did you mean 'period_s'?"),
        ({"clients": [[[0, 1]]] * 2, "period_s": 0}, "period_s: must be a number of seconds greater than 0, got 0"),
        (
            {"clients": {"0": [[0, 1]], "1": [[0, 1]], "01": [[0, 1]]}},
            "clients.01: must be a client id, a whole number from 0, got '01'",
        ),
    ],
)
def test_a_file_that_is_no_trace_is_refused(content: object, told: str):
    with pytest.raises(ConfigError) as caught:
        parse_trace(content, 2, where="t.json")
    assert [str(fault) for fault in caught.value.faults] == [f"t.json: {told}"]


def test_all_faults_of_a_trace_are_told_at_once_but_not_a_thousand():
    with pytest.raises(ConfigError) as caught:
        parse_trace({"clients": [[[5, 5], [9, 8]]] * 40}, 40, where="t.json")
    assert len(caught.value.faults) == 21
    assert str(caught.value.faults[1]) == "t.json: clients.0: [9, 8] ends before it starts"
    assert str(caught.value.faults[-1]) == "t.json: and 60 faults more"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"clients": [', "is not JSON: line 1: "),
        ('{"clients": [[[0, NaN]]]}', "is no trace: NaN is no time; write a number of seconds"),
        ('{"clients": {"0": [[0, 1]], "0": [[2, 3]]}}', "is no trace: the key '0' is said twice; keep one"),
        ("[" * 100_000, "is no trace: "),
    ],
)
def test_a_file_that_cannot_be_read_as_a_trace_is_refused(tmp_path: Path, text: str, told: str):
    file = tmp_path / "trace.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_trace(file, 1)
    assert str(caught.value.faults[0]).startswith(f"{file}: {told}")


def test_a_missing_file_and_one_that_is_no_text_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="there is no such file"):
        read_trace(tmp_path / "none.json", 1)
    with pytest.raises(ConfigError, match="cannot be read: "):
        read_trace(tmp_path, 1)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_trace(tmp_path / "binary.json", 1)
