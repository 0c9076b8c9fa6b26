"""A small made-up scaling grid: runs of `fake_comparison`, whose host seconds are 6 x clients x tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fake_comparison import FakeRun, write_fake_run

from fedknow_ray.experiment.scale import Point, ScaleGrid
from fedknow_ray.experiment.scale_config import Axes, PointId

KEPT_BYTES = {"fedavg": 0, "fedknow": 100}
"""Of each task."""


def write_fake_scale(
    path: Path,
    *,
    clients: Sequence[int] = (2, 4),
    tasks: Sequence[int] = (1, 2, 4),
    methods: Sequence[str] = ("fedavg", "fedknow"),
    missing: Sequence[PointId] = (),
) -> ScaleGrid:
    """Write the runs of a grid into *path*, but for those that are missing, and return the grid."""
    ids = [PointId(method, n, t) for method in methods for n in clients for t in tasks]
    points = tuple(Point(one, path / "runs" / one.folder, KEPT_BYTES[one.method] * one.tasks) for one in ids)
    for point in points:
        if point.id not in missing:
            write_fake_run(point.folder, FakeRun(40, 60, cpu_s=point.id.clients * point.id.tasks))
    return ScaleGrid(path, Path("small<1>.yaml"), Axes(tuple(clients), tuple(tasks)), points, {})
