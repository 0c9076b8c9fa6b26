"""Tracks and counters of a trace, to the microsecond."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from trace_format import check_trace

from fedknow_ray.report.trace_events import Mark, Span, counter_events, process_events, trace, track_events


def test_a_span_is_a_complete_event_in_microseconds():
    event = track_events(3, 4, "a", [Span("train", "compute", 1.5, 2.25, {"steps": 8})])[-1]
    assert event == {
        "ph": "X",
        "name": "train",
        "cat": "compute",
        "pid": 3,
        "tid": 4,
        "ts": 1_500_000,
        "dur": 750_000,
        "args": {"steps": 8},
    }


def test_a_mark_is_an_instant_of_its_thread():
    event = track_events(3, 4, "a", [], [Mark("lost", "lost", 0.25)])[-1]
    assert event == {"ph": "i", "s": "t", "name": "lost", "cat": "lost", "pid": 3, "tid": 4, "ts": 250_000, "args": {}}


def test_a_track_has_a_name_and_a_place():
    assert track_events(3, 4, "client 2", []) == [
        {"ph": "M", "name": "thread_name", "pid": 3, "tid": 4, "ts": 0, "args": {"name": "client 2"}},
        {"ph": "M", "name": "thread_sort_index", "pid": 3, "tid": 4, "ts": 0, "args": {"sort_index": 4}},
    ]


def test_spans_that_follow_each_other_leave_no_gap():
    """Three spans of 0.4 microseconds: rounded ends are 0, 1 and 1, so only the second lasts."""
    spans = [Span(name, "x", k * 4e-7, (k + 1) * 4e-7) for k, name in enumerate("abc")]
    assert [(e["name"], e["ts"], e["dur"]) for e in track_events(0, 0, "t", spans) if e["ph"] == "X"] == [("b", 0, 1)]


def test_a_counter_has_one_event_for_each_moment_at_which_it_changes():
    changes = [
        (2.0, "down", 5),
        (0.0, "up", 3),
        (2.0, "up", -3),
        (3.0, "down", 2),
        (3.0, "down", -2),
        (4.0, "down", -5),
    ]
    events = counter_events(1, "bytes", changes)
    assert [(event["ts"], event["args"]) for event in events] == [
        (0, {"down": 0, "up": 3}),
        (2_000_000, {"down": 5, "up": 0}),
        (4_000_000, {"down": 0, "up": 0}),
    ]
    assert {(event["ph"], event["name"], event["pid"]) for event in events} == {("C", "bytes", 1)}


def test_names_come_first_and_then_all_tracks_by_time():
    events = track_events(1, 2, "b", [Span("late", "x", 2, 3)]) + track_events(1, 1, "a", [Span("early", "x", 1, 2)])
    ordered = trace([*events, *process_events(1, "p")], {"run": "r"})
    assert [event["ph"] for event in ordered["traceEvents"]] == ["M"] * 6 + ["X"] * 2
    assert [event["name"] for event in ordered["traceEvents"][6:]] == ["early", "late"]
    assert ordered["otherData"] == {"run": "r"}


moments = st.floats(0, 1e7)


@settings(deadline=None)
@given(st.lists(moments, min_size=2, max_size=20))
def test_spans_that_do_not_overlap_do_not_overlap_in_the_trace(times):
    times = sorted(times)
    spans = [Span("s", "x", a, b) for a, b in pairwise(times)]
    check_trace(trace([*process_events(0, "p"), *track_events(0, 0, "t", reversed(spans))], {}))
