"""What a run leaves behind: five Parquet tables with a versioned schema, config, manifest and summary.

`schema` says what the tables hold, `store` writes them while a run goes on, `run` opens them again. docs/results.md
explains every column to a reader who has only pandas, polars or DuckDB.
"""

from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import (
    SCHEMA_VERSION,
    TABLES,
    AccuracyRow,
    EventRow,
    PlacementRow,
    RoundRow,
    VisitRow,
)
from fedknow_ray.results.store import ResultStore, RunDirectory, write_atomically

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "AccuracyRow",
    "EventRow",
    "PlacementRow",
    "ResultStore",
    "RoundRow",
    "Run",
    "RunDirectory",
    "VisitRow",
    "load",
    "write_atomically",
]
