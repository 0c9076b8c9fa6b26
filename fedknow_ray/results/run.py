"""Opening a run directory: `load(path)` gives a `Run` with its config, manifest, summary and tables.

The small files and the tables' footers are checked at once, so a folder that is no run is refused here; the rows of a
table are read when they are first asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from yaml import YAMLError

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.plain_yaml import plain_yaml
from fedknow_ray.results.schema import SCHEMA_VERSION, TABLES, VERSION_KEY
from fedknow_ray.results.store import CONFIG_FILE, MANIFEST_FILE, SUMMARY_FILE


@dataclass(frozen=True)
class Run:
    """One run's results. Tables are pyarrow tables with the schemas of `results.schema.TABLES`.

    `summary` is None where the run did not finish; `config` is the resolved config as plain values.
    """

    path: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    summary: dict[str, Any] | None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def visits(self) -> pa.Table:
        """One row for each client's part in a round: seconds, bytes, work, joules."""
        return read_table(self.path, "visits")

    @cached_property
    def rounds(self) -> pa.Table:
        """One row for each round: when it began and ended, who took part, bytes."""
        return read_table(self.path, "rounds")

    @cached_property
    def accuracy(self) -> pa.Table:
        """One row for each (client, model, trained task, evaluated task): correct of total."""
        return read_table(self.path, "accuracy")

    @cached_property
    def events(self) -> pa.Table:
        """One row for each thing out of the ordinary, on the virtual clock."""
        return read_table(self.path, "events")

    @cached_property
    def placement(self) -> pa.Table:
        """One row for each client: its actor, node and process."""
        return read_table(self.path, "placement")


def load(path: str | Path) -> Run:
    """Open the run in the folder *path*, finished or not.

    Raises:
        RunDirectoryError: if the folder is no run, or a file in it is missing, broken, of a newer version, or of none.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise RunDirectoryError(f"{folder} is not a folder; name the directory of a run")
    if not (folder / MANIFEST_FILE).is_file():
        raise RunDirectoryError(f"{folder} is not a run directory: it has no {MANIFEST_FILE}")
    for table in TABLES:
        _check_table(folder, table)
    finished = (folder / SUMMARY_FILE).exists()
    return Run(
        path=folder,
        config=_read_mapping(folder / CONFIG_FILE, plain_yaml),
        manifest=_read_mapping(folder / MANIFEST_FILE, json.loads),
        summary=_read_mapping(folder / SUMMARY_FILE, json.loads) if finished else None,
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a run; None of one that was killed before it had any.

    Raises:
        RunDirectoryError: if it is broken.
    """
    path = folder / MANIFEST_FILE
    return _read_mapping(path, json.loads) if path.is_file() else None


def _read_mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, YAMLError) as error:
        raise RunDirectoryError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"cannot read {path}: it holds no mapping")
    return value


def _check_table(folder: Path, table: str) -> None:
    path = folder / f"{table}.parquet"
    if not path.is_file():
        raise RunDirectoryError(f"{folder} lacks {path.name}: the run stopped before its first round, or lost a file")
    try:
        found = pq.read_schema(path)
        version = int((found.metadata or {})[VERSION_KEY])
    except KeyError:
        raise RunDirectoryError(
            f"{path} has no schema version; another program wrote it, give the file that the run left"
        ) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunDirectoryError(f"cannot read {path}: {error}") from error
    if version > SCHEMA_VERSION:
        raise RunDirectoryError(
            f"{path} has schema version {version}, this program knows up to {SCHEMA_VERSION}; update fedknow-ray"
        )
    if not _is_of(found, TABLES[table]):
        raise RunDirectoryError(f"{path} does not have the columns of version {SCHEMA_VERSION} of the table {table!r}")


def _is_of(found: pa.Schema, schema: pa.Schema) -> bool:
    """Return whether a file has the columns of a schema.

    A column that may have nulls by now need not have had any then, and one that came later need not be there.
    """
    known = pa.schema([own for own in schema if not own.nullable or own.name in found.names])
    if found.names != known.names:
        return False
    fields = [f.with_nullable(f.nullable or own.nullable) for f, own in zip(found, known, strict=True)]
    return bool(pa.schema(fields).equals(known))


def read_table(folder: Path, table: str) -> pa.Table:
    """Return a table of the run in a folder.

    Raises:
        RunDirectoryError: if its file is missing or broken.
    """
    path = folder / f"{table}.parquet"
    try:
        rows, schema = pq.read_table(path, page_checksum_verification=True), TABLES[table]
        for field in schema:
            if field.nullable and field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        return rows.select(schema.names).cast(schema)
    except (OSError, pa.ArrowException) as error:
        raise RunDirectoryError(f"cannot read {path}: {error}") from error
