"""The command `what-if`: what a recorded run would have taken under other conditions, beside what it took."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from fedknow_ray.cli.run_options import LocalPlace
from fedknow_ray.units import format_bytes, format_duration

if TYPE_CHECKING:
    from fedknow_ray.experiment.what_if import Answer, Timing, Totals

_WIDE = 140


@click.command(name="what-if")
@click.argument("run_dir", type=LocalPlace())
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="A key of the run's config and its other value: network.uplink_bytes_per_s=2e6, fleet.0.device=jetson-tx2. "
    "Repeatable.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=LocalPlace(),
    help="Write the replayed run to this directory, new or empty, with the recorded accuracies.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line, and no tables.")
def what_if(run_dir: Path, overrides: Sequence[str], out: Path | None, *, as_json: bool) -> None:
    """Replay the run in RUN_DIR under other conditions, without training.

    Says what it would have taken, or that retraining is needed, where the change alters who is aggregated. That is an
    answer too, with exit status 0. docs/what-if.md tells what can be changed.
    """
    from fedknow_ray.experiment.what_if import what_if as ask
    from fedknow_ray.experiment.what_if import write_replayed

    answer = ask(run_dir, overrides)
    written = write_replayed(answer, out) if out is not None and answer.valid else None
    if as_json:
        click.echo(json.dumps({**answer.plain(), "out": None if written is None else str(written)}))
        return
    console = Console(width=max(_WIDE, Console().width), highlight=False)
    for change in answer.changes:
        console.print(f"{change.key}: {change.here} in place of {change.there}", markup=False)
    if answer.replayed is None:
        console.print(f"retraining is needed: {answer.reason}", markup=False)
        return
    _print(console, answer, answer.replayed)
    if written is not None:
        console.print(f"the replayed run is in {written}", markup=False)


def _print(console: Console, answer: Answer, replayed: Timing) -> None:
    console.print("every visit and every merge is as recorded, so the accuracies stand")
    recorded = answer.recorded
    whole = Table("", "virtual time", *_HEADINGS)
    for name, timing in (("recorded", recorded), ("replayed", replayed)):
        whole.add_row(name, format_duration(timing.virtual_time_s), *_cells(timing.totals))
    console.print(whole)
    devices = Table("device", "", *_HEADINGS, title="sums over the visits of each device kind", title_justify="left")
    before, after = recorded.by_device(), replayed.by_device()
    for name in sorted({*before, *after}):
        for label, kinds in (("recorded", before), ("replayed", after)):
            if name in kinds:
                devices.add_row(name, label, *_cells(kinds[name]))
    console.print(devices)


_HEADINGS = ("visits", "downloading", "computing", "uploading", "waiting", "down", "up", "energy")


def _cells(totals: Totals) -> list[str]:
    seconds = (totals.download_s, totals.compute_s, totals.upload_s, totals.wait_s)
    return [
        str(totals.visits),
        *map(format_duration, seconds),
        format_bytes(totals.download_bytes),
        format_bytes(totals.upload_bytes),
        "unknown" if totals.energy_j is None else f"{totals.energy_j:,.0f} J",
    ]
