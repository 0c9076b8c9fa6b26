"""What a person sees of a run: a progress line on standard error while it goes on, and a closing table.

On a terminal one line is redrawn; elsewhere (a log file) one line is printed for each finished task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedknow_ray.cli.runs_display import print_warning
from fedknow_ray.federation.standing import Progress as RunProgress
from fedknow_ray.results.run import Run
from fedknow_ray.units import format_bytes, format_duration


class Display:
    """A watcher that draws; used as a context manager, so that the terminal is left in order whatever happens."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console, self._quiet = console, quiet
        self._live = console.is_terminal and not quiet
        self._tasks: int | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
            transient=True,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def stage(self, text: str) -> None:
        """Show a stage before round 0."""
        if self._live:
            if self._bar is None:
                self._bar = self._progress.add_task(text, total=None, figures="")
            self._progress.update(self._bar, description=text)
        elif not self._quiet:
            self._console.print(text, highlight=False)

    def warn(self, text: str) -> None:
        """Print a warning, which stays where it is."""
        if not self._quiet:
            print_warning(self._console, text)

    def advance(self, progress: RunProgress) -> None:
        """Show where the run stands."""
        if self._live and self._bar is not None:
            self._progress.update(
                self._bar,
                description=_place(progress),
                completed=progress.rounds_done,
                total=progress.rounds_total,
                figures=_figures(progress),
            )
        elif not self._quiet and progress.task_finished:
            self._console.print(f"{_place(progress)}: {_figures(progress)}", highlight=False, soft_wrap=True)


def _place(progress: RunProgress) -> str:
    task = f"task {progress.task_index + 1}/{progress.tasks}"
    return f"{task} done" if progress.task_finished else f"{task} round {progress.round_index + 1}"


def _figures(progress: RunProgress) -> str:
    accuracy = "accuracy -" if progress.accuracy is None else f"accuracy {progress.accuracy:.3f}"
    clock = f"clock {format_duration(progress.time_s)}"
    return f"{clock}  {format_bytes(progress.transferred_bytes)}  {accuracy}"


def closing_table(run: Run, report: str) -> Table:
    """Return the table that ends a run: accuracy, forgetting, virtual time, bytes, joules, and where the results
    are."""
    summary: Mapping[str, Any] = run.summary or {}
    table = Table(show_header=True, header_style="bold", title=str(run.manifest.get("name", "")), title_justify="left")
    table.add_column("")
    table.add_column("own model", justify="right")
    table.add_column("global model", justify="right")
    table.add_row("average accuracy", _share(summary["average_accuracy"]), _share(summary["average_accuracy_global"]))
    table.add_row("forgetting", _share(summary["forgetting"]), _share(summary["forgetting_global"]))
    table.add_section()
    table.add_row("virtual time", format_duration(summary["virtual_time_s"]), "")
    table.add_row("uploaded", format_bytes(summary["upload_bytes"]), "")
    table.add_row("downloaded", format_bytes(summary["download_bytes"]), "")
    energy = summary["energy_j"]
    table.add_row("energy of all visits", "-" if energy is None else f"{energy / 3600:.3g} Wh", "")
    table.add_row("time on this host", format_duration(summary["wall_s"]), "")
    table.caption = f"results  {run.path}\nreport   {report}"
    table.caption_justify = "left"
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
