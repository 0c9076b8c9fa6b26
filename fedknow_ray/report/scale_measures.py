"""What a scaling grid says of each point, and how each figure grows with clients and tasks.

A figure is of a whole run, but for the seconds of a round: these are of each task of the run, so their "tasks" are the
number of the task, from 1, in the longest run of each number of clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import pyarrow.compute as pc

from fedknow_ray.experiment.scale import Point, ScaleGrid
from fedknow_ray.experiment.scale_config import Axes, PointId
from fedknow_ray.metrics import accuracy_matrix, forgetting
from fedknow_ray.metrics.growth import Fit, Form, Observation, fit_growth
from fedknow_ray.report.numbers import key_numbers, total_bytes
from fedknow_ray.results import Run, load
from fedknow_ray.results.store import SUMMARY_FILE

Unit = Literal["s", "bytes", "J", "share"]
ROUND = "round_s"
"""The measure that has a figure for each task of a run."""


class ScaleMeasure(NamedTuple):
    """A figure of a point: what it is called, what it is counted in, and the form of its growth."""

    title: str
    unit: Unit
    form: Form


MEASURES: Mapping[str, ScaleMeasure] = MappingProxyType(
    {
        "virtual_time_s": ScaleMeasure("Virtual time of the run", "s", "power"),
        ROUND: ScaleMeasure("Virtual time of a round", "s", "power"),
        "sent_bytes": ScaleMeasure("Bytes sent, both ways", "bytes", "power"),
        "peak_memory_bytes": ScaleMeasure("Most memory of a device", "bytes", "power"),
        "kept_bytes": ScaleMeasure("Bytes that a client keeps", "bytes", "power"),
        "energy_j": ScaleMeasure("Energy of all visits", "J", "power"),
        "host_cpu_s": ScaleMeasure("Processor time of this host", "s", "power"),
        "average_accuracy": ScaleMeasure("Average accuracy, own model", "share", "doubling"),
        "average_accuracy_global": ScaleMeasure("Average accuracy, global model", "share", "doubling"),
        "forgetting": ScaleMeasure("Forgetting, own model", "share", "doubling"),
        "forgetting_global": ScaleMeasure("Forgetting, global model", "share", "doubling"),
    }
)
"""In the order of tables and page."""


@dataclass(frozen=True)
class PointFigures:
    """A point's figures: *values* by measure (`round_s` is the mean of all rounds), None where the run has none.

    *round_s* are the mean seconds of the rounds of each task. A point whose run is not there has no figures.
    """

    id: PointId
    run: str
    values: Mapping[str, float | None] = field(default_factory=dict)
    round_s: tuple[float, ...] = ()

    @property
    def is_made(self) -> bool:
        """Whether the run of the point is there."""
        return bool(self.values)


@dataclass(frozen=True)
class ScaleFigures:
    """All that a grid has: the points, made or not, and the fit of each (method, measure)."""

    name: str
    axes: Axes
    methods: tuple[str, ...]
    points: tuple[PointFigures, ...]
    fits: Mapping[tuple[str, str], Fit]

    def observations(self, method: str, measure: str) -> list[Observation]:
        """Return what is known of a measure of a method, point by point."""
        return list(_observations(self.points, method, measure))

    @property
    def missing(self) -> list[PointFigures]:
        """The points whose runs are not there."""
        return [point for point in self.points if not point.is_made]

    def plain(self) -> dict[str, Any]:
        """Return the figures as values that JSON can hold."""
        return {
            "schema_version": 1,
            "name": self.name,
            "clients": list(self.axes.clients),
            "tasks": list(self.axes.tasks),
            "methods": list(self.methods),
            "points": [_plain_point(point) for point in self.points],
            "fits": [
                {"method": method, "measure": measure, **_plain_fit(fit)}
                for (method, measure), fit in self.fits.items()
            ],
        }


def figures_of(grid: ScaleGrid) -> ScaleFigures:
    """Read the runs of a grid that are there, and fit what they say.

    Raises:
        RunDirectoryError: if a finished run cannot be read.
    """
    points = tuple(_figures(point, grid) for point in grid.points)
    fits = {
        (method, measure): fit_growth(list(_observations(points, method, measure)), of.form)
        for method in grid.methods
        for measure, of in MEASURES.items()
    }
    return ScaleFigures(grid.config.stem, grid.axes, grid.methods, points, fits)


def _figures(point: Point, grid: ScaleGrid) -> PointFigures:
    place = str(point.folder.relative_to(grid.out))
    if not (point.folder / SUMMARY_FILE).is_file():
        return PointFigures(point.id, place)
    run = load(point.folder)
    return PointFigures(point.id, place, run_values(run, point.kept_bytes), seconds_of_rounds(run))


def run_values(run: Run, kept_bytes: int) -> dict[str, float | None]:
    """Return the figure of each measure of a finished run; *kept_bytes* is planned, and not in the run."""
    numbers = {**key_numbers(run), "forgetting_global": forgetting(accuracy_matrix(run.accuracy, "global"))}
    peaks = run.visits["peak_memory_bytes"]
    lengths_s = pc.subtract(run.rounds["end_s"], run.rounds["start_s"])
    found = {
        **{measure: numbers[measure] for measure in MEASURES if measure in numbers},
        ROUND: pc.mean(lengths_s).as_py(),
        "sent_bytes": total_bytes(run, "upload") + total_bytes(run, "download"),
        "peak_memory_bytes": None if peaks.null_count else pc.max(peaks).as_py(),
        "kept_bytes": kept_bytes,
        "host_cpu_s": pc.sum(run.visits["host_cpu_s"]).as_py(),
    }
    return {measure: found[measure] for measure in MEASURES}


def seconds_of_rounds(run: Run) -> tuple[float, ...]:
    """Return the mean virtual seconds of the rounds of each task; of a policy without rounds those of a merge."""
    lengths_s: dict[int, list[float]] = {}
    for row in run.rounds.select(["task_index", "start_s", "end_s"]).to_pylist():
        lengths_s.setdefault(row["task_index"], []).append(row["end_s"] - row["start_s"])
    return tuple(fmean(lengths_s[task_index]) for task_index in sorted(lengths_s))


def _observations(points: Sequence[PointFigures], method: str, measure: str) -> Iterator[Observation]:
    of_method = [point for point in points if point.id.method == method and point.is_made]
    if measure != ROUND:
        for point in of_method:
            value = point.values[measure]
            if value is not None:
                yield Observation(point.id.clients, point.id.tasks, value)
        return
    # the first tasks of a longer run are those of a shorter one once more, and would count twice
    longest = {point.id.clients: point for point in sorted(of_method, key=lambda point: point.id.tasks)}
    for clients, point in sorted(longest.items()):
        yield from (Observation(clients, number, seconds) for number, seconds in enumerate(point.round_s, 1))


def _plain_point(point: PointFigures) -> dict[str, Any]:
    return {
        **point.id._asdict(),
        "run": point.run,
        "made": point.is_made,
        **{measure: point.values.get(measure) for measure in MEASURES},
        "round_s_by_task": list(point.round_s),
    }


def _plain_fit(fit: Fit) -> dict[str, Any]:
    slopes = {
        axis: None if slope is None else {"value": slope.value, "low": slope.low, "high": slope.high}
        for axis, slope in (("clients", fit.clients), ("tasks", fit.tasks))
    }
    return {"form": fit.form, "n": fit.n, "level": fit.level, **slopes, "r2": fit.r2, "note": fit.note}
