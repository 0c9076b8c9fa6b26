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


class RunPlace(click.Path):
    """Where a run is: a local folder, as a Path, or a URL, as it was given."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the place; whether there is something is for the command to see."""
        from fedknow_ray.results.remote import is_url

        return value if is_url(value) else super().convert(value, param, ctx)


class LocalPlace(click.Path):
    """A local file or folder, as a Path: a URL taken for one would be made as a folder of an odd name."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or refuse a URL."""
        from fedknow_ray.results.remote import is_url, shown

        if is_url(value):
            self.fail(f"{shown(value)} is a URL, and this command takes a local folder", param, ctx)
        return super().convert(value, param, ctx)


out_option = click.option(
    "--out",
    metavar="DIR|URL",
    type=RunPlace(),
    help="The run directory, new or empty. Default: runs/<time>-<name>. To a URL (s3://bucket/run) the run is copied "
    "while it is made there.",
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


def close_run(
    done: Run, console: Console, display: Display, place: str | Path | None, *, as_json: bool, quiet: bool
) -> None:
    """Write the report of a finished run, to its *place* as well if that is a URL, and print its closing table and its
    summary as they are asked for."""
    from fedknow_ray.cli.display import closing_table
    from fedknow_ray.experiment.mirror import publish
    from fedknow_ray.report import write_report
    from fedknow_ray.results.remote import is_url, shown

    display.stage("writing the report")
    written = publish(write_report(done), place)
    if not quiet:
        (console if as_json else Console()).print(closing_table(done, written))
    if as_json:
        summary: dict[str, Any] = done.summary or {}
        url = {"url": shown(str(place))} if is_url(place) else {}
        click.echo(json.dumps({**summary, "run_dir": str(done.path), **url}))
