"""The command `timeline`: a run as a trace that Perfetto and Chrome open."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fedknow_ray.cli.run_options import LocalPlace


@click.command()
@click.argument("run_dir", type=LocalPlace())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def timeline(run_dir: Path, *, as_json: bool) -> None:
    """Write timeline.json into RUN_DIR: who did what when, for https://ui.perfetto.dev or chrome://tracing.

    It has virtual time for each client, and the host's time for each process. docs/timeline.md tells what is shown.
    """
    from fedknow_ray.report.recorded import recorded_availability
    from fedknow_ray.report.timeline import TIMELINE_FILE, build_timeline
    from fedknow_ray.results.run import load
    from fedknow_ray.results.store import write_atomically

    run = load(run_dir)
    trace = build_timeline(run, recorded_availability(run))
    path = run_dir / TIMELINE_FILE
    write_atomically(path, json.dumps(trace, separators=(",", ":"), allow_nan=False).encode())
    if as_json:
        counted = {"events": len(trace["traceEvents"]), "virtual_time_s": trace["otherData"]["virtual_time_s"]}
        click.echo(json.dumps({"run_dir": str(run_dir), "timeline": str(path), **counted}))
    else:
        click.echo(path)
