"""The commands and their options. Standard output carries results, standard error the progress and the errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

from fedknow_ray import __version__
from fedknow_ray.cli.calibrate import calibrate
from fedknow_ray.cli.cluster import cluster
from fedknow_ray.cli.compare import compare
from fedknow_ray.cli.doctor import doctor
from fedknow_ray.cli.explain_time import explain_time
from fedknow_ray.cli.forecast import forecast
from fedknow_ray.cli.resume import resume
from fedknow_ray.cli.run_options import RunPlace, close_run, run_options, set_option
from fedknow_ray.cli.scale import scale
from fedknow_ray.cli.stress import stress
from fedknow_ray.cli.submit import submit
from fedknow_ray.cli.timeline import timeline
from fedknow_ray.cli.verify import verify
from fedknow_ray.cli.what_if import what_if
from fedknow_ray.errors import UnknownNameError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="fedknow-ray")
def app() -> None:
    """Simulate federated continual learning on emulated edge devices, with Ray."""


app.add_command(calibrate)
app.add_command(cluster)
app.add_command(compare)
app.add_command(doctor)
app.add_command(explain_time)
app.add_command(forecast)
app.add_command(resume)
app.add_command(scale)
app.add_command(stress)
app.add_command(submit)
app.add_command(timeline)
app.add_command(verify)
app.add_command(what_if)


@app.command()
@click.argument("config", type=click.Path(path_type=Path))
@run_options
def run(config: Path, **options: Any) -> None:
    """Run the YAML file CONFIG and write its results and its report."""
    _run(config, **options)


@app.command()
@run_options
def quickstart(**options: Any) -> None:
    """Run the example that ships with the package: FedKNOW on digits, 8 clients on 4 kinds of device."""
    with as_file(files("fedknow_ray.experiment") / "quickstart.yaml") as path:
        _run(path, **options)


@app.command()
@click.argument("run_dir", type=RunPlace())
def report(run_dir: str | Path) -> None:
    """Write the report of the run in RUN_DIR, a folder or a URL, again, finished or not."""
    from fedknow_ray.experiment.mirror import at_hand, publish
    from fedknow_ray.report import write_report
    from fedknow_ray.results.run import load

    with at_hand(run_dir, checkpoints=False) as folder:
        click.echo(publish(write_report(load(folder)), run_dir))


@app.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@click.option("--data", is_flag=True, help="Open the data set as well, and deal it to the clients.")
def validate(config: Path, overrides: Sequence[str], data: bool) -> None:
    """Check CONFIG and list all of its faults at once; exit status 2 if there are any."""
    from fedknow_ray.experiment.conditions import build_arrivals, build_conditions
    from fedknow_ray.experiment.run import read_config

    resolved = read_config(config, overrides)
    # trace files are a user's as the config is
    build_conditions(resolved)
    build_arrivals(resolved)
    if data:
        from fedknow_ray.experiment.assembly import open_data, put_together

        put_together(resolved, open_data(resolved))
    scenario = resolved.scenario
    click.echo(
        f"{config}: in order ({resolved.method.name} on {scenario.dataset}, {scenario.tasks} tasks of "
        f"{scenario.classes_per_task} classes, {scenario.clients} clients{', data checked' if data else ''})"
    )


@app.command(name="list")
@click.argument("kind", metavar="methods|models|datasets|devices|policies")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_names(kind: str, as_json: bool) -> None:
    """List the names that a config may use."""
    from fedknow_ray.experiment.catalogue import KINDS

    if kind not in KINDS:
        raise UnknownNameError("kind of name", kind, KINDS)
    names = KINDS[kind]()
    click.echo(json.dumps(names) if as_json else "\n".join(names))


def _run(
    config: Path,
    overrides: Sequence[str],
    backend: Literal["ray", "local"],
    address: str | None,
    insecure: bool,
    out: str | Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from fedknow_ray.cli.display import Display
    from fedknow_ray.experiment.run import execute

    console = Console(stderr=True)
    with Display(console, quiet=quiet) as display:
        done = execute(config, overrides, backend=backend, address=address, insecure=insecure, out=out, watcher=display)
        close_run(done, console, display, out, as_json=as_json, quiet=quiet)
