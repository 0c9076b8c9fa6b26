"""Bandwidth traces: rates by time, their integral and its inverse, and files that are refused."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.errors import UserError
from fedknow_ray.simulation.trace import BandwidthTrace, TraceFileError, parse_trace, read_trace

STEPS = BandwidthTrace((0.0, 10.0, 20.0), (100.0, 0.0, 50.0))


@st.composite
def traces(draw) -> BandwidthTrace:
    gaps = draw(st.lists(st.integers(1, 64), max_size=5))
    times = [0.0]
    for gap in gaps:
        times.append(times[-1] + gap / 4)
    rates = [*draw(st.lists(st.integers(0, 100), min_size=len(gaps), max_size=len(gaps))), draw(st.integers(1, 100))]
    return BandwidthTrace(tuple(times), tuple(map(float, rates)))


starts = st.integers(0, 200).map(lambda quarters: quarters / 4)
sizes = st.integers(1, 10_000)


def slow_sent(trace: BandwidthTrace, start_s: float, end_s: float) -> Fraction:
    """Add up the pieces one by one, in fractions."""
    edges = [*map(Fraction, trace.times_s), Fraction(max(end_s, trace.times_s[-1]))]
    return sum(
        (
            Fraction(rate) * max(Fraction(0), min(after, Fraction(end_s)) - max(before, Fraction(start_s)))
            for rate, before, after in zip(trace.rates_bytes_per_s, edges, edges[1:], strict=False)
        ),
        Fraction(0),
    )


@pytest.mark.parametrize(("time_s", "rate"), [(0.0, 100.0), (9.99, 100.0), (10.0, 0.0), (20.0, 50.0), (1e9, 50.0)])
def test_a_rate_holds_from_its_time_on(time_s, rate):
    assert STEPS.rate_at(time_s) == rate


@pytest.mark.parametrize(("time_s", "step_s"), [(0.0, 10.0), (9.0, 10.0), (10.0, 20.0), (20.0, float("inf"))])
def test_the_next_step_lies_after_now(time_s, step_s):
    assert STEPS.next_step_s(time_s) == step_s


def test_bytes_are_the_integral_of_the_rate():
    assert STEPS.sent_bytes(5.0, 22.0) == 5 * 100 + 0 + 2 * 50


@pytest.mark.parametrize(
    ("start_s", "size_bytes", "end_s"),
    [
        (1.0, 200, 3.0),  # within a piece
        (1.0, 900, 10.0),  # to the very step: not the end of the stop that follows
        (1.0, 1000, 22.0),  # over the stop
        (12.0, 50, 21.0),  # begins while nothing goes
        (30.0, 50, 31.0),  # after the last row
        (12.0, 0, 12.0),
    ],
)
def test_a_transfer_ends_when_its_bytes_have_gone(start_s, size_bytes, end_s):
    assert STEPS.end_s(start_s, size_bytes) == end_s


@settings(deadline=None)
@given(traces(), starts, sizes)
def test_the_end_is_the_inverse_of_the_bytes(trace, start_s, size_bytes):
    end_s = trace.end_s(start_s, size_bytes)
    assert float(slow_sent(trace, start_s, end_s)) == pytest.approx(size_bytes, rel=1e-9)
    assert trace.sent_bytes(start_s, end_s) == pytest.approx(size_bytes, rel=1e-9)


@settings(deadline=None)
@given(traces(), starts, starts)
def test_bytes_are_exact_on_the_pieces(trace, one_s, other_s):
    """All numbers here are quarters, which floats hold."""
    start_s, end_s = sorted((one_s, other_s))
    assert trace.sent_bytes(start_s, end_s) == slow_sent(trace, start_s, end_s)


@settings(deadline=None)
@given(traces(), starts, sizes)
def test_the_end_is_the_earliest(trace, start_s, size_bytes):
    end_s = trace.end_s(start_s, size_bytes)
    before_s = end_s - (end_s - start_s) / 1000
    assert slow_sent(trace, start_s, before_s) < size_bytes


def test_a_trace_of_one_row_is_a_rate():
    assert BandwidthTrace((0.0,), (1e6,)).end_s(3.0, 9_540_800) == 3.0 + 9_540_800 / 1e6


@pytest.mark.parametrize(
    ("times_s", "rates", "message"),
    [
        ((), (), "has no row"),
        ((0.0, 5.0, 4.0), (1.0, 1.0, 1.0), "row 3: time 4 s does not come after 5 s"),
        ((0.0,), (0.0,), "the last rate is 0"),
    ],
)
def test_a_trace_checks_itself(times_s, rates, message):
    with pytest.raises(ValueError, match=message):
        BandwidthTrace(times_s, rates)


def test_nothing_is_known_of_a_time_before_0():
    with pytest.raises(ValueError, match=r"a trace begins at 0 s, not at -1\.0 s"):
        STEPS.rate_at(-1.0)


def test_a_file_is_read(tmp_path):
    path = tmp_path / "lte.csv"
    path.write_text("# measured on a tram\ntime_s, bytes_per_s\n0,1e6\n\n60.5,0\n90,250000\n", encoding="utf-8")
    trace = read_trace(path)
    assert trace.times_s == (0.0, 60.5, 90.0)
    assert trace.rates_bytes_per_s == (1e6, 0.0, 250000.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("5,100", "x.csv:2: the first time is 5 s and must be 0; say what the rate is from the beginning"),
        ("0,100\n9,50\n9,20", "x.csv:4: time 9 s does not come after 9 s; sort the rows, each time once"),
        ("0,100\n9,50\n8,20", "x.csv:4: time 8 s does not come after 9 s; sort the rows, each time once"),
        ("0,100\n9,-1", "x.csv:3: the rate -1 bytes/s is negative; 0 stops a transfer, and there is nothing less"),
        ("0,100\n9,0", "x.csv:3: the last rate is 0 bytes/s, so a transfer would never end; add a row with a rate"),
        ("0,nan", "x.csv:2: time 0, rate nan: both must be finite numbers"),
        ("0,100\ninf,100", "x.csv:3: time inf, rate 100: both must be finite numbers"),
        ("0,fast", "x.csv:2: must be two numbers, time_s,bytes_per_s, got '0,fast'"),
        ("0,1,2", "x.csv:2: must be two numbers, time_s,bytes_per_s, got '0,1,2'"),
        ("", "x.csv:1: has no row; give at least one below the line time_s,bytes_per_s"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(rows, message):
    with pytest.raises(TraceFileError) as caught:
        parse_trace(f"time_s,bytes_per_s\n{rows}", "x.csv")
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.csv:1: is empty; write the line time_s,bytes_per_s and at least one row below it"),
        ("0,100", "x.csv:1: the first line must be time_s,bytes_per_s, got '0,100'"),
        ("bytes_per_s,time_s\n0,0", "x.csv:1: the first line must be time_s,bytes_per_s, got 'bytes_per_s,time_s'"),
    ],
)
def test_a_file_without_its_header_is_refused(text, message):
    with pytest.raises(TraceFileError) as caught:
        parse_trace(text, "x.csv")
    assert str(caught.value) == message


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(TraceFileError, match=r"none\.csv: cannot be read \(No such file or directory\); give a CSV"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceFileError, match="is no text in UTF-8"):
        read_trace(tmp_path / "x.csv")
