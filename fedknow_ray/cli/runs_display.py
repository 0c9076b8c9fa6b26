"""What commands that make several runs have in common on the screen: lines, what is under way, wide tables."""

from __future__ import annotations

from typing import ClassVar, Generic, Self, TypeVar

from rich.console import Console
from rich.table import Table

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
