"""Makes the runs of a folder that do not wait for each other, some at once: for `stress` and `scale`."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fedknow_ray.experiment.workers import Failure, RunOrder, Workers
from fedknow_ray.results.store import CONFIG_FILE


class RunsWatcher(Protocol):
    """Is told how the runs get on; the command line draws its display from it."""

    def planned(self, runs: int, made: int) -> None:
        """So many runs are asked for, and so many of them were made before."""

    def started(self, name: str) -> None:
        """A run has started."""

    def ended(self, name: str, failure: Failure | None) -> None:
        """A run has ended, with a summary or with a failure; the others go on."""


def make_runs(orders: Mapping[str, RunOrder], workers: Workers, watcher: RunsWatcher) -> dict[str, Failure]:
    """Make the runs, by name, in their order; return those that failed, and why.

    What an order's directory has of a run that was stopped or failed, or was made from another config, is deleted.
    """
    waiting, under_way = deque(orders), dict[str, str]()
    failures: dict[str, Failure] = {}
    while waiting or under_way:
        while waiting and workers.has_room():
            name = waiting.popleft()
            order = orders[name]
            if (Path(order.out) / CONFIG_FILE).exists():
                # what a person may have put there has no config
                shutil.rmtree(order.out)
            under_way[order.out] = name
            workers.start(order)
            watcher.started(name)
        for order, failure in workers.wait(None):
            name = under_way.pop(order.out)
            if failure is not None:
                failures[name] = failure
            watcher.ended(name, failure)
    return failures
