"""A scaling grid: one config with other numbers of clients and tasks, each point a run in a directory of its own.

    options -> configs of all points, checked -> labels of the data, dealt -> runs, the largest first

In the folder *out*: `configs/POINT.yaml` what each run is made from, `runs/POINT` its directory, and what the report
writes, `scale.json` first of all. A run that is there is not made again, so the same call goes on where one was
stopped, and a call with more clients, tasks or methods extends what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedknow_ray.config.loading import dump_yaml
from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.assembly import last_facts, make_assembly, open_labels, outline, price_probes
from fedknow_ray.experiment.claims import claimed
from fedknow_ray.experiment.making import RunsWatcher, make_runs, refuse_no_jobs, workers_or_processes
from fedknow_ray.experiment.planning import is_made, refuse_other_configs
from fedknow_ray.experiment.scale_config import Axes, PointId, read_points
from fedknow_ray.experiment.workers import Failure, RunOrder, Workers
from fedknow_ray.results import write_atomically
from fedknow_ray.scenario.datasets import Labels

SCALE_FILE = "scale.json"
_CONFIGS, _RUNS = "configs", "runs"
_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the grid: its run directory, and what each client's method keeps once all tasks are learnt."""

    id: PointId
    folder: Path
    kept_bytes: int
    """Of the client that keeps most; planned, as it follows from the config."""


@dataclass(frozen=True)
class ScaleGrid:
    """A grid, as far as it is known before it is run: every point of it can be run."""

    out: Path
    config: Path
    axes: Axes
    points: tuple[Point, ...]
    configs: Mapping[PointId, RunConfig]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order in which they were asked for."""
        return tuple(dict.fromkeys(point.id.method for point in self.points))


def plan_scale(
    config: Path,
    out: Path,
    clients: str,
    tasks: str,
    *,
    methods: Sequence[str] | None = None,
    sets: Sequence[str] = (),
) -> ScaleGrid:
    """Return the grid that the options mean (see `scale_config.read_points`), for the folder *out*.

    Raises:
        UserError: with what is wrong with the options, the points' configs, the data or the devices, of all points.
        RunDirectoryError: if something lies in *out* that is no scaling grid.
    """
    axes, configs = read_points(config, clients, tasks, methods, sets)
    if out.exists() and not (out.is_dir() and ((out / SCALE_FILE).is_file() or not any(out.iterdir()))):
        raise RunDirectoryError(
            f"{out} is there and is no scaling grid; name a folder that is new or empty, or has one"
        )
    kept = _check_parts(configs)
    points = tuple(Point(point, out / _RUNS / point.folder, kept[point]) for point in configs)
    return ScaleGrid(out, config, axes, points, configs)


def run_scale(
    grid: ScaleGrid,
    watcher: RunsWatcher,
    write: Callable[[], None],
    *,
    jobs: int | None = None,
    workers: Workers | None = None,
) -> dict[str, Failure]:
    """Make the runs of a grid that its folder does not have yet; return those that failed, by `str` of the point.

    *write* reports on what is there: it is called before the first run and after the last, while the folder is held.
    *jobs* runs are made at once, by default as many as there are cores for at the threads of a run. *workers* make the
    runs in place of processes of their own.

    Raises:
        UserError: before anything is run, if *jobs* is below 1, or a run that is there has another config.
    """
    refuse_no_jobs(jobs)
    folders = {point.id: point.folder for point in grid.points}
    with claimed(grid.out):
        refuse_other_configs(folders, grid.configs)
        write()
        (grid.out / _CONFIGS).mkdir(exist_ok=True)
        paths = {point: grid.out / _CONFIGS / f"{point.folder}.yaml" for point in grid.configs}
        for point, config in grid.configs.items():
            write_atomically(paths[point], dump_yaml(config).encode())
        pending = sorted((point for point in folders if not is_made(folders[point])), key=_size, reverse=True)
        watcher.planned(len(folders), len(folders) - len(pending))
        orders = {str(point): RunOrder(str(paths[point]), (), str(folders[point])) for point in pending}
        with workers_or_processes(workers, jobs, grid.configs.values(), len(pending)) as makers:
            failures = make_runs(orders, makers, watcher)
        write()
    return failures


def _size(point: PointId) -> int:
    # the longest runs first: one that is left for the end would keep a single core busy
    return point.clients * point.tasks


def _check_parts(configs: Mapping[PointId, RunConfig]) -> dict[PointId, int]:
    """Return what a client keeps at each point, after looking at the data and at the devices.

    Raises:
        UserError: with what does not suffice, of all points.
    """
    labels: dict[int, Labels] = {}
    kept: dict[PointId, int] = {}
    faults: dict[str, PointId] = {}
    for point, config in configs.items():
        try:
            if point.tasks not in labels:
                labels[point.tasks] = open_labels(config)
            planned = outline(make_assembly(config, labels[point.tasks]))
            last = last_facts(planned.course)
            price_probes(planned.ledger, config.seed, last)
            kept[point] = planned.ledger.method.kept_bytes(last)
        except UserError as error:
            faults.setdefault(str(error), point)
    if faults:
        told = [f"  {point}: {message}" for message, point in list(faults.items())[:_MOST_SHOWN]]
        more = [f"  and {len(faults) - _MOST_SHOWN} more"] if len(faults) > _MOST_SHOWN else []
        raise UserError("\n".join(["some points cannot be run:", *told, *more]))
    return kept
