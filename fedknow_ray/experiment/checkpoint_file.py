"""The format of a checkpoint: a short text that says where a run stands, and blobs beside it that it names.

    format (one line) | header (one line of JSON) | SHA-256 of both lines, in hexadecimal (one line)        NAME.ckpt
    broadcasts and updates (transport.payload), clients' states (federation.state_bytes), tables (Arrow)    objects/

Each blob is named by the SHA-256 of its bytes, so one checkpoint stands for everything that it names. Blobs are written
first, and the text last and in one step; a checkpoint that can be read is whole. What has not changed since the one
before is not written again. Nothing in it can run code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.federation.executor import Saved, SavedVisit
from fedknow_ray.federation.standing import SchedulerState
from fedknow_ray.federation.visit_record import order_of, plain_order
from fedknow_ray.results.objects import BrokenObject, ObjectFolder
from fedknow_ray.results.schema import TABLES
from fedknow_ray.results.store import replacing
from fedknow_ray.transport.payload import Buffer

MAGIC, FORMAT_VERSION = b"fedknow-ray checkpoint ", b"5"
#: A header of a fleet of 100,000 clients is some 8 MB; no run has one of this length.
LONGEST_HEADER_BYTES = 2**28
OBJECTS = "objects"
ValueT = TypeVar("ValueT")


class CheckpointError(UserError):
    """A file that is no checkpoint, is broken, or is of another past than the run that is to start from it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a checkpoint names: blobs by what they are of, and for each table its rows, and its blob or None.

    A table without a blob is the first rows of that of the run in whose directory the checkpoint lies.
    """

    broadcast: str
    states: Mapping[int, str]
    visits: tuple[Mapping[str, Any], ...]
    tables: Mapping[str, tuple[int, str | None]]

    @property
    def names(self) -> frozenset[str]:
        """All blobs that it needs."""
        visits = (visit[key] for visit in self.visits for key in ("base", "update") if visit[key] is not None)
        tables = (blob for _, blob in self.tables.values() if blob is not None)
        return frozenset((self.broadcast, *self.states.values(), *visits, *tables))


@dataclass(frozen=True, slots=True)
class Header:
    """What a checkpoint says of its run.

    *config* the resolved config as plain values; *past* what decided the run so far where others may start here, see
    `checkpoint.past_of`, else None; *made_with* digests and versions; *wall_s* the host seconds that the run had taken;
    *position* counts the checkpoints of a run, for their order.
    """

    config: Mapping[str, Any]
    past: Mapping[str, Any] | None
    made_with: Mapping[str, str]
    state: SchedulerState
    wall_s: float
    position: int
    stored: Stored


def store_saved(saved: Saved, objects: ObjectFolder, unchanged: Mapping[int, str]) -> Stored:
    """Write what a backend held as blobs; *unchanged* names the states of the other clients."""
    names: dict[int, str] = {}

    def put(payload: Buffer | None) -> str | None:
        # visits of a round have one base: it is hashed once
        if payload is None:
            return None
        if id(payload) not in names:
            names[id(payload)] = objects.put(np.ascontiguousarray(payload).data)
        return names[id(payload)]

    visits = tuple(
        {"order": plain_order(visit.order), "base": put(visit.base), "update": put(visit.update)}
        for visit in saved.visits
    )
    states = {**unchanged, **{client_id: objects.put(state) for client_id, state in saved.states.items()}}
    return Stored(str(put(saved.broadcast)), states, visits, {})


def store_table(table: pa.Table, objects: ObjectFolder) -> str:
    """Write a table as a blob in Arrow's stream format, and return its name."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return objects.put(memoryview(sink.getvalue()))


def load_table(name: str, blob: str, objects: ObjectFolder) -> pa.Table:
    """Return the table that a blob holds.

    Raises:
        BrokenObject: if it is missing or broken, or is no table of that name.
    """
    try:
        return pa.ipc.open_stream(objects.get(blob)).read_all().cast(TABLES[name])
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise BrokenObject(f"the table {name!r} of a checkpoint cannot be read: {error}") from error


class StoredStates(Mapping[int, bytes]):
    """Clients' states, each read when it is asked for: a fleet's need not be in memory at once."""

    def __init__(self, names: Mapping[int, str], objects: ObjectFolder) -> None:
        self._names, self._objects = names, objects

    def __getitem__(self, client_id: int) -> bytes:
        return self._objects.get(self._names[client_id])

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_saved(stored: Stored, objects: ObjectFolder) -> Saved:
    """Return what a backend held.

    Raises:
        BrokenObject: if a blob is missing or broken; of states when they are asked for.
    """
    payloads: dict[str, Buffer] = {}

    def get(name: str) -> Buffer:
        if name not in payloads:
            payloads[name] = np.frombuffer(objects.get(name), np.uint8)
        return payloads[name]

    visits = tuple(
        SavedVisit(order_of(v["order"]), get(v["base"]), None if v["update"] is None else get(v["update"]))
        for v in stored.visits
    )
    return Saved(get(stored.broadcast), StoredStates(stored.states, objects), visits)


def write_header(path: Path, header: Header) -> None:
    """Write the text of a checkpoint, whole or not at all, when its blobs are there.

    Raises:
        RunDirectoryError: if the file cannot be written.
    """
    stored = header.stored
    plain = {
        "config": header.config,
        "past": header.past,
        "made_with": header.made_with,
        "state": header.state.plain(),
        "wall_s": header.wall_s,
        "position": header.position,
        "broadcast": stored.broadcast,
        "states": [[client_id, name] for client_id, name in stored.states.items()],
        "visits": list(stored.visits),
        "tables": {name: list(table) for name, table in stored.tables.items()},
    }
    text = MAGIC + FORMAT_VERSION + b"\n" + canonical(plain) + b"\n"
    with replacing(path) as stream:
        stream.write(text + sha256(text).hexdigest().encode() + b"\n")


def read_header(path: Path) -> tuple[Header, str]:
    """Return what a checkpoint says, and the digest of its text.

    Raises:
        CheckpointError: if there is none, or it is broken, or of another format.
    """
    try:
        with path.open("rb") as stream:
            return _read(path, stream)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return plain values as JSON in one fixed form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def of_checkpoint(path: Path, read: Callable[[], ValueT]) -> ValueT:
    """Return what is read from a checkpoint's blobs.

    Raises:
        CheckpointError: if one is missing or broken, with the checkpoint's name.
    """
    try:
        return read()
    except RunDirectoryError as error:
        raise CheckpointError(f"{path} is broken: {error}") from error


def _read(path: Path, stream: BinaryIO) -> tuple[Header, str]:
    if stream.read(len(MAGIC)) != MAGIC:
        raise CheckpointError(f"{path} is not a checkpoint of fedknow-ray")
    version = stream.readline(80)
    if version != FORMAT_VERSION + b"\n":
        raise CheckpointError(
            f"{path} has checkpoint format {version.strip().decode(errors='replace')}, this program reads "
            f"{FORMAT_VERSION.decode()}; save it again with this version of fedknow-ray"
        )
    line = stream.readline(LONGEST_HEADER_BYTES)
    digest = sha256(MAGIC + version + line).hexdigest()
    if stream.read(len(digest) + 2) != digest.encode() + b"\n":
        raise CheckpointError(f"{path} is broken: its bytes are not those that were saved; save it again")
    try:
        return _header(json.loads(line)), digest
    # a stranger's file may have a digest that holds and be of any content
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no checkpoint that this program has written: {error!r}") from error


def _header(plain: Mapping[str, Any]) -> Header:
    visits = tuple(
        {"order": v["order"], "base": _blob(v["base"]), "update": None if v["update"] is None else _blob(v["update"])}
        for v in plain["visits"]
    )
    for visit in visits:
        order_of(visit["order"])
    return Header(
        config=dict(plain["config"]),
        past=None if plain["past"] is None else dict(plain["past"]),
        made_with={str(key): str(value) for key, value in plain["made_with"].items()},
        state=SchedulerState.of_plain(plain["state"]),
        wall_s=float(plain["wall_s"]),
        position=int(plain["position"]),
        stored=Stored(
            broadcast=_blob(plain["broadcast"]),
            states={int(client_id): _blob(name) for client_id, name in plain["states"]},
            visits=visits,
            tables={name: (int(plain["tables"][name][0]), _table_blob(plain["tables"][name][1])) for name in _KEPT},
        ),
    )


def _table_blob(name: Any) -> str | None:
    return None if name is None else _blob(name)


def _blob(name: Any) -> str:
    # a name becomes a path, and nothing but a digest may
    if not isinstance(name, str) or len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise ValueError(f"{name!r} is no digest")
    return name


_KEPT = tuple(name for name in TABLES if name != "placement")
"""The tables that a checkpoint has; where clients live is another matter in each run."""
