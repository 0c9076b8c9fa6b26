"""A run saved at a boundary, in one file, and the rule for which runs may start from it.

    format (one line of text) | header (one line of JSON) | body (pickle) | SHA-256 of all before it (32 bytes)

The header says what the file is of; the body has what the backend held and all rows so far but those of `placement`.
The body is a pickle, since what a method remembers is its own affair: **trust a checkpoint as you would trust code**.
It is read only when the digest holds and the past is that of the run which starts from it.

Two runs share their past up to a boundary if their resolved configs agree in everything but `method` and `placement`,
and their methods name the same `past_settings` there. Then one can start from the other's saved state and is, to the
bit, the run from its start.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.differences import differences
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.executor import Saved
from fedknow_ray.federation.scheduler import SchedulerState
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.results.schema import TABLES
from fedknow_ray.results.store import ResultStore, replacing

MAGIC, FORMAT_VERSION = b"fedknow-ray checkpoint ", b"3"
DIGEST_BYTES = sha256().digest_size
CHUNK_BYTES = 2**20


class CheckpointError(UserError):
    """A file that is no checkpoint, is broken, or is of another past than the run that is to start from it."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The body of a checkpoint: what the backend held, and the tables by name."""

    saved: Saved
    tables: Mapping[str, pa.Table]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint; its body is read when it is asked for.

    *past* what decided the run so far, see `past_of`; *made_with* digests of the data set and of the start model, and
    versions; *wall_s* the host seconds that the run had taken.
    """

    path: Path
    past: Mapping[str, Any]
    made_with: Mapping[str, str]
    state: SchedulerState
    wall_s: float
    sha256: str
    body_start: int

    def contents(self) -> Contents:
        """Read the body, which runs whatever code it names."""
        with self.path.open("rb") as stream:
            stream.seek(self.body_start)
            return cast(Contents, pickle.load(stream))

    def check_past(self, config: RunConfig) -> None:
        """Refuse to start a run of another past from here.

        Raises:
            CheckpointError: with each difference.
        """
        differing = _differing_lines(self.past, past_of(config, self.state.boundary))
        if differing:
            lines = "\n".join(f"  {line}" for line in differing)
            raise CheckpointError(
                f"{self.path} ({self.state.boundary}) is of another past than this config:\n{lines}\n"
                "start from a checkpoint with these settings, or from the beginning"
            )

    def check_made_with(self, made_with: Mapping[str, str]) -> None:
        """Refuse other images or another start model under the same names, and code whose bits may be others.

        Raises:
            CheckpointError: with each difference.
        """
        differing = _differing_lines(self.made_with, made_with)
        if differing:
            lines = "\n".join(f"  {line}" for line in differing)
            raise CheckpointError(
                f"{self.path} was saved with other data or by other code:\n{lines}\nstart from the beginning"
            )

    def origin(self) -> dict[str, str]:
        """Return what the manifest of a run that started here says of it."""
        return {
            "boundary": str(self.state.boundary),
            "past_key": _key(self.past),
            "checkpoint_sha256": self.sha256,
        }


def checkpoint_path(folder: Path, boundary: Boundary) -> Path:
    """Return where a run that is saved in a folder has the checkpoint of a boundary."""
    return folder / f"{boundary}.ckpt"


def past_of(config: RunConfig, boundary: Boundary) -> dict[str, Any]:
    """Return all that can have made a difference to a run by a boundary, as plain values.

    `placement` is left out, since it decides where clients live and no bit of what they learn.
    """
    plain = config.to_dict()
    shared = {key: value for key, value in plain.items() if key not in ("method", "placement")}
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
    """Write the checkpoint of a boundary into a folder, whole or not at all, and return its path.

    Raises:
        RunDirectoryError: if the folder cannot be made, or the file not be written.
    """
    path = checkpoint_path(folder, state.boundary)
    header = {
        "past": past_of(config, state.boundary),
        "made_with": dict(made_with),
        "state": state.plain(),
        "wall_s": wall_s,
    }
    make_folder(folder)
    with replacing(path) as stream:
        hashing = _HashingWriter(stream)
        hashing.write(MAGIC + FORMAT_VERSION + b"\n" + _canonical(header) + b"\n")
        # straight to the file: of what the backend holds there is one copy beside the living one
        pickle.dump(contents, hashing, protocol=pickle.HIGHEST_PROTOCOL)
        stream.write(hashing.digest.digest())
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
    """Return a checkpoint whose bytes are whole; its body is not yet read.

    Raises:
        CheckpointError: if there is none, or it is broken, or of another format.
    """
    try:
        with path.open("rb") as stream:
            return _read_header(path, stream)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error


def past_tables(store: ResultStore) -> dict[str, pa.Table]:
    """Return a run's tables for its checkpoint: all but where its clients live and how they were packed."""
    tables = {name: store.table(name) for name in TABLES if name != "placement"}
    return {**tables, "events": tables["events"].filter(pc.field("kind") != "packed")}


def _read_header(path: Path, stream: BinaryIO) -> Checkpoint:
    if stream.read(len(MAGIC)) != MAGIC:
        raise CheckpointError(f"{path} is not a checkpoint of fedknow-ray")
    version = stream.readline(80).strip()
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version.decode(errors='replace')}, this program reads "
            f"{FORMAT_VERSION.decode()}; save it again with this version of fedknow-ray"
        )
    line = stream.readline()
    body_start = stream.tell()
    digest = _check_digest(path, stream)
    header = json.loads(line)
    return Checkpoint(
        path=path,
        past=header["past"],
        made_with=header["made_with"],
        state=SchedulerState.of_plain(header["state"]),
        wall_s=header["wall_s"],
        sha256=digest,
        body_start=body_start,
    )


def _check_digest(path: Path, stream: BinaryIO) -> str:
    """Return the digest of a file, from its beginning; refuse a file whose end does not name it."""
    left = stream.seek(0, 2) - DIGEST_BYTES
    stream.seek(0)
    digest = sha256()
    while left > 0:
        chunk = stream.read(min(left, CHUNK_BYTES))
        digest.update(chunk)
        left -= len(chunk)
    if stream.read() != digest.digest():
        raise CheckpointError(f"{path} is broken: its bytes are not those that were saved; save it again")
    return digest.hexdigest()


class _HashingWriter:
    """Writes to a stream and keeps the digest of all that it wrote."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self._stream.write(data)


def _key(past: Mapping[str, Any]) -> str:
    return sha256(_canonical(past)).hexdigest()


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _differing_lines(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return "KEY: VALUE there, VALUE here" for each leaf in which two trees of plain values differ, by key."""
    found = sorted(differences(dict(there), dict(here), absent="nothing"), key=lambda each: each.key.split("."))
    return [f"{each.key}: {each.there} there, {each.here} here" for each in found]
