"""The options of the commands that make a run, and how such a command ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

if TYPE_CHECKING:
    from fedknow_ray.cli.display import Display
    from fedknow_ray.results.run import Run

Command = TypeVar("Command", bound=Callable[..., None])

set_option = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of the config: method.name=fedavg, fleet.0.count=4. Repeatable.",
)

out_option = click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The run directory, new or empty. Default: runs/<time>-<name>.",
)


def place_options(command: Command) -> Command:
    """Give a command the options of where a run is made and what is told of it."""
    options = [
        click.option(
            "--backend",
            type=click.Choice(["ray", "local"]),
            default="ray",
            show_default=True,
            help="Ray actors, or everything in this process, to the same bits.",
        ),
        click.option(
            "--address",
            metavar="ADDRESS",
            help="The address of a Ray cluster that is there; auto finds it. Default: a Ray of its own.",
        ),
        click.option("--insecure", is_flag=True, help="Join a cluster without token authentication; see SECURITY.md."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line."),
        click.option("--quiet", is_flag=True, help="No progress and no closing table."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def run_options(command: Command) -> Command:
    """Give a command the options of a run."""
    return set_option(out_option(place_options(command)))


def close_run(done: Run, console: Console, display: Display, *, as_json: bool, quiet: bool) -> None:
    """Write the report of a finished run, and print its closing table and its summary as they are asked for."""
    from fedknow_ray.cli.display import closing_table
    from fedknow_ray.report import write_report

    display.stage("writing the report")
    written = write_report(done)
    if not quiet:
        (console if as_json else Console()).print(closing_table(done, str(written)))
    if as_json:
        summary: dict[str, Any] = done.summary or {}
        click.echo(json.dumps({**summary, "run_dir": str(done.path)}))
