"""The checkpoints of a run under way, in its directory: after each round, and at the end of each task.

    RUN_DIR/checkpoints/round-000017.ckpt       the last two; the older one is there in case the newer one is broken
    RUN_DIR/checkpoints/task-2-finished.ckpt    stay, so that other runs can go on from there
    RUN_DIR/checkpoints/objects/                what they name (experiment.checkpoint_file)

Each round writes the states of the clients that have changed, the broadcast, and what is under way. The tables are not
written again: a checkpoint says how many of their rows it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fedknow_ray.config.model import RunConfig
from fedknow_ray.experiment.checkpoint import Checkpoint, make_folder, open_checkpoint, past_of
from fedknow_ray.experiment.checkpoint_file import OBJECTS, CheckpointError, Header, Stored, store_saved, write_header
from fedknow_ray.federation.executor import Executor, Saved
from fedknow_ray.federation.standing import Progress, SchedulerState
from fedknow_ray.results.objects import ObjectFolder
from fedknow_ray.results.schema import TABLES
from fedknow_ray.results.store import ResultStore

CHECKPOINTS = "checkpoints"
#: Rounds whose checkpoints are kept: the last one, and the one before.
KEPT_ROUNDS = 2


class RunCheckpoints:
    """Saves a run in its directory; *wall_s* says how many host seconds it has taken by now."""

    def __init__(
        self, run_dir: Path, config: RunConfig, made_with: Mapping[str, str], wall_s: Callable[[], float]
    ) -> None:
        self._folder = run_dir / CHECKPOINTS
        self._objects = ObjectFolder(self._folder / OBJECTS)
        self._config, self._made_with, self._wall_s = config, dict(made_with), wall_s
        self._every, self._keeps_ends = config.recovery.checkpoint_every_rounds, config.recovery.keep_task_ends
        self._states: dict[int, str] = {}
        self._rounds: list[Path] = []
        self._names: dict[Path, frozenset[str]] = {}
        self._position, self._since = 0, 0
        self.latest: Checkpoint | None = None

    def states(self, client_ids: Sequence[int]) -> dict[int, bytes]:
        """Return the states that clients were last saved with; those that are absent are as at the start."""
        return {c: self._objects.get(self._states[c]) for c in client_ids if c in self._states}

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take up the checkpoints of the directory, of which this is the one that the run goes on from."""
        for path in checkpoints_in(self._folder):
            try:
                found = open_checkpoint(path)
            except CheckpointError:
                # a broken one names nothing that is needed
                path.unlink(missing_ok=True)
                continue
            if found.header.position > checkpoint.header.position:
                path.unlink(missing_ok=True)
            else:
                self._names[path] = found.header.stored.names
        self._rounds = sorted(path for path in self._names if path.name.startswith("round-"))
        self._position, self._states = checkpoint.header.position, dict(checkpoint.header.stored.states)
        self.latest = checkpoint

    def begin_from(self, saved: Saved, state: SchedulerState, store: ResultStore) -> None:
        """Save what a run begins with that has a past made elsewhere, all of it."""
        self._save(saved, state, store)

    def after(
        self, progress: Progress, state: Callable[[], SchedulerState], executor: Executor, store: ResultStore
    ) -> None:
        """Save the run where it stands, if it is time to; its rows are on the disk."""
        self._since += not progress.task_finished
        is_end = progress.boundary is not None and progress.boundary.finished
        if self._since >= self._every or is_end:
            self._since = 0
            self._save(executor.save(changes=True), state(), store)

    def finish(self) -> None:
        """Delete what only a run under way needs: all but the ends of tasks."""
        for path in self._rounds:
            path.unlink(missing_ok=True)
            del self._names[path]
        self._rounds = []
        self._objects.sweep(frozenset().union(*self._names.values()))

    def _save(self, saved: Saved, state: SchedulerState, store: ResultStore) -> None:
        make_folder(self._folder)
        stored = store_saved(saved, self._objects, self._states)
        stored = replace(stored, tables={name: (store.rows(name), None) for name in TABLES if name != "placement"})
        self._position += 1
        path = self._path(state)
        header = Header(
            config=self._config.to_dict(),
            past=past_of(self._config, state.boundary) if state.at_boundary and state.boundary is not None else None,
            made_with=self._made_with,
            state=state,
            wall_s=self._wall_s(),
            position=self._position,
            stored=stored,
        )
        write_header(path, header)
        self._states, self.latest = dict(stored.states), open_checkpoint(path)
        self._prune(path, stored)

    def _path(self, state: SchedulerState) -> Path:
        boundary = state.boundary
        if self._keeps_ends and state.at_boundary and boundary is not None and boundary.finished:
            return self._folder / f"{boundary}.ckpt"
        return self._folder / f"round-{self._position:06d}.ckpt"

    def _prune(self, path: Path, stored: Stored) -> None:
        """Delete the older rounds, and all blobs that only they have named."""
        self._names[path] = stored.names
        if path.name.startswith("round-"):
            self._rounds.append(path)
        for old in self._rounds[:-KEPT_ROUNDS]:
            old.unlink(missing_ok=True)
            del self._names[old]
        self._rounds = self._rounds[-KEPT_ROUNDS:]
        self._objects.sweep(frozenset().union(*self._names.values()))


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, by name."""
    return sorted(folder.glob("*.ckpt"))


def latest_whole(run_dir: Path, refused: Callable[[str], None]) -> Checkpoint | None:
    """Return the last checkpoint of a run of which nothing is missing or broken; *refused* is told of the others.

    None if there is none, so that the run has to begin again.
    """
    found = []
    for path in checkpoints_in(run_dir / CHECKPOINTS):
        try:
            found.append(open_checkpoint(path))
        except CheckpointError as error:
            refused(str(error))
    for checkpoint in sorted(found, key=lambda each: -each.header.position):
        try:
            checkpoint.check_whole()
        except CheckpointError as error:
            refused(str(error))
        else:
            return checkpoint
    return None


def boundary_checkpoint(run_dir: Path, task_index: int) -> Path:
    """Return where a run has the checkpoint of the end of a task."""
    return run_dir / CHECKPOINTS / f"task-{task_index}-finished.ckpt"
