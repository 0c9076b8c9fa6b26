"""The command `calibrate`: its options, and the table of predictions that ends it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from fedknow_ray.experiment.calibration_report import CalibrationReport


@click.command()
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The device file to write, NAME.yaml, or a folder for it. One that is there is not overwritten.",
)
@click.option("--name", metavar="NAME", help="The device's name. Default: the file's; the two must agree.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads to measure with, as training.threads of the runs that the profile is for.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="About how long to measure. Each network is timed at least twice, however long that takes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--quiet", is_flag=True, help="No progress and no closing table.")
def calibrate(out: Path, name: str | None, threads: int, seconds: float, *, as_json: bool, quiet: bool) -> None:
    """Measure this machine, and write a device file of it that `devices_path` takes.

    Training steps, memory, storage, and power where the kernel exposes it. Then the cost model predicts networks that
    the profile was not fitted to, and the error of its seconds is told. Measure while the machine does nothing else.
    """
    from fedknow_ray.experiment.calibration_target import find_target, write_new

    target = find_target(out, name)
    # torch takes seconds to import, and a command that only refuses never does
    from fedknow_ray.experiment.calibration import measure
    from fedknow_ray.experiment.calibration_report import make_report

    console = Console(stderr=True)

    def tell(stage: str) -> None:
        if not quiet:
            console.print(f"measuring {stage}", highlight=False)

    calibration = measure(target.path.parent, threads=threads, seconds=seconds, tell=tell)
    report = make_report(calibration, target, datetime.now(UTC).date().isoformat())
    write_new(target.path, report.text)
    if not quiet:
        (console if as_json else Console()).print(closing_table(report))
    if as_json:
        click.echo(json.dumps(report.as_json()))


def closing_table(report: CalibrationReport) -> Table:
    """Return the table that ends a calibration: a line for each network, those of the fit first."""
    table = Table(header_style="bold", title=f"{report.device.name}: seconds a training step", title_justify="left")
    table.add_column("network", overflow="fold")
    for heading in ("measured", "predicted", "error"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for prediction in sorted(report.predictions, key=lambda prediction: prediction.held_out):
        table.add_row(
            prediction.network,
            f"{prediction.measured_s:.4g}",
            f"{prediction.predicted_s:.4g}",
            f"{prediction.error_percent:+.1f} %",
            "held out" if prediction.held_out else "fitted",
        )
    notes = [] if report.disturbed is None else [f"{report.disturbed}; measure again when it does nothing else"]
    table.caption = "\n".join([*notes, f"device file  {report.target.path}"])
    table.caption_justify = "left"
    return table
