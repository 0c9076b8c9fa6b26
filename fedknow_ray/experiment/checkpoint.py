"""A run saved at a place of its course, and the rule for which runs may start from it.

Two runs share their past up to a boundary if their resolved configs agree in everything but `method`, `placement` and
`recovery`, and their methods name the same `past_settings` there. Then one can start from the other's saved state and
is, to the bit, the run from its start. The format is that of `experiment.checkpoint_file`: nothing in it can run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.experiment.checkpoint_file import (
    OBJECTS,
    CheckpointError,
    Header,
    canonical,
    load_saved,
    load_table,
    of_checkpoint,
    read_header,
    store_saved,
    store_table,
    write_header,
)
from fedknow_ray.experiment.differences import differences
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.executor import Saved
from fedknow_ray.federation.standing import SchedulerState
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.results.objects import ObjectFolder
from fedknow_ray.results.run import read_table
from fedknow_ray.results.schema import HOST_EVENTS, TABLES
from fedknow_ray.results.store import ResultStore

OF_THE_HOST = ("placement", "recovery")
"""The sections of a config that decide where a run is made and how it is kept, and no bit of what it learns."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint holds: what the backend held, and the tables by name."""

    saved: Saved
    tables: Mapping[str, pa.Table]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint; what it names is read when it is asked for. *sha256* of its text, and so of all of it."""

    path: Path
    header: Header
    sha256: str

    @property
    def state(self) -> SchedulerState:
        """Where the run stood."""
        return self.header.state

    @property
    def wall_s(self) -> float:
        """The host seconds that the run had taken."""
        return self.header.wall_s

    @property
    def objects(self) -> ObjectFolder:
        """Where its blobs are."""
        return ObjectFolder(self.path.parent / OBJECTS)

    def contents(self) -> Contents:
        """Read it; states when they are asked for.

        Raises:
            CheckpointError: if a blob, or a table of the run, is missing or broken.
        """
        return of_checkpoint(self.path, lambda: Contents(load_saved(self.header.stored, self.objects), self._tables()))

    def check_whole(self) -> None:
        """Read all of it, and compare each blob with its name.

        Raises:
            CheckpointError: if anything is missing or broken.
        """
        contents = self.contents()
        for client_id in contents.saved.states:
            of_checkpoint(self.path, lambda client_id=client_id: contents.saved.states[client_id])  # type: ignore[misc]

    def check_past(self, config: RunConfig) -> None:
        """Refuse to start a run of another past from here.

        Raises:
            CheckpointError: with each difference, or if it lies between the rounds of a task.
        """
        boundary = self.boundary
        differing = _differing_lines(self.header.past or {}, past_of(config, boundary))
        if differing:
            lines = "\n".join(f"  {line}" for line in differing)
            raise CheckpointError(
                f"{self.path} ({boundary}) is of another past than this config:\n{lines}\n"
                "start from a checkpoint with these settings, or from the beginning"
            )

    @property
    def boundary(self) -> Boundary:
        """The boundary that it is of.

        Raises:
            CheckpointError: if it lies between the rounds of a task.
        """
        if not self.state.at_boundary or self.state.boundary is None or self.header.past is None:
            raise CheckpointError(
                f"{self.path} lies between the rounds of a task, where only its own run can go on "
                "(fedknow-ray resume); start from the end of a task"
            )
        return self.state.boundary

    def check_made_with(self, made_with: Mapping[str, str]) -> None:
        """Refuse other images or another start model under the same names, and code whose bits may be others.

        Raises:
            CheckpointError: with each difference.
        """
        differing = _differing_lines(self.header.made_with, made_with)
        if differing:
            lines = "\n".join(f"  {line}" for line in differing)
            raise CheckpointError(
                f"{self.path} was saved with other data or by other code:\n{lines}\nstart from the beginning"
            )

    def origin(self) -> dict[str, str]:
        """Return what the manifest of a run that started here says of it."""
        return {
            "boundary": str(self.boundary),
            "past_key": _key(self.header.past or {}),
            "checkpoint_sha256": self.sha256,
        }

    def _tables(self) -> dict[str, pa.Table]:
        tables = {}
        for name, (rows, blob) in self.header.stored.tables.items():
            if blob is not None:
                tables[name] = load_table(name, blob, self.objects)
                continue
            whole = read_table(self.path.parent.parent, name)
            if len(whole) < rows:
                raise RunDirectoryError(f"{name}.parquet has {len(whole)} rows, and {rows} were saved")
            tables[name] = whole.slice(0, rows)
        return tables


def checkpoint_path(folder: Path, boundary: Boundary) -> Path:
    """Return where a run that is saved in a folder has the checkpoint of a boundary: alone, so that it can go alone."""
    return folder / str(boundary) / "state.ckpt"


def past_of(config: RunConfig, boundary: Boundary) -> dict[str, Any]:
    """Return all that can have made a difference to a run by a boundary, as plain values."""
    plain = config.to_dict()
    shared = {key: value for key, value in plain.items() if key not in ("method", *OF_THE_HOST)}
    method = METHODS.get(config.method.name)
    settings = method.past_settings(config.method.hyper, boundary.task_index, finished=boundary.finished)
    return {"boundary": str(boundary), **shared, "method": settings}


def past_key(config: RunConfig, boundary: Boundary) -> str:
    """Return the SHA-256, in hexadecimal, of `past_of`: equal for two runs just if one can start from the other there.

    Raises:
        UnknownNameError: if no method has the config's name.
    """
    return _key(past_of(config, boundary))


def save_checkpoint(
    folder: Path,
    config: RunConfig,
    state: SchedulerState,
    contents: Contents,
    *,
    made_with: Mapping[str, str],
    wall_s: float,
) -> Path:
    """Write the checkpoint of a boundary into a folder, with its tables, and return its path.

    Raises:
        RunDirectoryError: if the folder cannot be made, or a file not be written.
        ValueError: if the run stands at no boundary.
    """
    if state.boundary is None or not state.at_boundary:
        raise ValueError(f"at {state.time_s} s the run stands at no boundary")
    path = checkpoint_path(folder, state.boundary)
    make_folder(path.parent)
    objects = ObjectFolder(path.parent / OBJECTS)
    stored = store_saved(contents.saved, objects, {})
    tables = {name: (len(table), store_table(table, objects)) for name, table in contents.tables.items()}
    header = Header(
        config=config.to_dict(),
        past=past_of(config, state.boundary),
        made_with=made_with,
        state=state,
        wall_s=wall_s,
        position=0,
        stored=replace(stored, tables=tables),
    )
    write_header(path, header)
    return path


def make_folder(folder: Path) -> None:
    """Make the folder of a run's checkpoints, with its parents, unless it is there.

    Raises:
        RunDirectoryError: if it cannot be made; no `CheckpointError`, since the one to start from is not to blame.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot make the folder of checkpoints {folder}: {error.strerror or error}") from error


def open_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint whose text is whole; its blobs are not yet read.

    Raises:
        CheckpointError: if there is none, or it is broken, or of another format.
    """
    return Checkpoint(path, *read_header(path))


def past_tables(store: ResultStore) -> dict[str, pa.Table]:
    """Return a run's tables for its checkpoint: all but what happened to its host alone."""
    tables = {name: store.table(name) for name in TABLES if name != "placement"}
    of_the_host = pc.is_in(tables["events"]["kind"], pa.array(sorted(HOST_EVENTS)))
    return {**tables, "events": tables["events"].filter(pc.invert(of_the_host))}


def _key(past: Mapping[str, Any]) -> str:
    return sha256(canonical(past)).hexdigest()


def _differing_lines(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return "KEY: VALUE there, VALUE here" for each leaf in which two trees of plain values differ, by key."""
    found = sorted(differences(dict(there), dict(here), absent="nothing"), key=lambda each: each.key.split("."))
    return [f"{each.key}: {each.there} there, {each.here} here" for each in found]
