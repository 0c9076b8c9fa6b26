"""A comparison: every case of a grid with every seed, some at once, each in a directory of its own.

    options -> cases and seeds -> configs, all of them checked -> plan, written -> runs

The plan is on the disk before the first run, and a run counts as made when its summary is there; so the same call
again goes on where an interrupted one was, and a call with more methods, values or seeds extends what is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fedknow_ray.config.model import RunConfig
from fedknow_ray.experiment.checkpoint import checkpoint_path, past_key
from fedknow_ray.experiment.claims import claimed
from fedknow_ray.experiment.grid import Grid, RunId, first_seed, read_configs
from fedknow_ray.experiment.host_precision import precision_warning
from fedknow_ray.experiment.making import refuse_no_jobs, workers_or_processes
from fedknow_ray.experiment.planning import (
    Choices,
    earlier_plan,
    is_made,
    make_plan,
    refuse_other_configs,
    run_folders,
    write_plan,
)
from fedknow_ray.experiment.sharing import Launch, Schedule
from fedknow_ray.experiment.workers import Failure, RunOrder, Workers
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.results.comparison import Plan
from fedknow_ray.results.store import CONFIG_FILE, SUMMARY_FILE

STATES = "checkpoints"
_LOOK_FOR_STATES_S = 0.2


class CompareWatcher(Protocol):
    """Is told how a comparison gets on; the command line draws its display from it."""

    def planned(self, runs: int, made: int) -> None:
        """So many runs are asked for, and so many of them were made before."""

    def warn(self, text: str) -> None:
        """Something that the user may want to change before the runs go on."""

    def started(self, run: RunId, start: Boundary | None) -> None:
        """A run has started, from its beginning or from a saved state."""

    def finished(self, run: RunId, summary: Mapping[str, Any]) -> None:
        """A run has finished."""

    def failed(self, run: RunId, failure: Failure) -> None:
        """A run has ended without a summary; the others go on."""


def compare(
    grid: Grid,
    out: Path,
    choices: Choices,
    watcher: CompareWatcher,
    *,
    jobs: int | None = None,
    share: bool = True,
    workers: Workers | None = None,
    finish: Callable[[], None] | None = None,
) -> dict[RunId, Failure]:
    """Make the runs of a grid that the folder *out* does not have yet; return those that failed, and why.

    *jobs* runs are made at once, by default as many as there are cores for at the threads of a run. With *share* runs
    make a common past once. *workers* make the runs in place of processes of their own. *finish* is called when all
    runs have ended and the folder is still held: what it writes there no other program writes at the same time.

    Raises:
        UserError: before anything starts, if the options, a config or what lies in *out* is wrong.
    """
    refuse_no_jobs(jobs)
    first = first_seed(grid)
    labels = {case.label for case in grid.cases()}
    if not out.exists():
        # once without the folder, so that a wrong option does not leave one behind
        _plan(grid, out, first, choices)
    with claimed(out):
        # what the folder has is read under its lock: until then another program may have added to it
        plan, configs = _plan(grid, out, first, choices)
        folders = run_folders(out, plan)
        asked = [run for run in configs if run.label in labels and first <= run.seed < first + choices.seeds]
        pending = [run for run in asked if not is_made(folders[run])]
        config = write_plan(out, plan, grid.config.read_bytes())
        overrides = {case.label: case.overrides for case in plan.cases}
        orders = {run: (*overrides[run.label], f"seed={run.seed}") for run in pending}
        watcher.planned(len(asked), len(asked) - len(pending))
        for warning in filter(None, map(precision_warning, {configs[run].training.precision for run in pending})):
            watcher.warn(warning)
        states = _States(out / STATES, {run: folders[run].relative_to(out) for run in folders}, configs)
        making = _Making(config, orders, folders, states, watcher, share=share)
        with workers_or_processes(workers, jobs, configs.values(), len(pending)) as makers:
            failures = making.make(makers)
        if finish is not None:
            finish()
        return failures


def _plan(grid: Grid, out: Path, first: int, choices: Choices) -> tuple[Plan, dict[RunId, RunConfig]]:
    """Return the plan of what the folder has and what is asked for, and the configs of its runs, all of them checked.

    Raises:
        UserError: if a choice, a config or what lies in the folder is wrong.
    """
    plan = make_plan(grid, first, choices, earlier_plan(out, grid.config))
    configs = read_configs(grid.config, plan.cases, grid.alone)
    refuse_other_configs(run_folders(out, plan), configs)
    return plan, configs


class _States:
    """The saved states of a comparison: where each key's file is, or will be."""

    def __init__(self, folder: Path, places: Mapping[RunId, Path], configs: Mapping[RunId, RunConfig]) -> None:
        self._folder, self._places, self._configs = folder, places, configs
        self._paths: dict[str, Path] = {}

    def boundaries(self, run: RunId) -> list[Boundary]:
        """Return the boundaries of a run's course, in order; none where tasks come to each client by time."""
        if not self._configs[run].task_arrival.in_lockstep:
            return []
        tasks = range(self._configs[run].scenario.places)
        return [Boundary(task_index, finished) for task_index in tasks for finished in (False, True)]

    def past(self, run: RunId) -> tuple[str, ...]:
        """Return the keys of a run's past at its boundaries."""
        return tuple(past_key(self._configs[run], boundary) for boundary in self.boundaries(run))

    def folder(self, run: RunId) -> Path:
        """Return where a run saves its states."""
        return self._folder / self._places[run]

    def find(self) -> set[str]:
        """Return the keys of the states that a stopped comparison has left."""
        for run in self._configs if self._folder.is_dir() else ():
            for boundary, key in zip(self.boundaries(run), self.past(run), strict=True):
                path = checkpoint_path(self.folder(run), boundary)
                if path.is_file():
                    self._paths[key] = path
        return set(self._paths)

    def expect(self, run: RunId, positions: Sequence[int]) -> None:
        """Note that a run will save its state at these boundaries."""
        boundaries, past = self.boundaries(run), self.past(run)
        self._paths |= {past[at]: checkpoint_path(self.folder(run), boundaries[at]) for at in positions}

    def path(self, key: str) -> Path:
        """Return the file of a state that was found, or is expected."""
        return self._paths[key]

    def clear(self) -> None:
        """Delete what is left of all states."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)


class _Making:
    """Makes the runs of *orders*, their overrides: gives them to workers as the schedule says, and minds the states."""

    def __init__(
        self,
        config: Path,
        orders: Mapping[RunId, tuple[str, ...]],
        folders: Mapping[RunId, Path],
        states: _States,
        watcher: CompareWatcher,
        *,
        share: bool,
    ) -> None:
        self._config, self._orders, self._folders = config, orders, folders
        self._states, self._watcher = states, watcher
        self._schedule = Schedule({run: states.past(run) for run in orders}, states.find(), share=share)
        self._failures: dict[RunId, Failure] = {}

    def make(self, workers: Workers) -> dict[RunId, Failure]:
        """Make all runs; return those that failed."""
        launches: dict[str, Launch[RunId]] = {}
        self._drop_states()
        while not self._schedule.is_done:
            while workers.has_room() and (launch := self._schedule.next()):
                order = self._order(launch)
                launches[order.out] = launch
                workers.start(order)
                self._watcher.started(launch.run, self._start(launch))
            ended = workers.wait(_LOOK_FOR_STATES_S if self._schedule.promised else None)
            self._look_for_states()
            for order, failure in ended:
                self._end(launches.pop(order.out), failure)
            self._drop_states()
        self._states.clear()
        return self._failures

    def _order(self, launch: Launch[RunId]) -> RunOrder:
        run, boundaries = launch.run, self._states.boundaries(launch.run)
        self._states.expect(run, launch.saves)
        if (self._folders[run] / CONFIG_FILE).exists():
            # of a run that was stopped, or failed; what a person may have put there has no config
            shutil.rmtree(self._folders[run])
        return RunOrder(
            config=str(self._config),
            overrides=self._orders[run],
            out=str(self._folders[run]),
            start_from=None if launch.start is None else str(self._states.path(self._start_key(launch))),
            save_at=tuple(boundaries[at] for at in launch.saves),
            checkpoints=str(self._states.folder(run)),
        )

    def _start(self, launch: Launch[RunId]) -> Boundary | None:
        return None if launch.start is None else self._states.boundaries(launch.run)[launch.start]

    def _start_key(self, launch: Launch[RunId]) -> str:
        return self._states.past(launch.run)[launch.start or 0]

    def _end(self, launch: Launch[RunId], failure: Failure | None) -> None:
        run = launch.run
        self._schedule.end(run)
        if failure is None:
            summary = json.loads((self._folders[run] / SUMMARY_FILE).read_text(encoding="utf-8"))
            self._watcher.finished(run, summary)
        elif failure.refused_start and launch.start is not None:
            self._delete_state(self._start_key(launch))
            self._schedule.retry(run)
        else:
            self._failures[run] = failure
            self._watcher.failed(run, failure)

    def _look_for_states(self) -> None:
        for key in self._schedule.promised:
            if self._states.path(key).is_file():
                self._schedule.save(key)

    def _drop_states(self) -> None:
        """Delete the states that no run will start from: one may have hundreds of megabytes."""
        for key in self._schedule.saved - self._schedule.needed:
            self._delete_state(key)

    def _delete_state(self, key: str) -> None:
        path = self._states.path(key)
        path.unlink(missing_ok=True)
        shutil.rmtree(path.parent, ignore_errors=True)
        self._schedule.lose(key)
