"""A comparison's runs: which are made, from where, and that neither sharing nor stopping changes a figure."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from inline import InlineWorkers
from pydantic import BaseModel
from small import tables, write_config

from fedknow_ray.errors import ConfigError, RunDirectoryError, UserError
from fedknow_ray.experiment.compare import CompareWatcher, compare
from fedknow_ray.experiment.grid import RunId, read_grid
from fedknow_ray.experiment.planning import Choices
from fedknow_ray.experiment.workers import Failure, RunOrder, make_run
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.methods.method import Method
from fedknow_ray.results.comparison import load_comparison
from fedknow_ray.results.run import Run

FEDKNOW, MARGINS, PAPER = ("fedknow",), ("method.margin=0,0.5,1",), "method.variant=paper"


class Log:
    """A watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def planned(self, runs: int, made: int) -> None:
        self.lines.append(f"{runs} runs, {made} made")

    def started(self, run: RunId, start: Boundary | None) -> None:
        self.lines.append(f"started {run} from {start}")

    def finished(self, run: RunId, summary: Mapping[str, Any]) -> None:
        self.lines.append(f"finished {run}: {0 <= summary['average_accuracy'] <= 1}")

    def failed(self, run: RunId, failure: Failure) -> None:
        self.lines.append(f"failed {run}")


def make(
    folder: Path,
    methods: tuple[str, ...] = FEDKNOW,
    vary: tuple[str, ...] = MARGINS,
    *,
    seeds: int = 1,
    sets: tuple[str, ...] = (),
    workers: InlineWorkers | None = None,
    watcher: CompareWatcher | None = None,
    share: bool = True,
) -> dict[RunId, Failure]:
    sets = (*sets, PAPER) if "fedknow" in methods else sets
    grid = read_grid(write_config(folder), methods, vary, sets)
    workers = workers or InlineWorkers()
    return compare(grid, folder / "out", Choices(seeds=seeds), watcher or Log(), share=share, workers=workers)


def runs(folder: Path) -> dict[str, Run]:
    comparison = load_comparison(folder / "out")
    found = {
        f"{case.label}, {seed}": comparison.run(case, seed) for case in comparison.plan.cases for seed in case.runs
    }
    return {label: run for label, run in found.items() if run is not None}


def figures(folder: Path) -> dict[str, Any]:
    """All that a seed decides of each run."""
    return {
        label: (
            tables(run),
            {key: value for key, value in (run.summary or {}).items() if key not in ("run_dir", "wall_s")},
        )
        for label, run in runs(folder).items()
    }


@pytest.fixture
def margin_matters_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The margin of FedKNOW makes no difference before the second task, since there is no past task."""

    def past_settings(cls: type[Method], hyper: BaseModel, task_index: int, *, finished: bool) -> dict[str, Any]:
        settings = {"method": cls.__qualname__, **hyper.model_dump(mode="json")}
        return settings if task_index else {key: value for key, value in settings.items() if key != "margin"}

    monkeypatch.setattr("fedknow_ray.methods.fedknow.fedknow.FedKnow.past_settings", classmethod(past_settings))


@pytest.mark.usefixtures("margin_matters_late")
def test_a_common_past_is_made_once_and_changes_no_bit(tmp_path: Path):
    workers = InlineWorkers()
    assert make(tmp_path / "shared", workers=workers) == {}
    make(tmp_path / "apart", share=False)
    boundary = Boundary(0, True)
    assert [order.save_at for order in workers.orders] == [(boundary,), (), ()]
    assert [Path(order.start_from or "").parent.name for order in workers.orders] == [
        "",
        str(boundary),
        str(boundary),
    ]
    assert figures(tmp_path / "shared") == figures(tmp_path / "apart")
    assert len(figures(tmp_path / "shared")) == 3
    assert not (tmp_path / "shared/out/checkpoints").exists()


@pytest.mark.usefixtures("margin_matters_late")
def test_a_stopped_comparison_goes_on_from_the_states_that_it_left(tmp_path: Path):
    def stop_at_second(order: RunOrder) -> Failure | None:
        if len(stopped.orders) == 2:
            raise KeyboardInterrupt
        return make_run(order)

    vary = ("method.margin=0,1",)
    stopped, again = InlineWorkers(stop_at_second), InlineWorkers()
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "stopped", vary=vary, workers=stopped)
    make(tmp_path / "stopped", vary=vary, workers=again)
    make(tmp_path / "whole", vary=vary, share=False)
    assert [order.start_from for order in again.orders] == [stopped.orders[1].start_from]
    assert again.orders[0].start_from is not None
    assert figures(tmp_path / "stopped") == figures(tmp_path / "whole")


@pytest.mark.usefixtures("margin_matters_late")
def test_a_broken_state_is_deleted_and_the_run_made_from_its_beginning(tmp_path: Path):
    def break_states(order: RunOrder) -> Failure | None:
        if order.start_from:
            Path(order.start_from).write_bytes(b"broken")
        return make_run(order)

    workers = InlineWorkers(break_states)
    assert make(tmp_path, vary=("method.margin=0,1",), workers=workers) == {}
    assert [order.start_from is None for order in workers.orders] == [True, False, True]


def test_runs_that_exist_are_not_made_again(tmp_path: Path):
    make(tmp_path, vary=("method.margin=0",))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("*")}
    again = InlineWorkers()
    make(tmp_path, vary=("method.margin=0",), workers=again)
    assert again.orders == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("*")} == before


def test_a_second_call_makes_what_is_new(tmp_path: Path):
    make(tmp_path, ("fedavg",), ())
    again = InlineWorkers()
    make(tmp_path, ("fedavg", "local"), (), seeds=2, workers=again)
    made = [order.overrides for order in again.orders]
    assert made == [
        ("method.name=local", "seed=1"),
        ("method.name=fedavg", "seed=2"),
        ("method.name=local", "seed=2"),
    ]
    assert list(runs(tmp_path)) == ["fedavg, 1", "fedavg, 2", "local, 1", "local, 2"]


def test_a_run_that_did_not_finish_is_made_again(tmp_path: Path):
    make(tmp_path, ("fedavg",), ())
    folder = tmp_path / "out/runs/fedavg/seed-1"
    (folder / "summary.json").unlink()
    again = InlineWorkers()
    make(tmp_path, ("fedavg",), (), workers=again)
    assert [order.out for order in again.orders] == [str(folder)]
    assert (folder / "summary.json").exists()


@pytest.mark.parametrize("methods", [("fedavg",), ("local",)])
def test_another_config_for_runs_that_are_there_is_refused(tmp_path: Path, methods: tuple[str, ...]):
    """Also where the runs of the other config are none of this call."""
    make(tmp_path, ("fedavg",), ())
    plan = (tmp_path / "out/comparison.json").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"fedavg, seed 1: training.local_epochs is 1 there, 2 here"):
        make(tmp_path, methods, (), sets=("training.local_epochs=2",))
    assert (tmp_path / "out/comparison.json").read_bytes() == plan


def test_nothing_is_written_where_a_config_has_faults(tmp_path: Path):
    with pytest.raises(ConfigError):
        make(tmp_path, ("fedavg",), ("training.threads=1,0",))
    assert not (tmp_path / "out").exists()


def test_fewer_than_one_run_at_once_is_refused(tmp_path: Path):
    grid = read_grid(write_config(tmp_path), ["fedavg"])
    with pytest.raises(UserError, match="--jobs must be 1 or more, got 0"):
        compare(grid, tmp_path / "out", Choices(seeds=1), Log(), jobs=0)


def test_two_programs_cannot_make_the_runs_of_one_folder(tmp_path: Path):
    make(tmp_path, ("fedavg",), ())
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(RunDirectoryError, match="another program makes the runs"):
        make(tmp_path, ("fedavg", "local"), ())
    os.close(descriptor)


@pytest.mark.parametrize("new", [True, False])
def test_what_another_program_adds_before_the_folder_is_locked_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: bool
):
    if not new:
        make(tmp_path, ("fedavg",), ())

    def lock_late(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        make(tmp_path, ("local",), ())
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr("fedknow_ray.experiment.claims.fcntl.flock", lock_late)
    workers = InlineWorkers()
    make(tmp_path, ("fedavg", "local"), (), workers=workers)
    assert set(runs(tmp_path)) == {"fedavg, 1", "local, 1"}
    assert len(workers.orders) == int(new)


def test_what_ends_a_comparison_is_written_while_the_folder_is_held(tmp_path: Path):
    def finish() -> None:
        made.append(set(runs(tmp_path)))
        with pytest.raises(RunDirectoryError, match="another program makes the runs"):
            make(tmp_path, ("fedavg",), ())

    made: list[set[str]] = []
    grid = read_grid(write_config(tmp_path), ["fedavg"])
    compare(grid, tmp_path / "out", Choices(seeds=1), Log(), workers=InlineWorkers(), finish=finish)
    assert made == [{"fedavg, 1"}]


def test_a_wrong_baseline_leaves_no_folder_behind(tmp_path: Path):
    grid = read_grid(write_config(tmp_path), ["fedavg"])
    with pytest.raises(UserError, match="the baseline 'local' is no method"):
        compare(grid, tmp_path / "new" / "out", Choices(seeds=1, baseline="local"), Log(), workers=InlineWorkers())
    assert not (tmp_path / "new").exists()


def test_a_run_that_diverges_is_reported_and_the_others_go_on(tmp_path: Path):
    log = Log()
    [(run, failure)] = make(
        tmp_path, ("fedavg",), ("training.optimizer={name: sgd, lr: 1e30},{name: adam}",), watcher=log
    ).items()
    assert run == ("fedavg, optimizer={name: sgd, lr: 1e+30}", 1)
    assert "training has diverged" in failure.message
    assert not failure.is_ours
    assert log.lines == [
        "2 runs, 0 made",
        "started fedavg, optimizer={name: sgd, lr: 1e+30}, seed 1 from None",
        "failed fedavg, optimizer={name: sgd, lr: 1e+30}, seed 1",
        "started fedavg, optimizer={name: adam}, seed 1 from None",
        "finished fedavg, optimizer={name: adam}, seed 1: True",
    ]


def test_what_is_our_own_fault_comes_with_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("fedknow_ray.experiment.run.put_together", broken)
    [failure] = make(tmp_path, ("fedavg",), ()).values()
    assert failure.is_ours
    assert "Traceback" in failure.message
    assert "ZeroDivisionError: a mistake" in failure.message


def test_where_tasks_come_by_time_each_run_is_made_from_its_beginning(tmp_path: Path):
    log, workers = Log(), InlineWorkers()
    sets = ("task_arrival={every_s: 30}",)
    assert make(tmp_path, ("fedavg", "fedknow"), (), sets=sets, workers=workers, watcher=log) == {}
    assert [line for line in log.lines if line.startswith("started")] == [
        "started fedavg, seed 1 from None",
        "started fedknow, seed 1 from None",
    ]
    assert len(runs(tmp_path)) == 2
