"""Prints a scaling grid as the tables of docs/results/scaling.md, read from its `scale.json`.

python benchmarks/scaling_rows.py grids/cifar100
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedknow_ray.metrics.growth import Slope
from fedknow_ray.report.scale_measures import MEASURES
from fedknow_ray.report.scale_page import figure_text, slope_text

#: In the table of points, with what stands above each; forgetting and accuracy are of the own models.
COLUMNS = {
    "virtual_time_s": "virtual time",
    "round_s": "a round",
    "sent_bytes": "sent",
    "peak_memory_bytes": "memory",
    "kept_bytes": "kept",
    "energy_j": "energy",
    "host_cpu_s": "host CPU",
    "average_accuracy": "accuracy",
    "forgetting": "forgetting",
}


def point_rows(scale: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the heading and a row for each point."""
    yield ["method", "clients", "tasks", *COLUMNS.values()]
    for point in scale["points"]:
        cells = [figure_text(point[measure], MEASURES[measure].unit) for measure in COLUMNS]
        yield [point["method"], str(point["clients"]), str(point["tasks"]), *cells]


def growth_rows(scale: Mapping[str, Any], form: str) -> Iterator[list[str]]:
    """Yield the heading and a row for each figure whose growth has this form, both methods side by side."""
    methods = scale["methods"]
    yield ["", *(f"{method}: {axis}" for method in methods for axis in ("clients", "tasks", "R²"))]
    fits = {(fit["method"], fit["measure"]): fit for fit in scale["fits"]}
    for measure, of in MEASURES.items():
        if of.form == form:
            yield [of.title, *(cell for method in methods for cell in _cells(fits[method, measure]))]


def _cells(fit: Mapping[str, Any]) -> list[str]:
    slopes = [
        slope_text(None if fit[axis] is None else Slope(**fit[axis]), fit["form"]) for axis in ("clients", "tasks")
    ]
    return [*slopes, "-" if fit["r2"] is None else f"{fit['r2']:.3f}"]


def markdown(rows: Iterator[Sequence[str]]) -> str:
    """Return rows as a table of Markdown; the first is the heading."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def main() -> None:
    """Print the points, the exponents, and what accuracy gains with each doubling."""
    scale = json.loads((Path(sys.argv[1]) / "scale.json").read_text(encoding="utf-8"))
    tables = [point_rows(scale), growth_rows(scale, "power"), growth_rows(scale, "doubling")]
    print("\n\n".join(map(markdown, tables)))


if __name__ == "__main__":
    main()
