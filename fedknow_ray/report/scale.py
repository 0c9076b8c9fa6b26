"""Writing a scaling grid: `scale.json` and the page `scale.html`, of whatever is there of its runs."""

from __future__ import annotations

import json
from typing import Any

from fedknow_ray.experiment.scale import SCALE_FILE, ScaleGrid
from fedknow_ray.report.scale_measures import ScaleFigures, figures_of
from fedknow_ray.report.scale_page import render_scale
from fedknow_ray.results import write_atomically

PAGE_FILE = "scale.html"


def write_scale(grid: ScaleGrid, command: str | None = None) -> ScaleFigures:
    """Write both files into the grid's folder, and return what they tell; *command* is noted on the page.

    Raises:
        RunDirectoryError: if a finished run cannot be read, or a file cannot be written.
    """
    figures = figures_of(grid)
    text = json.dumps(figures.plain(), indent=2, ensure_ascii=False)
    write_atomically(grid.out / SCALE_FILE, f"{text}\n".encode())
    write_atomically(grid.out / PAGE_FILE, render_scale(figures, command).encode())
    return figures


def scale_object(grid: ScaleGrid, figures: ScaleFigures) -> dict[str, Any]:
    """Return `scale.json` with the paths of the folder and the page: what `--json` prints."""
    return {"out": str(grid.out), "page": str(grid.out / PAGE_FILE), **figures.plain()}
