"""The tables of a run: a row type and a pyarrow schema for each, in the same order of columns.

The row types are what the simulator fills in; the schemas are what a reader of the Parquet files may rely on. A field
that may be None in the row is nullable in the schema, and no other is. The file metadata holds the table's name and
`SCHEMA_VERSION`, which goes up when a column changes its name, type or meaning, or goes away.

Column by column, with units and null rules: docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa

SCHEMA_VERSION = 1
TABLE_KEY = b"fedknow_ray.table"
VERSION_KEY = b"fedknow_ray.schema_version"


@dataclass(frozen=True, slots=True)
class VisitRow:
    """One client's part in one round, or its finish of a task."""

    client_id: int
    device: str
    task_index: int
    round_index: int
    kind: str
    """`train`, `refine` or `finish_task`."""
    status: str
    """`ok`, or why the visit's update was not used."""
    download_s: float
    compute_s: float
    upload_s: float
    wait_s: float
    download_bytes: int
    upload_bytes: int
    flops: int
    moved_bytes: int
    peak_memory_bytes: int | None
    energy_j: float | None
    """None where the device's profile knows no power."""
    loss: float | None
    """Mean training loss; None where the visit did not train."""
    integrated_steps: int | None
    """Steps whose gradient was checked against past tasks; None where the method does not integrate gradients."""
    violated_steps: int | None
    host_wall_s: float
    host_cpu_s: float
    start_s: float
    work: Sequence[Mapping[str, str | int]]
    """The steps behind `flops` and `moved_bytes`, equal ones together: phase, count, and both of one step with its
    stored_bytes."""
    model_version: int
    """How many merges were behind the broadcast that it started from."""
    merge_index: int | None
    """The merge that its update went into, from 0; None where there was none."""


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One aggregation cycle, on the virtual clock."""

    task_index: int | None
    """None where tasks come to each client by time: rounds are then counted over the run."""
    round_index: int
    start_s: float
    end_s: float
    clients: Sequence[int]
    upload_bytes: int
    download_bytes: int
    parameters_sha256: str | None = None
    """Of the global model after the round; None where there is none: nothing was trained, as in a what-if."""


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """One client's score on one learnt task, after it finished learning another (or the same)."""

    client_id: int
    model: str
    """`own`: the client's own model; `global`: the global parameters under the client's head."""
    trained_task_index: int
    task_index: int
    correct: int
    total: int


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened once, at a point of the virtual clock."""

    time_s: float
    kind: str
    client_id: int | None
    detail: str


HOST_EVENTS = frozenset(
    ("packed", "actor_lost", "rolled_back", "resumed", "checkpoint_refused", "interrupted", "failed")
)
"""The kinds of event that tell of the machines that a run was made on, and of nothing that its seed decides."""


@dataclass(frozen=True, slots=True)
class PlacementRow:
    """Where a client lived."""

    client_id: int
    device: str
    actor_id: str | None
    node_id: str | None
    pid: int
    resources: str
    """The resources assigned to the actor, as a JSON object."""


Row = VisitRow | RoundRow | AccuracyRow | EventRow | PlacementRow


def _schema(table: str, *columns: tuple[str, pa.DataType], nullable: Sequence[str] = ()) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=name in nullable) for name, kind in columns]
    return pa.schema(fields, metadata={TABLE_KEY: table.encode(), VERSION_KEY: str(SCHEMA_VERSION).encode()})


_INDEX, _COUNT, _REAL, _TEXT = pa.int32(), pa.int64(), pa.float64(), pa.string()


def _list_of(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


_STEP = pa.struct(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("phase", _TEXT),
            ("count", _COUNT),
            ("flops", _COUNT),
            ("moved_bytes", _COUNT),
            ("stored_bytes", _COUNT),
        )
    ]
)

VISITS = _schema(
    "visits",
    ("client_id", _INDEX),
    ("device", _TEXT),
    ("task_index", _INDEX),
    ("round_index", _INDEX),
    ("kind", _TEXT),
    ("status", _TEXT),
    ("download_s", _REAL),
    ("compute_s", _REAL),
    ("upload_s", _REAL),
    ("wait_s", _REAL),
    ("download_bytes", _COUNT),
    ("upload_bytes", _COUNT),
    ("flops", _COUNT),
    ("moved_bytes", _COUNT),
    ("peak_memory_bytes", _COUNT),
    ("energy_j", _REAL),
    ("loss", _REAL),
    ("integrated_steps", _COUNT),
    ("violated_steps", _COUNT),
    ("host_wall_s", _REAL),
    ("host_cpu_s", _REAL),
    ("start_s", _REAL),
    ("work", _list_of(_STEP)),
    ("model_version", _INDEX),
    ("merge_index", _INDEX),
    nullable=("merge_index", "peak_memory_bytes", "energy_j", "loss", "integrated_steps", "violated_steps"),
)

ROUNDS = _schema(
    "rounds",
    ("task_index", _INDEX),
    ("round_index", _INDEX),
    ("start_s", _REAL),
    ("end_s", _REAL),
    ("clients", _list_of(_INDEX)),
    ("upload_bytes", _COUNT),
    ("download_bytes", _COUNT),
    ("parameters_sha256", _TEXT),
    nullable=("task_index", "parameters_sha256"),
)

ACCURACY = _schema(
    "accuracy",
    ("client_id", _INDEX),
    ("model", _TEXT),
    ("trained_task_index", _INDEX),
    ("task_index", _INDEX),
    ("correct", _COUNT),
    ("total", _COUNT),
)

EVENTS = _schema(
    "events",
    ("time_s", _REAL),
    ("kind", _TEXT),
    ("client_id", _INDEX),
    ("detail", _TEXT),
    nullable=("client_id",),
)

PLACEMENT = _schema(
    "placement",
    ("client_id", _INDEX),
    ("device", _TEXT),
    ("actor_id", _TEXT),
    ("node_id", _TEXT),
    ("pid", _COUNT),
    ("resources", _TEXT),
    nullable=("actor_id", "node_id"),
)

TABLES: Mapping[str, pa.Schema] = MappingProxyType(
    # `rounds` is last: tables are written in this order, so a round that stands in its table has its visits in theirs.
    {"visits": VISITS, "accuracy": ACCURACY, "events": EVENTS, "placement": PLACEMENT, "rounds": ROUNDS}
)

ROW_TYPES: Mapping[type[Row], str] = MappingProxyType(
    {
        VisitRow: "visits",
        AccuracyRow: "accuracy",
        EventRow: "events",
        PlacementRow: "placement",
        RoundRow: "rounds",
    }
)
