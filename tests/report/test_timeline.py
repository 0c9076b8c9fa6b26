"""A run's timeline: worked out by hand, and held to the format of traces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from made_run import DEVICES, a_round, made_run, step, visit
from trace_format import check_trace

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.report.recorded import recorded_availability
from fedknow_ray.report.timeline import HOST, VIRTUAL, build_timeline
from fedknow_ray.results import EventRow, Run
from fedknow_ray.simulation.availability import AlwaysOn, Patterned
from fedknow_ray.simulation.availability_pattern import Pattern


def events_of(run: Run, availability: Any = None) -> list[dict[str, Any]]:
    return check_trace(build_timeline(run, availability or AlwaysOn()))


def track_of(events: list[dict[str, Any]], pid: int, name: str) -> list[tuple[str, float, float]]:
    """Return (name, from, to) of all that is on a track, in seconds; of a mark both are the same."""
    (tid,) = (e["tid"] for e in events if e["ph"] == "M" and e["pid"] == pid and e["args"].get("name") == name)
    own = [e for e in events if e["ph"] in "Xi" and (e["pid"], e["tid"]) == (pid, tid)]
    return [(e["name"], e["ts"] / 1e6, (e["ts"] + e.get("dur", 0)) / 1e6) for e in own]


def test_a_visit_is_told_phase_by_phase(tmp_path):
    """On "slow" the work takes 2 + 1 + 1 s, equal phases together; the clock says 8 s, so each takes twice as long."""
    work = [step("train", 2, 1), step("prune", 1, 1), step("train", 1, 1)]
    rows = [visit(0, 10.0, (1, 8, 2, 0.5), work=work), a_round(0, 10.0, 21.5, [0])]
    assert track_of(events_of(made_run(tmp_path, rows)), VIRTUAL, "client 0 (slow)") == [
        ("download", 10.0, 11.0),
        ("train", 11.0, 17.0),
        ("prune", 17.0, 19.0),
        ("upload", 19.0, 21.0),
        ("wait", 21.0, 21.5),
    ]


def test_each_client_is_priced_by_its_own_device(tmp_path):
    """On "fast" three MB take 1 s."""
    rows = [visit(2, 0.0, (0, 3, 0, 0), work=[step("train", 1, 3), step("prune", 2, 3)])]
    assert track_of(events_of(made_run(tmp_path, rows)), VIRTUAL, "client 2 (fast)") == [
        ("train", 0.0, 1.0),
        ("prune", 1.0, 3.0),
    ]


def test_computing_without_recorded_work_is_one_span(tmp_path):
    rows = [visit(0, 0.0, (1, 8, 2, 0), work=[])]
    names = [name for name, *_ in track_of(events_of(made_run(tmp_path, rows)), VIRTUAL, "client 0 (slow)")]
    assert names == ["download", "compute", "upload"]


def test_a_lost_visit_goes_as_far_as_it_came_and_is_marked(tmp_path):
    lost = visit(0, 0.0, (1, 2, 0, 0), status="failed", merge_index=None)
    assert track_of(events_of(made_run(tmp_path, [lost])), VIRTUAL, "client 0 (slow)") == [
        ("download", 0.0, 1.0),
        ("train", 1.0, 3.0),
        ("lost: failed", 3.0, 3.0),
    ]


def test_a_client_that_is_off_is_offline_and_does_not_wait(tmp_path):
    """On from 0 to 12 and from 15 to 30 of every 40 s; the visit ends at 10 s, and its round at 18 s."""
    availability = Patterned([Pattern([(0.0, 12.0), (15.0, 30.0)], period_s=40.0, offset_s=0.0)] * 3)
    lost = visit(0, 35.0, (0, 0, 0, 0), status="offline", merge_index=None)
    rows = [visit(0, 0.0, (1, 8, 1, 8)), lost, a_round(0, 0.0, 18.0, [0]), a_round(1, 18.0, 45.0, [0])]
    assert track_of(events_of(made_run(tmp_path, rows), availability), VIRTUAL, "client 0 (slow)") == [
        ("download", 0.0, 1.0),
        ("train", 1.0, 9.0),
        ("upload", 9.0, 10.0),
        ("wait", 10.0, 12.0),
        ("offline", 12.0, 15.0),
        ("wait", 15.0, 18.0),
        ("offline", 30.0, 35.0),
        ("offline", 35.0, 40.0),
        ("lost: offline", 35.0, 35.0),
    ]


def test_a_client_that_trains_again_waits_no_longer(tmp_path):
    """Its update lies in the buffer until 9 s, and its next visit begins at 5 s."""
    rows = [visit(0, 0.0, (1, 1, 1, 6)), visit(0, 5.0, (1, 2, 1, 0), round_index=1)]
    spans = track_of(events_of(made_run(tmp_path, rows)), VIRTUAL, "client 0 (slow)")
    assert ("wait", 3.0, 5.0) in spans


def test_the_server_has_its_rounds_and_merges(tmp_path):
    rows = [
        visit(0, 0.0, (1, 1, 1, 0)),
        visit(1, 0.0, (1, 1, 0.5, 0.5)),
        a_round(0, 0.0, 3.0, [0, 1]),
        EventRow(2.0, "packed", None, "two clients"),
        EventRow(2.5, "method_figures", 0, "{}"),
        EventRow(2.5, "visit_late", 0, "{}"),
        EventRow(2.5, "client_dropped", 1, "{}"),
    ]
    events = events_of(made_run(tmp_path, rows))
    assert track_of(events, VIRTUAL, "server") == [
        ("task 0, round 0", 0.0, 3.0),
        ("packed", 2.0, 2.0),
        ("merge of 2", 3.0, 3.0),
    ]
    assert ("client_dropped", 2.5, 2.5) in track_of(events, VIRTUAL, "client 1 (slow)")
    assert not [e for e in events if e["name"] in ("method_figures", "visit_late")]


def test_without_rounds_the_server_tells_of_merges(tmp_path):
    rows = [visit(0, 0.0, (1, 1, 1, 0)), a_round(0, 0.0, 3.0, [0])]
    run = made_run(tmp_path, rows, {"policy": {"name": "fedbuff"}})
    assert track_of(events_of(run), VIRTUAL, "server")[0] == ("task 0, merge 0", 0.0, 3.0)


def test_counters_tell_who_works_and_what_is_on_the_links(tmp_path):
    """Client 1 begins when client 0 has its 100 bytes; both send 200."""
    rows = [visit(0, 0.0, (1, 2, 3, 0)), visit(1, 1.0, (1, 2, 1, 0))]
    counted = [e for e in events_of(made_run(tmp_path, rows)) if e["ph"] == "C"]
    clients = [(e["ts"] / 1e6, e["args"]["clients"]) for e in counted if e["name"] == "clients at work"]
    in_flight = [(e["ts"] / 1e6, e["args"]["download"], e["args"]["upload"]) for e in counted if "upload" in e["args"]]
    assert clients == [(0, 1), (1, 2), (5, 1), (6, 0)]
    assert in_flight == [(0, 100, 0), (2, 0, 0), (3, 0, 200), (4, 0, 400), (5, 0, 200), (6, 0, 0)]


def test_host_time_is_placed_in_a_row_for_each_process(tmp_path):
    """Clients 0 and 1 share process 100."""
    rows = [visit(0, 0.0, (1, 1, 1, 0)), visit(1, 0.0, (1, 1, 1, 0), host_wall_s=2.0), visit(2, 0.0, (1, 1, 1, 0))]
    events = events_of(made_run(tmp_path, rows))
    assert track_of(events, HOST, "process 100") == [("client 0 train", 0.0, 0.5), ("client 1 train", 0.5, 2.5)]
    assert track_of(events, HOST, "process 101") == [("client 2 train", 0.0, 0.5)]


def test_processes_are_named_by_their_clocks(tmp_path):
    events = events_of(made_run(tmp_path, []))
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert names == ["virtual clock", "host (visits placed one after the other)"]


def test_a_client_without_a_visit_has_its_track(tmp_path):
    events = events_of(made_run(tmp_path, [visit(0, 0.0, (1, 1, 1, 0))]))
    tracks = [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == VIRTUAL]
    assert tracks == ["server", *(f"client {c} ({device})" for c, device in DEVICES.items())]


def test_spans_touch_to_the_microsecond(tmp_path):
    """Thirds of seconds, which no microsecond holds."""
    rows = [visit(0, k / 3, (1 / 9, 1 / 9, 1 / 9, 0), round_index=k) for k in range(30)]
    spans = track_of(events_of(made_run(tmp_path, rows)), VIRTUAL, "client 0 (slow)")
    assert len(spans) == 90
    assert all(a[2] == b[1] for a, b in pairwise(spans))


def test_a_run_that_does_not_say_what_its_devices_were_is_refused(fake_run):
    with pytest.raises(RunDirectoryError, match=r"does not say what the device '[a-z0-9-]+' was; run it again"):
        build_timeline(fake_run, AlwaysOn())


def test_when_clients_were_off_follows_from_the_config(tmp_path):
    """Client 2 joins at 5 s; clients 0 and 1 are without power from 1 to 2 s."""
    fleet = [{"device": "slow", "count": 2}, {"device": "fast", "count": 1, "joins_at_s": 5.0}]
    outages = [{"from_s": 1.0, "to_s": 2.0, "clients": [0, 1], "devices": None, "fraction": None}]
    run = made_run(tmp_path, [], {"fleet": fleet, "outages": outages, "availability": {"name": "always"}})
    availability = recorded_availability(run)
    assert [availability.is_on(0, t) for t in (0.5, 1.5, 2.5)] == [True, False, True]
    assert [availability.is_on(2, t) for t in (4.0, 5.0)] == [False, True]
