"""A grid from its options to its runs: real small runs in this process, resumed, extended, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline import InlineWorkers
from small import write_config

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.run import read_config
from fedknow_ray.experiment.scale import SCALE_FILE, ScaleGrid, plan_scale, run_scale
from fedknow_ray.experiment.workers import Failure, RunOrder, make_run
from fedknow_ray.results import load


class Recorder:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.plan = (0, 0)
        self.names: list[str] = []

    def planned(self, runs: int, made: int) -> None:
        self.plan = (runs, made)

    def started(self, name: str) -> None:
        self.names.append(name)

    def ended(self, name: str, failure: Failure | None) -> None:
        pass


def planned(folder: Path, clients: str = "1,3", tasks: str = "1", **more: list[str]) -> ScaleGrid:
    return plan_scale(write_config(folder), folder / "out", clients, tasks, **more)


def made(grid: ScaleGrid, workers: InlineWorkers | None = None) -> tuple[dict[str, Failure], Recorder]:
    """Make the runs; the report is a file, as `report.scale` writes it before the first run."""
    watcher = Recorder()
    failures = run_scale(grid, watcher, (grid.out / SCALE_FILE).touch, workers=workers or InlineWorkers())
    return failures, watcher


def test_runs_are_made_once_the_largest_first_and_a_grid_can_grow(tmp_path: Path):
    grid = planned(tmp_path)
    failures, watcher = made(grid)
    assert (failures, watcher.plan) == ({}, (2, 0))
    assert watcher.names == ["fedavg, 3 clients, 1 task", "fedavg, 1 client, 1 task"]
    run = load(tmp_path / "out" / "runs" / "fedavg-3-clients-1-tasks")
    assert read_config(tmp_path / "out" / "configs" / "fedavg-3-clients-1-tasks.yaml").to_dict() == run.config
    assert made(planned(tmp_path))[1].names == []
    _, watcher = made(planned(tmp_path, "1", "1,2"))
    assert (watcher.plan, watcher.names) == ((2, 1), ["fedavg, 1 client, 2 tasks"])


def test_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path: Path):
    failure = Failure("nobody comes")

    def make(order: RunOrder) -> Failure | None:
        return failure if "3-clients" in order.out else make_run(order)

    assert made(planned(tmp_path), InlineWorkers(make))[0] == {"fedavg, 3 clients, 1 task": failure}
    failures, watcher = made(planned(tmp_path))
    assert (failures, watcher.plan) == ({}, (2, 1))


def test_what_a_client_keeps_is_known_beforehand(tmp_path: Path):
    """FedAvg keeps nothing, FedKNOW the same of each task, whatever the number of clients."""
    grid = planned(tmp_path, "1,3", "1,2,4", methods=["fedavg", "fedknow"])
    kept = {tuple(point.id): point.kept_bytes for point in grid.points}
    assert {kept["fedavg", clients, tasks] for clients in (1, 3) for tasks in (1, 2, 4)} == {0}
    one = kept["fedknow", 1, 1]
    assert one > 0
    assert [kept["fedknow", 3, tasks] for tasks in (1, 2, 4)] == [one, 2 * one, 4 * one]


def test_data_that_does_not_suffice_is_told_before_anything_runs(tmp_path: Path):
    with pytest.raises(UserError, match=r"some points cannot be run:\n  fedavg, 900 clients, 1 task: more clients"):
        planned(tmp_path, "3,900", "1")
    assert not (tmp_path / "out").exists()


def test_device_that_lacks_a_number_is_told_before_anything_runs(tmp_path: Path):
    (tmp_path / "board.yaml").write_text("name: board\ninherits: jetson-nano\nsustained_flops_per_s: null\n")
    sets = [f"devices_path={tmp_path / 'board.yaml'}", "fleet=[{device: board, count: 3}]"]
    with pytest.raises(UserError, match=r"fedavg, 1 client, 1 task: .*board.* has no sustained_flops_per_s"):
        planned(tmp_path, "1,3", "1", sets=sets)
    assert not (tmp_path / "out").exists()


def test_runs_of_another_config_are_refused_with_what_differs(tmp_path: Path):
    made(planned(tmp_path))
    with pytest.raises(RunDirectoryError, match="seed is 1 there, 2 here"):
        made(planned(tmp_path, sets=["seed=2"]))


def test_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(RunDirectoryError, match="is no scaling grid"):
        planned(tmp_path)


def test_jobs_below_one_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="--jobs must be 1 or more, got 0"):
        run_scale(planned(tmp_path), Recorder(), lambda: None, jobs=0)
    assert not (tmp_path / "out").exists()
