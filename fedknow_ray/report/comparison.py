"""Writing a comparison: `comparison.parquet`, the same as `comparison.csv`, and the page `comparison.html`.

Whatever is there of the runs is shown, and what is missing is listed: it may be written while runs are still made.
"""

from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow as pa

from fedknow_ray.report.comparison_numbers import comparison_table, compute, summary
from fedknow_ray.report.comparison_page import render_comparison
from fedknow_ray.results import write_atomically
from fedknow_ray.results.comparison import Comparison
from fedknow_ray.results.store import to_parquet

TABLE_FILE, CSV_FILE, PAGE_FILE = "comparison.parquet", "comparison.csv", "comparison.html"


def write_comparison(comparison: Comparison) -> dict[str, Any]:
    """Write the table, as Parquet and as CSV, and the page into the comparison's folder.

    Returns the comparison as one JSON object: `comparison_numbers.summary`, and the paths "table", "csv" and "page".

    Raises:
        RunDirectoryError: if a finished run cannot be read, or a file cannot be written.
    """
    numbers = compute(comparison)
    table = comparison_table(numbers)
    paths = {"table": TABLE_FILE, "csv": CSV_FILE, "page": PAGE_FILE}
    write_atomically(comparison.path / TABLE_FILE, to_parquet(table))
    write_atomically(comparison.path / CSV_FILE, _csv(table))
    write_atomically(comparison.path / PAGE_FILE, render_comparison(numbers).encode())
    return summary(numbers) | {name: str(comparison.path / file) for name, file in paths.items()}


def _csv(table: pa.Table) -> bytes:
    """Return the table as CSV; lists are joined with ";", null is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows([_cell(value) for value in row.values()] for row in table.to_pylist())
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ";".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else value
