"""What the published Trace Event Format asks of a trace in its JSON object form, for the phases that we write.

From "Trace Event Format" (docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): complete events
(X), instant events (i), counters (C) and metadata (M). Spans of one thread may nest and not overlap otherwise; ours do
not even nest.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from itertools import pairwise
from typing import Any

METADATA = {
    "process_name": ("name", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}


def check_trace(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a trace; an assertion fails at the first thing that a viewer might not take."""
    text = json.dumps(trace, allow_nan=False)
    events = json.loads(text)["traceEvents"]
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert isinstance(trace["otherData"], dict)
    for event in events:
        _check_event(event)
    _check_names(events)
    _check_order(events)
    _check_spans([event for event in events if event["ph"] == "X"])
    return events


def _check_event(event: dict[str, Any]) -> None:
    assert isinstance(event["name"], str), event
    assert event["name"], event
    assert _is_index(event["pid"]), event
    assert _is_index(event["tid"]), event
    assert _is_number(event["ts"]), event
    assert event["ts"] >= 0, event
    assert isinstance(event["args"], dict), event
    match event["ph"]:
        case "X":
            assert isinstance(event["cat"], str), event
            assert _is_number(event["dur"]), event
            assert event["dur"] > 0, event
        case "i":
            assert isinstance(event["cat"], str), event
            assert event["s"] in ("g", "p", "t"), event
        case "C":
            assert event["args"], event
            assert all(_is_number(value) for value in event["args"].values()), event
        case "M":
            key, kind = METADATA[event["name"]]
            assert isinstance(event["args"][key], kind), event
        case other:
            raise AssertionError(f"phase {other!r}: {event}")


def _check_names(events: list[dict[str, Any]]) -> None:
    """Every process and every track that has something on it has one name."""
    names = defaultdict(list)
    for event in events:
        if event["name"] in ("process_name", "thread_name"):
            names[event["name"], event["pid"], event["tid"]].append(event["args"]["name"])
    assert all(len(given) == 1 for given in names.values()), names
    for event in events:
        assert ("process_name", event["pid"], 0) in names, event
        if event["ph"] in "Xi":
            assert ("thread_name", event["pid"], event["tid"]) in names, event


def _check_order(events: list[dict[str, Any]]) -> None:
    """The format asks for no order; ours is names first, then time."""
    assert all(a["ph"] == "M" or b["ph"] != "M" for a, b in pairwise(events))
    assert all(a["ts"] <= b["ts"] for a, b in pairwise(events) if b["ph"] != "M")


def _check_spans(spans: list[dict[str, Any]]) -> None:
    tracks = defaultdict(list)
    for span in spans:
        tracks[span["pid"], span["tid"]].append(span)
    for track in tracks.values():
        for a, b in pairwise(track):
            assert a["ts"] + a["dur"] <= b["ts"], f"{a} overlaps {b}"


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
