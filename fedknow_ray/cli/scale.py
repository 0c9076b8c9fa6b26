"""The command `scale`: its options, what a person sees while the grid is run, and the tables that end it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from fedknow_ray.cli.run_options import LocalPlace
from fedknow_ray.cli.runs_display import NamedRunsDisplay, print_wide, raise_failures

if TYPE_CHECKING:
    from fedknow_ray.report.scale_measures import ScaleFigures

#: What the closing table has of each point: the measures that fit into a line.
_SHOWN = {
    "virtual_time_s": "virtual time",
    "round_s": "a round",
    "sent_bytes": "sent",
    "peak_memory_bytes": "memory",
    "kept_bytes": "kept",
    "energy_j": "energy",
    "host_cpu_s": "host CPU",
    "average_accuracy": "acc. own",
    "average_accuracy_global": "acc. global",
    "forgetting": "forg. own",
    "forgetting_global": "forg. global",
}


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--clients", required=True, metavar="N[,N...]", help="Numbers of clients, as 10,20,50,100.")
@click.option("--tasks", required=True, metavar="T[,T...]", help="Numbers of tasks, as 5,10,20.")
@click.option("--methods", metavar="NAME[,NAME...]", help="The methods to run. Default: the config's own.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Override a key of the config. Repeatable.")
@click.option("--jobs", type=int, metavar="J", help="Runs at once. Default: the cores by the threads of a run.")
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=LocalPlace(),
    help="The folder of the grid. One that is there is continued, or extended.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--quiet", is_flag=True, help="No progress and no closing tables.")
def scale(config: Path, **options: Any) -> None:
    """Run the YAML file CONFIG with other numbers of clients and tasks, and say how its figures grow.

    The fleet keeps its proportions, by largest remainder. A run that exists is not made again: the same command
    continues. Each run is made on the local backend in a process of its own; a cluster would give the same bits. The
    results are scale.json and the page scale.html in DIR, beside the runs.
    """
    _scale(config, **options)


def _scale(
    config: Path,
    clients: str,
    tasks: str,
    methods: str | None,
    sets: tuple[str, ...],
    jobs: int | None,
    out: Path,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from fedknow_ray.experiment.scale import plan_scale, run_scale
    from fedknow_ray.report.scale import PAGE_FILE, scale_object, write_scale

    command = shlex.join(["fedknow-ray", *sys.argv[1:]])
    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    console = Console(stderr=True)
    written: list[ScaleFigures] = []
    with NamedRunsDisplay(console, quiet=quiet, status="checking all points") as progress:
        grid = plan_scale(config, out, clients, tasks, methods=names, sets=sets)
        failures = run_scale(grid, progress, lambda: written.append(write_scale(grid, command)), jobs=jobs)
    figures = written[-1]
    if not quiet:
        screen = console if as_json else Console()
        for table in (points_table(figures), growth_table(figures, grid.out / PAGE_FILE)):
            print_wide(screen, table)
    if as_json:
        click.echo(json.dumps(scale_object(grid, figures)))
    raise_failures(failures)


def points_table(figures: ScaleFigures) -> Table:
    """Return the points of a grid, a line for each run."""
    from fedknow_ray.report.scale_measures import MEASURES
    from fedknow_ray.report.scale_page import figure_text

    table = Table(header_style="bold", title=f"{figures.name}: the points", title_justify="left")
    table.add_column("method", overflow="fold")
    for heading in ("clients", "tasks", *_SHOWN.values()):
        table.add_column(heading, justify="right")
    for point in figures.points:
        cells = [figure_text(point.values.get(measure), MEASURES[measure].unit) for measure in _SHOWN]
        table.add_row(point.id.method, str(point.id.clients), str(point.id.tasks), *cells)
    table.caption = (
        "a round: the mean of all; acc. and forg.: average accuracy and forgetting of the own and of the global models"
    )
    table.caption_justify = "left"
    return table


def growth_table(figures: ScaleFigures, page: Path) -> Table:
    """Return how each figure grows: an exponent, or points of accuracy with each doubling, for clients and tasks."""
    from fedknow_ray.report.scale_measures import MEASURES
    from fedknow_ray.report.scale_page import fit_cells

    title = "growth: exponents with 95 % intervals, of accuracy and forgetting points gained with each doubling"
    table = Table(header_style="bold", title=title, title_justify="left")
    table.add_column("figure", overflow="fold")
    table.add_column("method", overflow="fold")
    for heading in ("with clients", "with tasks", "R²", "points"):
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    for measure, of in MEASURES.items():
        for method in figures.methods:
            table.add_row(of.title, method, *fit_cells(figures.fits[method, measure]))
    table.caption = f"page   {page}"
    table.caption_justify = "left"
    return table
