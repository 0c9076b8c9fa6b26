"""What commands that make several runs have in common on the screen: lines, what is under way, wide tables, and how
they end where runs have failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

from rich.console import Console
from rich.table import Table

from fedknow_ray.errors import UserError, WorkerError

if TYPE_CHECKING:
    from fedknow_ray.experiment.workers import Failure

RunT = TypeVar("RunT")

_WIDE = 160


def print_warning(console: Console, text: str) -> None:
    """Print a warning, which stays where it is."""
    console.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)


def print_wide(console: Console, table: Table) -> None:
    """Print a table as wide as it is where there is no terminal: a file has no edge, and rich takes 80 columns."""
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)


class RunsDisplay(Generic[RunT]):
    """A watcher that draws: one line for each run that ends, and on a terminal below them what is under way.

    *status* is what a terminal shows before the first run.
    """

    #: Between the names of runs that are under way.
    between: ClassVar[str] = ", "

    def __init__(self, console: Console, *, quiet: bool, status: str = "") -> None:
        self._console, self._quiet = console, quiet
        self._status = console.status(status) if console.is_terminal and not quiet else None
        self._running: list[RunT] = []
        self._runs = self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def planned(self, runs: int, made: int) -> None:
        """Say how many runs there are to make."""
        self._runs, self._made = runs, made
        self._print(f"{runs} runs, {made} of them there" if made else f"{runs} runs")

    def _print(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _show_running(self) -> None:
        if self._status is not None:
            names = self.between.join(map(str, self._running))
            self._status.update(f"{self._made}/{self._runs} runs made; under way: {names}")
            self._status.start()


class NamedRunsDisplay(RunsDisplay[str]):
    """How runs that have names get on; what *status* says is shown while there is no plan yet."""

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def started(self, name: str) -> None:
        """Show a run as under way."""
        self._running.append(name)
        self._show_running()

    def ended(self, name: str, failure: Failure | None) -> None:
        """Print a line for a run that has ended."""
        self._made += 1
        self._running.remove(name)
        told = "done" if failure is None else f"failed: {failure.message.strip().splitlines()[-1]}"
        self._print(f"{self._made}/{self._runs} {name}: {told}")
        self._show_running()


def raise_failures(failures: Mapping[RunT, Failure]) -> None:
    """Raise what ends the program with the right status: 1 if any failure is ours, else 2.

    Raises:
        WorkerError: with the tracebacks.
        UserError: with each message, and the runs that it is of.
    """
    runs: dict[Failure, list[str]] = {}
    for run, failure in failures.items():
        runs.setdefault(failure, []).append(str(run))
    told = [f"{'; '.join(of)}\n{failure.message.strip()}" for failure, of in runs.items()]
    text = "\n".join([f"{len(failures)} of the runs failed; the same command tries them again", *told])
    if any(failure.is_ours for failure in failures.values()):
        raise WorkerError(text)
    if failures:
        raise UserError(text)
