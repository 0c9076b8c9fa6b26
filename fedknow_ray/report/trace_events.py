"""The Trace Event Format, as far as a timeline needs it: tracks of spans, instants and counters of a process.

The format is that of Chrome's tracing ("Trace Event Format", docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6
I0nSsKchNAySU), which Perfetto opens. Times are whole microseconds. Spans of one track may not overlap: Perfetto does
not draw those that do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]

_US = 1e6


@dataclass(frozen=True, slots=True)
class Span:
    """Something that takes time on a track, from *start_s* to *end_s*; *args* are shown when it is chosen."""

    name: str
    category: str
    start_s: float
    end_s: float
    args: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happens at a moment of a track."""

    name: str
    category: str
    at_s: float
    args: Mapping[str, object] = field(default_factory=dict)


def process_events(pid: int, name: str) -> list[Event]:
    """Return what names a process, and sorts processes by their ids."""
    return [_metadata("process_name", pid, 0, name=name), _metadata("process_sort_index", pid, 0, sort_index=pid)]


def track_events(pid: int, tid: int, name: str, spans: Iterable[Span], marks: Iterable[Mark] = ()) -> list[Event]:
    """Return the events of one track: its name, its spans and its marks.

    Ends are rounded to microseconds and not lengths, so that spans that follow each other leave no gap. A span that
    would begin before the end of the one before it, by rounding, begins there; one that lasts for no microsecond is
    left out.
    """
    return [
        _metadata("thread_name", pid, tid, name=name),
        _metadata("thread_sort_index", pid, tid, sort_index=tid),
        *_complete(pid, tid, sorted(spans, key=lambda span: (span.start_s, span.end_s))),
        *(
            {"ph": "i", "s": "t", **_event(pid, tid, mark.name, mark.category, mark.at_s), "args": dict(mark.args)}
            for mark in marks
        ),
    ]


def counter_events(pid: int, name: str, changes: Iterable[tuple[float, str, int]]) -> list[Event]:
    """Return a counter that starts at 0, from its changes: (time_s, series, by how much), in any order.

    All series that there are stand in each event; changes of one microsecond are one event.
    """
    moments: dict[int, list[tuple[str, int]]] = {}
    for time_s, series, change in changes:
        moments.setdefault(_microseconds(time_s), []).append((series, change))
    values = dict.fromkeys(sorted({series for moment in moments.values() for series, _ in moment}), 0)
    events = []
    for ts, moment in sorted(moments.items()):
        before = dict(values)
        for series, change in moment:
            values[series] += change
        if values != before:
            events.append({"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": ts, "args": dict(values)})
    return events


def trace(events: Sequence[Event], about: Mapping[str, object]) -> dict[str, Any]:
    """Return the trace as its JSON object: names first, then by time; *about* is what viewers show of the whole."""
    ordered = sorted(events, key=lambda event: (event["ph"] != "M", event["ts"], event["pid"], event["tid"]))
    return {"displayTimeUnit": "ms", "otherData": dict(about), "traceEvents": ordered}


def _complete(pid: int, tid: int, spans: Iterable[Span]) -> list[Event]:
    events: list[Event] = []
    last_us = 0
    for span in spans:
        start_us, end_us = max(_microseconds(span.start_s), last_us), _microseconds(span.end_s)
        if end_us > start_us:
            event = _event(pid, tid, span.name, span.category, span.start_s) | {"ts": start_us}
            events.append({"ph": "X", **event, "dur": end_us - start_us, "args": dict(span.args)})
            last_us = end_us
    return events


def _event(pid: int, tid: int, name: str, category: str, time_s: float) -> Event:
    return {"name": name, "cat": category, "pid": pid, "tid": tid, "ts": _microseconds(time_s)}


def _metadata(kind: str, pid: int, tid: int, **args: object) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": args}


def _microseconds(time_s: float) -> int:
    return round(time_s * _US)
