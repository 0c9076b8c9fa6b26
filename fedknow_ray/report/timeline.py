"""A run as a timeline for Chrome's tracing and Perfetto: virtual time of each client, and time of the host.

Two processes: "virtual clock" has a track for the server and one for each client, "host" one for each process that made
visits. Phases of computing stand in the order of a visit's work, with lengths that the cost model gives them, scaled
to the seconds that were recorded: equal steps stand together, so the track shows shares and not the order of steps.
The start of a visit on the host is not recorded, so there visits are placed one after the other.

Pure: from a run to the trace.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from fedknow_ray.experiment.manifest import recorded_device
from fedknow_ray.report.merges import Row, end_s, merge_times_s
from fedknow_ray.report.numbers import METHOD_FIGURES
from fedknow_ray.report.recorded import device_of_clients, has_rounds, network_kind, round_name
from fedknow_ray.report.trace_events import Event, Mark, Span, counter_events, process_events, trace, track_events
from fedknow_ray.results.run import Run
from fedknow_ray.simulation.availability import Availability
from fedknow_ray.simulation.cost import step_time
from fedknow_ray.simulation.work import WorkItem

TIMELINE_FILE = "timeline.json"
VIRTUAL, HOST = 1, 2
"""The ids of the two processes of the trace."""

_SERVER, _FIRST_CLIENT = 1, 2
_WHERE = ("task_index", "round_index", "kind", "status", "model_version")
Planned: TypeAlias = Callable[[Row], Mapping[str, float]]
"""A visit -> the seconds of each phase of its work by the cost model, in the order of the work."""


def build_timeline(run: Run, availability: Availability) -> dict[str, Any]:
    """Return the trace of a run, finished or not; *availability* says when its clients were off.

    Raises:
        RunDirectoryError: if the run does not say what its devices were.
    """
    visits = sorted(run.visits.to_pylist(), key=lambda row: (row["start_s"], end_s(row)))
    of_client: dict[int, list[Row]] = defaultdict(list)
    for visit in visits:
        of_client[visit["client_id"]].append(visit)
    last_s = _last_s(run, visits)
    planned = _cost_model(run)
    events = [*process_events(VIRTUAL, "virtual clock"), *_server(run), *_counters(visits)]
    noted = _noted(run)
    for client_id, device in device_of_clients(run).items():
        own = of_client[client_id]
        spans = [span for visit in own for span in _visit(visit, planned)]
        spans += _between(client_id, own, availability, last_s)
        marks = [*map(_lost, (v for v in own if v["status"] != "ok")), *noted.get(client_id, ())]
        events += track_events(VIRTUAL, _FIRST_CLIENT + client_id, f"client {client_id} ({device})", spans, marks)
    events += _host(run)
    return trace(events, {"run": run.path.resolve().name, "virtual_time_s": last_s, "visits": len(visits)})


def _last_s(run: Run, visits: Sequence[Row]) -> float:
    """Return the latest moment of the virtual clock that the run tells of."""
    ends_s: list[float] = [*run.rounds["end_s"].to_pylist(), *(end_s(visit) + visit["wait_s"] for visit in visits)]
    return max([float((run.summary or {}).get("virtual_time_s") or 0.0), *ends_s])


def _cost_model(run: Run) -> Planned:
    devices = {name: recorded_device(run, name) for name in run.visits["device"].unique().to_pylist()}
    kind = network_kind(run) if devices else ""

    def planned(visit: Row) -> Mapping[str, float]:
        seconds: dict[str, float] = defaultdict(float)
        for item in (WorkItem(**step) for step in visit["work"]):
            seconds[item.phase] += item.count * step_time(item, devices[visit["device"]], kind).seconds
        return seconds

    return planned


def _visit(visit: Row, planned: Planned) -> Iterator[Span]:
    """Yield what a client did in a visit, as far as it came."""
    where = {key: visit[key] for key in _WHERE} | {"merge_index": visit["merge_index"]}
    computes_s = visit["start_s"] + visit["download_s"]
    uploads_s = computes_s + visit["compute_s"]
    size = {"bytes": visit["download_bytes"]}
    yield Span("download", "transfer", visit["start_s"], computes_s, where | size)
    if visit["compute_s"] > 0:
        yield from _phases(visit, planned(visit), computes_s, where)
    yield Span("upload", "transfer", uploads_s, end_s(visit), where | {"bytes": visit["upload_bytes"]})


def _phases(visit: Row, planned_s: Mapping[str, float], start_s: float, where: Mapping[str, object]) -> Iterator[Span]:
    """Yield the phases of a visit's computing; as one, where no work tells them apart."""
    planned_s = planned_s if sum(planned_s.values()) > 0 else {"compute": 1.0}
    scale = visit["compute_s"] / sum(planned_s.values())
    counts: dict[str, int] = defaultdict(int)
    for step in visit["work"]:
        counts[step["phase"]] += step["count"]
    at_s = start_s
    for phase, seconds in planned_s.items():
        yield Span(phase, "compute", at_s, at_s + scale * seconds, {**where, "planned_steps": counts[phase]})
        at_s += scale * seconds


def _between(client_id: int, visits: Sequence[Row], availability: Availability, last_s: float) -> Iterator[Span]:
    """Yield what is known of the time outside of a client's visits: that it was off, or on and waiting.

    A client that begins its next visit waits no longer, even if its last update still does.
    """
    free_s, wait_until_s = 0.0, 0.0
    for start_s, visit in [*((visit["start_s"], visit) for visit in visits), (last_s, None)]:
        at_s = free_s
        while at_s < start_s:
            is_on, until_s = availability.stretch(client_id, at_s)
            until_s = min(until_s, start_s)
            if not is_on:
                yield Span("offline", "offline", at_s, until_s)
            elif at_s < wait_until_s:
                yield Span("wait", "wait", at_s, min(until_s, wait_until_s))
            at_s = until_s
        if visit is not None:
            free_s = end_s(visit)
            wait_until_s = free_s + visit["wait_s"]


def _lost(visit: Row) -> Mark:
    where = {key: visit[key] for key in _WHERE}
    return Mark(f"lost: {visit['status']}", "lost", end_s(visit), where)


def _noted(run: Run) -> dict[int | None, list[Mark]]:
    """Return the run's events by client; those of lost visits and of methods' figures are left out."""
    marks: dict[int | None, list[Mark]] = defaultdict(list)
    for event in run.events.to_pylist():
        if event["kind"] != METHOD_FIGURES and not event["kind"].startswith("visit_"):
            marks[event["client_id"]].append(Mark(event["kind"], "event", event["time_s"], {"detail": event["detail"]}))
    return marks


def _server(run: Run) -> list[Event]:
    """Return the server's track: a span for each row of `rounds`, and a mark for each merge."""
    word = "round" if has_rounds(run) else "merge"
    about = ("task_index", "round_index", "clients", "upload_bytes", "download_bytes")
    spans = [
        Span(
            round_name(row["task_index"], row["round_index"], word),
            "round",
            row["start_s"],
            row["end_s"],
            {key: row[key] for key in about},
        )
        for row in run.rounds.to_pylist()
    ]
    updates = Counter(run.visits["merge_index"].to_pylist())
    marks = [
        Mark(f"merge of {updates[index]}", "merge", time_s, {"merge_index": index, "updates": updates[index]})
        for index, time_s in merge_times_s(run).items()
    ]
    return track_events(VIRTUAL, _SERVER, "server", spans, [*marks, *_noted(run).get(None, ())])


def _counters(visits: Sequence[Row]) -> list[Event]:
    """Return how many clients make a visit, and the bytes of the payloads that are under way, each way."""
    at_work: list[tuple[float, str, int]] = []
    in_flight: list[tuple[float, str, int]] = []
    for visit in visits:
        ends_s = end_s(visit)
        at_work += [(visit["start_s"], "clients", 1), (ends_s, "clients", -1)]
        down, up = visit["download_bytes"], visit["upload_bytes"]
        in_flight += [(visit["start_s"], "download", down), (visit["start_s"] + visit["download_s"], "download", -down)]
        in_flight += [(ends_s - visit["upload_s"], "upload", up), (ends_s, "upload", -up)]
    return [
        *counter_events(VIRTUAL, "clients at work", at_work),
        *counter_events(VIRTUAL, "bytes in flight", in_flight),
    ]


def _host(run: Run) -> list[Event]:
    """Return the visits of each process of the host, one after the other in the order of their records."""
    process_of = {row["client_id"]: (row["node_id"] or "", row["pid"]) for row in run.placement.to_pylist()}
    of_process: dict[tuple[str, int] | None, list[Row]] = defaultdict(list)
    for visit in run.visits.to_pylist():
        of_process[process_of.get(visit["client_id"])].append(visit)
    events = process_events(HOST, "host (visits placed one after the other)")
    known = sorted(key for key in of_process if key is not None)
    for tid, process in enumerate([*known, *([None] if None in of_process else [])], start=1):
        name = "process not recorded" if process is None else f"process {process[1]} {process[0]}".rstrip()
        events += track_events(HOST, tid, name, _in_a_row(of_process[process]))
    return events


def _in_a_row(visits: Sequence[Row]) -> Iterator[Span]:
    at_s = 0.0
    for visit in visits:
        about = {key: visit[key] for key in (*_WHERE, "host_cpu_s", "start_s")}
        yield Span(f"client {visit['client_id']} {visit['kind']}", "host", at_s, at_s + visit["host_wall_s"], about)
        at_s += visit["host_wall_s"]
