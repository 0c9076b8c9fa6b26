"""Makes the runs of a folder that do not wait for each other, some at once: for `stress` and `scale`. How many at once,
and in which processes, is said here for `compare` as well."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import UserError
from fedknow_ray.experiment.workers import Failure, ProcessWorkers, RunOrder, Workers
from fedknow_ray.results.store import CONFIG_FILE


class RunsWatcher(Protocol):
    """Is told how the runs get on; the command line draws its display from it."""

    def planned(self, runs: int, made: int) -> None:
        """So many runs are asked for, and so many of them were made before."""

    def started(self, name: str) -> None:
        """A run has started."""

    def ended(self, name: str, failure: Failure | None) -> None:
        """A run has ended, with a summary or with a failure; the others go on."""


def refuse_no_jobs(jobs: int | None) -> None:
    """Refuse an option that would have no run made.

    Raises:
        UserError: if *jobs* is below 1.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be 1 or more, got {jobs}")


@contextmanager
def workers_or_processes(
    workers: Workers | None, jobs: int | None, configs: Iterable[RunConfig], runs: int
) -> Iterator[Workers]:
    """Yield the workers that are given, else processes that end with the block: *jobs*, or as many as there are cores
    for at the threads of the configs, and no more than there are runs."""
    if workers is not None:
        yield workers
        return
    with ProcessWorkers(min(jobs or _default_jobs(configs), max(1, runs))) as processes:
        yield processes


def _default_jobs(configs: Iterable[RunConfig]) -> int:
    """Return for how many runs at once there are cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) // max(config.training.threads for config in configs))


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
