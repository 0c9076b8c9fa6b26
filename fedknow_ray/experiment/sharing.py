"""Which run goes next, and where it starts: runs that do the same up to a point do it once.

Each run passes the boundaries of its course, and each boundary has a key; two runs with the same key there have the
same past. So the runs form a prefix tree. Of the runs that share a past the first makes it, and saves its state where
others leave its path; those wait for the saved state and go on from it. Each stretch of the tree is run once.

The tree is laid out anew at each step, over what is on the disk and what runs have been asked to save: where a run has
failed, or a saved state is lost, the next run in order makes that past again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

RunT = TypeVar("RunT")

Past = tuple[str, ...]
"""The keys of a run at the boundaries of its course, from the first to the last."""


@dataclass(frozen=True, slots=True)
class Launch(Generic[RunT]):
    """A run to start now. Boundaries are positions in the run's past."""

    run: RunT
    start: int | None
    """Where it starts from a saved state; None: from the beginning."""
    saves: tuple[int, ...]
    """Where it has to save its state for others."""


class Schedule(Generic[RunT]):
    """The runs that are still to be made, in order, and the saved states that they need.

    *saved* are the keys of the states that are on the disk. With *share* False every run starts from the beginning.
    """

    def __init__(self, pasts: Mapping[RunT, Past], saved: Collection[str] = (), *, share: bool = True) -> None:
        self._pasts = dict(pasts)
        self._waiting = list(pasts)
        self._running: dict[RunT, Launch[RunT]] = {}
        self._saved = set(saved)
        self._share = share

    @property
    def is_done(self) -> bool:
        """Whether no run waits and none is under way."""
        return not self._waiting and not self._running

    @property
    def promised(self) -> set[str]:
        """Keys of the states that runs under way will save, and have not yet."""
        keys = {self._pasts[run][position] for run, launch in self._running.items() for position in launch.saves}
        return keys - self._saved

    @property
    def saved(self) -> set[str]:
        """Keys of the states that are on the disk."""
        return set(self._saved)

    @property
    def needed(self) -> set[str]:
        """Keys of the saved states that a waiting run will start from, or one under way has started from."""
        starts, _ = self._lay_out()
        starts |= {run: launch.start for run, launch in self._running.items()}
        return {self._pasts[run][start] for run, start in starts.items() if start is not None}

    def next(self) -> Launch[RunT] | None:
        """Return a run that can start now, or None if there is none before something is saved or ends.

        Runs that others wait for come first, then the order in which they were given.
        """
        starts, makers = self._lay_out()
        ready = [run for run in self._waiting if self._is_there(run, starts[run])]
        if not ready:
            return None
        launches = [Launch(run, starts[run], self._saves(run, starts, makers)) for run in ready]
        launch = next((launch for launch in launches if launch.saves), launches[0])
        self._waiting.remove(launch.run)
        self._running[launch.run] = launch
        return launch

    def save(self, key: str) -> None:
        """Note that the state of a key is on the disk."""
        self._saved.add(key)

    def lose(self, key: str) -> None:
        """Note that the state of a key is not on the disk any more."""
        self._saved.discard(key)

    def end(self, run: RunT) -> None:
        """Note that a run under way has ended, finished or not; what it has not saved by now will never come."""
        del self._running[run]

    def retry(self, run: RunT) -> None:
        """Put a run that has ended back to its place among those that wait."""
        waiting = {*self._waiting, run}
        self._waiting = [other for other in self._pasts if other in waiting]

    def _lay_out(self) -> tuple[dict[RunT, int | None], dict[str, RunT]]:
        """Return where each waiting run starts, and which waiting run is the first to pass each key."""
        there, makers = self._saved | self.promised, dict[str, RunT]()
        starts: dict[RunT, int | None] = {}
        for run in self._waiting:
            past = self._pasts[run] if self._share else ()
            made = [position for position, key in enumerate(past) if key in there or key in makers]
            starts[run] = made[-1] if made else None
            for key in past[made[-1] + 1 if made else 0 :]:
                makers[key] = run
        return starts, makers

    def _is_there(self, run: RunT, start: int | None) -> bool:
        return start is None or self._pasts[run][start] in self._saved

    def _saves(self, run: RunT, starts: Mapping[RunT, int | None], makers: Mapping[str, RunT]) -> tuple[int, ...]:
        """Return where other waiting runs leave the path of a run."""
        wanted = {self._pasts[other][start] for other, start in starts.items() if start is not None and other != run}
        return tuple(
            position for position, key in enumerate(self._pasts[run]) if key in wanted and makers.get(key) == run
        )
