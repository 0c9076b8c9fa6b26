"""Writing a run directory: every file appears whole or not at all.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed over the old one, which
POSIX does in one step. A process that is killed in between leaves the old file and a `.NAME.tmp` that the next write
of the same file replaces. Tables are rewritten as a whole, since a Parquet file cannot be appended to: rows become an
Arrow chunk once, at the flush after they came, and only tables that changed are written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results.schema import HOST_EVENTS, ROW_TYPES, TABLES, Row

#: Pieces of a table in memory. Each flush adds one, and one of 5 visits takes 33 kB beside its rows.
MOST_CHUNKS = 50
CONFIG_FILE, MANIFEST_FILE, SUMMARY_FILE = "config.yaml", "manifest.json", "summary.json"


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Make *path* hold *data*, like `replacing` for content that is whole already."""
    with replacing(path) as stream:
        stream.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream for the new content of *path*, which has its old content, or none, until all of it is on the disk.

    If the block raises, nothing has changed.

    Raises:
        RunDirectoryError: if the operating system refuses (disk full, no permission); the old file is untouched.
    """
    temporary = temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)
        # "x" does not follow a link: a stranger's folder may have one of that name that leads out of it
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the tests make this very call fail
        _sync_directory(path.parent)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return where the new content of *path* is until it is whole; a program that is killed may leave it there."""
    return path.with_name(f".{path.name}.tmp")


def _sync_directory(path: Path) -> None:
    # Without this a power cut may undo the rename although the data are on the disk.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _no_copy() -> None:
    return


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The folder of one run. `create` makes it; the config and the manifest are written before round 0.

    *made* the folders that `create` had to make, innermost first. *copy* brings a copy of the folder that is elsewhere,
    if there is one, to where the folder is.
    """

    path: Path
    made: tuple[Path, ...] = ()
    copy: Callable[[], None] = field(default=_no_copy, compare=False)

    @classmethod
    def create(cls, path: str | Path) -> RunDirectory:
        """Make the folder with its parents, or take an existing one that is empty.

        Raises:
            RunDirectoryError: if *path* is a file, a folder that holds something, or cannot be made.
        """
        folder = Path(path)
        made = tuple(place for place in (folder, *folder.parents) if not place.exists())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = sorted(entry.name for entry in folder.iterdir())
        except FileExistsError as error:
            raise RunDirectoryError(f"{folder} is a file; name a folder for the run that is new or empty") from error
        except OSError as error:
            raise RunDirectoryError(f"cannot make the run directory {folder}: {error.strerror or error}") from error
        if taken:
            raise RunDirectoryError(
                f"{folder} is not empty (it holds {taken[0]!r}); name a folder for the run that is new or empty"
            )
        return cls(folder, made)

    def write_config(self, text: str) -> None:
        """Write the fully resolved config, as YAML text; the first file of a run, which claims the folder.

        Raises:
            RunDirectoryError: if another run has claimed the folder in the meantime.
        """
        try:
            with (self.path / CONFIG_FILE).open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError as error:
            raise RunDirectoryError(f"{self.path} is in use by another run; name another folder") from error
        except OSError as error:
            raise RunDirectoryError(f"cannot write {self.path / CONFIG_FILE}: {error.strerror or error}") from error

    def abandon(self) -> None:
        """Leave no trace of a run that could not start: its config, and the folders that were made for it."""
        if (self.path / MANIFEST_FILE).exists():
            return
        (self.path / CONFIG_FILE).unlink(missing_ok=True)
        for folder in self.made:
            if any(folder.iterdir()):
                break
            folder.rmdir()

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write versions, digests, host and seed: JSON values only, no NaN or infinity (ValueError)."""
        write_atomically(self.path / MANIFEST_FILE, _json_bytes(manifest))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run's key numbers; this is the last file of a run, and its presence means that the run finished."""
        write_atomically(self.path / SUMMARY_FILE, _json_bytes(summary))


class ResultStore:
    """Collects the rows of a run and writes them as `TABLE.parquet` files (zstd).

    Every table exists after the first flush, if only with its columns. One store writes a folder, from one thread.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._path = directory.path
        self._pending: dict[str, list[Row]] = {table: [] for table in TABLES}
        self._tables = {table: schema.empty_table() for table, schema in TABLES.items()}
        self._unwritten = set(TABLES)

    def append(self, rows: Row | Iterable[Row]) -> None:
        """Add one row or several, of any of the row types; nothing is written before `flush`.

        Raises:
            TypeError: if a row is of no row type of `results.schema`.
            ValueError: if a column that may not be null is None.
        """
        for row in [rows] if isinstance(rows, Row) else rows:
            table = ROW_TYPES.get(type(row))
            if table is None:
                raise TypeError(f"{type(row).__name__} is not a row of any table")
            for name in _REQUIRED[table]:
                if getattr(row, name) is None:
                    raise ValueError(f"{table}.{name} may not be null")
            self._pending[table].append(row)

    def take_over(self, tables: Mapping[str, pa.Table]) -> None:
        """Add the rows of another run's tables, by name, behind those that are there."""
        for name, rows in tables.items():
            whole = pa.concat_tables([self.table(name), rows])
            self._unwritten.add(name)
            self._pending[name], self._tables[name] = [], whole

    def cut(self, rows: Mapping[str, int]) -> None:
        """Drop the rows of tables, by name, behind the first so many; the files follow at the next flush."""
        for name, count in rows.items():
            whole = self.table(name)
            kept = whole.slice(0, count)
            if name == "events":
                # what has happened to the host has happened, whatever is done again
                kept = pa.concat_tables([kept, _of_the_host(whole.slice(count))])
            self._pending[name], self._tables[name] = [], kept
            self._unwritten.add(name)

    def flush(self) -> None:
        """Write the tables that have new rows; costs nothing for the others.

        `rounds` is written last: a round that can be read has all its visits beside it, whenever the process dies.

        Raises:
            RunDirectoryError: if a file cannot be written. The old one stands, and the next flush tries again.
        """
        for table in TABLES:
            pending = self._pending[table]
            if not pending and table not in self._unwritten:
                continue
            whole = _compact(self.table(table))
            write_atomically(self._path / f"{table}.parquet", to_parquet(whole))
            # one assignment each, new list first: Ctrl-C in between must not leave rows that would be written twice
            self._pending[table], self._tables[table] = [], whole
            self._unwritten.discard(table)

    def rows(self, name: str) -> int:
        """Return how many rows a table has so far, flushed or not."""
        return len(self._tables[name]) + len(self._pending[name])

    def table(self, name: str) -> pa.Table:
        """Return all rows of a table so far, flushed or not."""
        return pa.concat_tables([self._tables[name], _to_arrow(name, self._pending[name])])


_REQUIRED = {table: [field.name for field in schema if not field.nullable] for table, schema in TABLES.items()}


def _compact(table: pa.Table) -> pa.Table:
    """Return a table in one piece if it has come to many; a copy each so many flushes costs less than the pieces do."""
    return table.combine_chunks() if table.column(0).num_chunks > MOST_CHUNKS else table


def _of_the_host(events: pa.Table) -> pa.Table:
    return events.filter(pc.is_in(events["kind"], pa.array(sorted(HOST_EVENTS))))


def tables_of(rows: Iterable[Row]) -> dict[str, pa.Table]:
    """Return rows as tables by name, all of them there; writes nothing."""
    found: dict[str, list[Row]] = {table: [] for table in TABLES}
    for row in rows:
        found[ROW_TYPES[type(row)]].append(row)
    return {table: _to_arrow(table, own) for table, own in found.items()}


def _to_arrow(table: str, rows: list[Row]) -> pa.Table:
    schema = TABLES[table]
    columns = [pa.array(map(attrgetter(field.name), rows), type=field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def to_parquet(table: pa.Table) -> memoryview:
    """Return a table as the bytes of a Parquet file (zstd)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return memoryview(sink.getvalue())
