"""The command `compare`: its options, what a person sees while the runs are made, and the table that ends it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from fedknow_ray.cli.run_options import LocalPlace
from fedknow_ray.cli.runs_display import RunsDisplay, print_warning, print_wide, raise_failures
from fedknow_ray.units import format_duration

if TYPE_CHECKING:
    from fedknow_ray.experiment.grid import RunId
    from fedknow_ray.experiment.workers import Failure
    from fedknow_ray.federation.boundary import Boundary


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--methods", required=True, metavar="NAME[,NAME...]", help="The methods to compare.")
@click.option(
    "--vary",
    metavar="KEY=V1,V2,...",
    multiple=True,
    help="Run each of these values of a config key; they are read as a YAML list: training.optimizer={name: adam},"
    "{name: sgd, lr: 0.05}. A method.* key is for the methods that have it. Repeatable: all combinations are run.",
)
@click.option(
    "--each",
    metavar="KEY=V1,V2,...",
    multiple=True,
    help="As --vary, but each value is set alone, beside a case without it: one change at a time. Repeatable.",
)
@click.option("--seeds", required=True, type=int, metavar="N", help="How many seeds, from the config's seed upwards.")
@click.option(
    "--choose-on",
    type=int,
    metavar="K",
    help="Choose each method's setting (its method.* keys; anew for each combination of other varied keys) on the "
    "first K seeds, and report on the others. Default: 0, all are reported.",
)
@click.option(
    "--baseline",
    metavar="CASE",
    help="A method or case that differences are to: a case with other settings beside method.* is compared with the "
    "baseline's counterpart among these. Default: fedavg.",
)
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="Override a key of the config in all cases.")
@click.option("--jobs", type=int, metavar="J", help="Runs at once. Default: the cores by the threads of a run.")
@click.option("--no-share", is_flag=True, help="Make every run from its beginning, even where runs share a past.")
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=LocalPlace(),
    help="The folder of the comparison. One that is there is continued, or extended.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--quiet", is_flag=True, help="No progress and no closing table.")
def compare(config: Path, **options: Any) -> None:
    """Run methods and settings on the YAML file CONFIG over several seeds, and say which differences are shown.

    A run that exists is not made again: the same command continues, one with more methods, values or seeds extends.
    Runs that do the same up to some task make that past once. Each run is made on the local backend in a process of its
    own, since so every core is in use to the end; a cluster would give the same bits. The results are one page and one
    table, comparison.html and comparison.parquet (and .csv), in DIR beside the runs.
    """
    _compare(config, **options)


def _compare(
    config: Path,
    methods: str,
    vary: tuple[str, ...],
    each: tuple[str, ...],
    seeds: int,
    choose_on: int | None,
    baseline: str | None,
    sets: tuple[str, ...],
    jobs: int | None,
    out: Path,
    *,
    no_share: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from fedknow_ray.experiment.compare import compare as make_runs
    from fedknow_ray.experiment.grid import read_grid
    from fedknow_ray.experiment.planning import Choices
    from fedknow_ray.report.comparison import write_comparison
    from fedknow_ray.results.comparison import load_comparison

    command = shlex.join(["fedknow-ray", *sys.argv[1:]])
    choices = Choices(seeds=seeds, choose_on=choose_on, baseline=baseline, command=command)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    console = Console(stderr=True)
    summary: dict[str, Any] = {}

    def write() -> None:
        summary.update(write_comparison(load_comparison(out)))

    with Progress(console, quiet=quiet) as progress:
        grid = read_grid(config, names, vary, sets, each)
        failures = make_runs(grid, out, choices, progress, jobs=jobs, share=not no_share, finish=write)
    if not quiet:
        print_wide(console if as_json else Console(), closing_table(summary))
    if as_json:
        click.echo(json.dumps(summary))
    raise_failures(failures)


class Progress(RunsDisplay["RunId"]):
    """How a comparison gets on."""

    # a case's label has commas of its own
    between = "; "

    def warn(self, text: str) -> None:
        """Print a warning, which stays where it is."""
        if not self._quiet:
            print_warning(self._console, text)

    def started(self, run: RunId, start: Boundary | None) -> None:
        """Show a run as under way; elsewhere than on a terminal as a line of its own."""
        self._running.append(run)
        if self._status is None:
            self._print(f"started {run}" + (f" from {start}" if start is not None else ""))
        self._show_running()

    def finished(self, run: RunId, summary: Mapping[str, Any]) -> None:
        """Print a line for a run that has finished."""
        self._made += 1
        self._running.remove(run)
        figures = f"{format_duration(summary['wall_s'])}  accuracy {summary['average_accuracy']:.3f}"
        self._print(f"{self._made}/{self._runs} {run}: {figures}")
        self._show_running()

    def failed(self, run: RunId, failure: Failure) -> None:
        """Print a line for a run that has failed; why is told at the end."""
        self._running.remove(run)
        self._print(f"failed {run}: {failure.message.strip().splitlines()[-1]}")
        self._show_running()


def closing_table(summary: Mapping[str, Any]) -> Table:
    """Return the table that ends a comparison, from `report.comparison.write_comparison`: a line for each case."""
    baselines = {case["baseline"] for case in summary["cases"]}
    several = len(baselines) > 1
    against = "the case in the last column" if several else "".join(baselines)
    title = f"{summary['name']}: average accuracy, against {against}"
    table = Table(header_style="bold", title=title, title_justify="left")
    table.add_column("case", overflow="fold")
    table.add_column("seeds", justify="right")
    for heading in ("own model", "global model", "forgetting", "difference, own"):
        table.add_column(heading, justify="right")
    table.add_column("")
    if several:
        table.add_column("against", overflow="fold")
    for case in summary["cases"]:
        table.add_row(*_cells(case), *([_baseline(case)] if several else []))
    paths = f"page   {summary['page']}\ntable  {summary['table']}"
    choosing = summary["choosing_seeds"]
    chosen = f"* chosen on the seeds {', '.join(map(str, choosing))}, which are in no figure\n" if choosing else ""
    table.caption = f"{chosen}means with their 95 % intervals over seeds\n{paths}"
    table.caption_justify = "left"
    return table


def _cells(case: Mapping[str, Any]) -> list[str]:
    metrics = case["metrics"]
    accuracy = metrics.get("average_accuracy", {})
    own = accuracy.get("own")
    return [
        f"{case['label']}{' *' if case['chosen'] else ''}",
        "0" if own is None else str(own["n"]),
        _mean(own),
        _mean(accuracy.get("global")),
        _mean(metrics.get("forgetting", {}).get("own")),
        _difference(own),
        (own or {}).get("verdict") or "",
    ]


def _baseline(case: Mapping[str, Any]) -> str:
    return "" if case["baseline"] == case["label"] else str(case["baseline"])


def _mean(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    half = "" if figure["ci_high"] is None else f" ± {figure['ci_high'] - figure['mean']:.3f}"
    return f"{figure['mean']:.3f}{half}"


def _difference(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["difference"] is None:
        return ""
    low, high = figure["difference_ci_low"], figure["difference_ci_high"]
    interval = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
    return f"{figure['difference']:+.3f}{interval}"
