"""Runs that were left and go on: wherever it was, the end is that of the run that was never left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small import Recorder, tables, write_config

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.checkpoint_file import CheckpointError
from fedknow_ray.experiment.claims import claimed
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.resume import resume
from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.run_checkpoints import checkpoints_in
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import HOST_EVENTS

LOCAL = Place("local")
COMMON: dict[str, Any] = {"training.rounds_per_task": 3, "scenario.samples_per_client": 10}
PACED = {"availability": {"name": "duty_cycle", "period_s": 40.0, "on_s": 30.0}, "failures.probability": 0.2}
CASES: dict[str, dict[str, Any]] = {
    "rounds": {"method.name": "fedknow", "scenario.task_order": "shuffled"},
    "refining": {"method": {"name": "fedknow", "second_use": "after_aggregation"}},
    "authors' code": {"method": {"name": "fedknow", "variant": "authors_code"}},
    "residuals": {"compression": {"name": "topk", "fraction": 0.1}, "model.head": "global"},
    "late updates": {"policy": {"name": "deadline", "deadline_s": 1.0, "late": "keep"}},
    "comes and goes": PACED,
    "buffered": {"policy": {"name": "fedbuff", "buffer_size": 2, "concurrency": 3}, **PACED},
    "each update": {"policy": {"name": "fedasync", "concurrency": 2}, "compression.name": "int8"},
    "by time": {"task_arrival": {"every_s": 5.0}, "method.name": "fedknow"},
    "by time, buffered": {
        "task_arrival": {"every_s": 5.0},
        "policy": {"name": "fedbuff", "buffer_size": 2, "concurrency": 3},
    },
    "server part": {"method": {"name": "flcn", "strength": 0.1}, "policy": {"name": "fedbuff", "buffer_size": 2}},
    "a model for each task": {"method.name": "fedweit", "model.head": "global", "scenario.task_order": "shuffled"},
    "without federation": {"method.name": "local"},
}


def go(folder: Path, overrides: Mapping[str, Any], out: str, **arguments: Any) -> Run:
    return execute(write_config(folder), {**COMMON, **overrides}, backend="local", out=folder / out, **arguments)


def of_the_seed(events: pa.Table) -> pa.Table:
    return events.filter(pc.invert(pc.is_in(events["kind"], pa.array(sorted(HOST_EVENTS)))))


def same(run: Run, other: Run) -> None:
    """Compare two finished runs in everything that a seed decides."""
    assert run.summary is not None and other.summary is not None
    for name, table in tables(run).items():
        there = tables(other)[name]
        if name == "events":
            table, there = of_the_seed(table), of_the_seed(there)
        assert table.equals(there), name
    figures = [{k: v for k, v in r.summary.items() if k not in ("run_dir", "wall_s")} for r in (run, other)]
    assert figures[0] == figures[1]


def leave(folder: Path, overrides: Mapping[str, Any], after: int, out: str = "left") -> Path:
    """Make a run that is stopped when it has told of progress so often; return its directory."""
    with pytest.raises(KeyboardInterrupt):
        go(folder, overrides, out, watcher=Recorder(KeyboardInterrupt(), after=after))
    return folder / out


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_run_goes_on_from_wherever_it_was_left(overrides: dict[str, Any], tmp_path: Path):
    recorder = Recorder()
    whole = go(tmp_path, overrides, "whole", watcher=recorder)
    # of a run in rounds once between rounds and once at the end of a task
    for after in (1, len(recorder.progress) - 2):
        left = leave(tmp_path, overrides, after, f"left-{after}")
        same(resume(left, place=LOCAL), whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return go(tmp_path_factory.mktemp("whole"), {}, "run")


def kinds(run: Run) -> list[str]:
    return [kind for kind in run.events["kind"].to_pylist() if kind in HOST_EVENTS]


def test_rounds_before_the_kill_are_not_made_again(tmp_path: Path, whole: Run):
    """Host seconds are measured, so two makings of a visit do not agree in them."""
    left = leave(tmp_path, {}, 3)
    before = load(left).visits
    run = resume(left, place=LOCAL)
    same(run, whole)
    assert len(before) == 6
    assert run.visits.slice(0, len(before)).equals(before)


def test_a_run_says_that_it_was_left_and_goes_on(tmp_path: Path):
    left = leave(tmp_path, {}, 2)
    run = resume(left, place=LOCAL)
    assert kinds(run) == ["interrupted", "resumed"]
    (resumed,) = [json.loads(row["detail"]) for row in run.events.to_pylist() if row["kind"] == "resumed"]
    assert resumed == {"checkpoint": "round-000002.ckpt"}
    assert [note["checkpoint"] for note in run.manifest["resumed"]] == ["round-000002.ckpt"]
    assert run.summary is not None and run.summary["wall_s"] > 0


def test_a_run_may_be_left_again_and_again(tmp_path: Path, whole: Run):
    left = leave(tmp_path, {}, 1)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            resume(left, place=LOCAL, watcher=Recorder(KeyboardInterrupt(), after=2))
    run = resume(left, place=LOCAL)
    same(run, whole)
    assert kinds(run).count("resumed") == 4


def test_a_finished_run_is_returned_as_it_is(whole: Run):
    before = {path: path.stat().st_mtime_ns for path in whole.path.iterdir()}
    assert resume(whole.path, place=LOCAL).summary == whole.summary
    assert {path: path.stat().st_mtime_ns for path in whole.path.iterdir()} == before


def test_a_run_that_was_killed_before_its_first_round_begins_anew(tmp_path: Path, whole: Run):
    left = leave(tmp_path, {}, 1)
    for path in (*checkpoints_in(left / "checkpoints"), *left.glob("*.parquet"), left / "manifest.json"):
        path.unlink()
    run = resume(left, place=LOCAL)
    same(run, whole)
    assert kinds(run) == ["resumed"]


def test_where_the_last_checkpoint_is_broken_the_one_before_is_used_and_said(tmp_path: Path, whole: Run):
    left = leave(tmp_path, {}, 3)
    last = left / "checkpoints" / "round-000003.ckpt"
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    told: list[str] = []

    class Listener(Recorder):
        def warn(self, text: str) -> None:
            told.append(text)

    run = resume(left, place=LOCAL, watcher=Listener())
    same(run, whole)
    assert len(told) == 1 and "round-000003.ckpt is broken" in told[0] and "the one before it is used" in told[0]
    assert kinds(run) == ["interrupted", "checkpoint_refused", "resumed"]


def test_only_the_last_two_rounds_and_the_ends_of_tasks_are_kept(tmp_path: Path):
    left = leave(tmp_path, {}, 7)
    names = [path.name for path in checkpoints_in(left / "checkpoints")]
    assert names == ["round-000006.ckpt", "round-000007.ckpt", "task-0-finished.ckpt"]
    resume(left, place=LOCAL)
    assert [path.name for path in checkpoints_in(left / "checkpoints")] == [
        "task-0-finished.ckpt",
        "task-1-finished.ckpt",
    ]


def test_the_ends_of_tasks_need_not_be_kept(tmp_path: Path, whole: Run):
    left = leave(tmp_path, {"recovery.keep_task_ends": False}, 5)
    assert [path.name for path in checkpoints_in(left / "checkpoints")] == ["round-000004.ckpt", "round-000005.ckpt"]
    same(resume(left, place=LOCAL), whole)
    assert list((left / "checkpoints").rglob("*.ckpt")) == []


def test_a_run_that_is_saved_now_and_then_goes_on_from_there(tmp_path: Path, whole: Run):
    left = leave(tmp_path, {"recovery.checkpoint_every_rounds": 2}, 3)
    assert [path.name for path in checkpoints_in(left / "checkpoints")] == ["round-000001.ckpt"]
    run = resume(left, place=LOCAL)
    same(run, whole)


def test_a_run_that_is_never_saved_begins_anew(tmp_path: Path, whole: Run):
    left = leave(tmp_path, {"recovery.checkpoint_every_rounds": 0}, 3)
    assert not (left / "checkpoints").exists()
    same(resume(left, place=LOCAL), whole)


def test_a_fork_can_be_left_and_go_on(tmp_path: Path, whole: Run):
    go(tmp_path, {}, "past", save_at=[Boundary(0, True)], checkpoints=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        start = tmp_path / "task-0-finished" / "state.ckpt"
        go(tmp_path, {}, "fork", start_from=start, watcher=Recorder(KeyboardInterrupt(), after=1))
    (tmp_path / "task-0-finished" / "state.ckpt").unlink()
    same(resume(tmp_path / "fork", place=LOCAL), whole)


@pytest.mark.parametrize("override", ["seed=2", "training.optimizer.lr=0.5", "method.name=fedknow"])
def test_a_run_cannot_go_on_as_another_one(override: str, tmp_path: Path):
    left = leave(tmp_path, {}, 1)
    with pytest.raises(UserError, match=r"would make it another run; leave it out, or .* --fork-at-task N"):
        resume(left, [override], place=LOCAL)


def test_where_clients_live_may_change(tmp_path: Path, whole: Run):
    left = leave(tmp_path, {}, 2)
    same(resume(left, ["placement.clients_per_actor=2", "recovery.losses_in_a_row=1"], place=LOCAL), whole)


def test_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    left = leave(tmp_path, {}, 1)
    monkeypatch.setattr("fedknow_ray.experiment.manifest.dataset_digest", lambda dataset: "0" * 64)
    with pytest.raises(CheckpointError, match="with other data or by other code"):
        resume(left, place=LOCAL)
    assert load(left).summary is None


def test_a_folder_that_is_no_run_is_told(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"is not a run directory: it has no config\.yaml"):
        resume(tmp_path, place=LOCAL)


def test_a_run_that_is_under_way_is_left_alone(tmp_path: Path):
    left = leave(tmp_path, {}, 1)
    with claimed(left), pytest.raises(RunDirectoryError, match="another program makes the runs in"):
        resume(left, place=LOCAL)


def test_a_table_that_has_lost_rows_is_noticed(tmp_path: Path):
    left = leave(tmp_path, {}, 3)
    visits = pq.read_table(left / "visits.parquet")
    pq.write_table(visits.slice(0, 1), left / "visits.parquet")
    told: list[str] = []

    class Listener(Recorder):
        def warn(self, text: str) -> None:
            told.append(text)

    run = resume(left, place=LOCAL, watcher=Listener())
    assert "visits.parquet has 1 rows, and 6 were saved" in told[0]
    assert run.summary is not None
