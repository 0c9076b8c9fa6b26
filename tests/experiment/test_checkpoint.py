"""Saved runs: what starts from one is the run from its beginning, to the bit, and no other may start from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from small import HOST_COLUMNS, Recorder, tables, write_config

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.checkpoint import (
    Contents,
    checkpoint_path,
    open_checkpoint,
    past_key,
    save_checkpoint,
)
from fedknow_ray.experiment.checkpoint_file import CheckpointError
from fedknow_ray.experiment.run import execute, read_config
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.engine_state import EngineState, Unfinished
from fedknow_ray.federation.executor import Saved
from fedknow_ray.federation.standing import SchedulerState
from fedknow_ray.results.run import Run, load

TRAINED, FINISHED = Boundary(0, False), Boundary(0, True)
EVERYWHERE = tuple(Boundary(task_index, finished) for task_index in range(2) for finished in (False, True))
COMMON = {"training.rounds_per_task": 2, "scenario.samples_per_client": 10}
CASES: dict[str, dict[str, Any]] = {
    "fedavg": {"method.name": "fedavg", "model.head": "global"},
    "local": {"method.name": "local"},
    "fedknow": {"method": {"name": "fedknow", "second_use": "on_receive"}, "scenario.task_order": "shuffled"},
    "refining": {"method": {"name": "fedknow", "second_use": "after_aggregation"}},
    "authors' code": {"method": {"name": "fedknow", "variant": "authors_code"}},
}


def go(folder: Path, overrides: Mapping[str, Any], out: str, **arguments: Any) -> Run:
    return execute(write_config(folder), {**COMMON, **overrides}, backend="local", out=folder / out, **arguments)


def same(run: Run, other: Run) -> None:
    """Compare two finished runs in everything that a seed decides."""
    assert run.summary is not None and other.summary is not None
    for name, table in tables(run).items():
        assert table.equals(tables(other)[name]), name
    figures = [{k: v for k, v in r.summary.items() if k not in ("run_dir", "wall_s")} for r in (run, other)]
    assert figures[0] == figures[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small config, a run of FedAvg, and its checkpoints."""
    folder = tmp_path_factory.mktemp("saved")
    go(folder, {}, "run", save_at=EVERYWHERE, checkpoints=folder / "past")
    return folder


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_run_that_starts_at_any_boundary_is_the_run_from_its_beginning(overrides: dict[str, Any], tmp_path: Path):
    whole = go(tmp_path, overrides, "whole", save_at=EVERYWHERE, checkpoints=tmp_path / "past")
    for boundary in EVERYWHERE:
        path = checkpoint_path(tmp_path / "past", boundary)
        same(go(tmp_path, overrides, str(boundary), start_from=path), whole)


def test_a_run_that_was_taken_up_can_be_saved_again(saved: Path, tmp_path: Path):
    go(tmp_path, {}, "b", start_from=saved / "past/task-0-trained/state.ckpt", save_at=[FINISHED], checkpoints=tmp_path)
    same(go(tmp_path, {}, "c", start_from=tmp_path / "task-0-finished" / "state.ckpt"), load(saved / "run"))


def test_host_seconds_of_the_past_are_kept_and_counted(saved: Path, tmp_path: Path):
    path = saved / "past/task-0-finished/state.ckpt"
    run, whole = go(tmp_path, {}, "run", start_from=path), load(saved / "run")
    assert run.summary is not None
    assert run.summary["wall_s"] > open_checkpoint(path).wall_s > 0
    copied = pc.field("task_index") == 0
    assert run.visits.filter(copied).equals(whole.visits.filter(copied))


def test_the_manifest_says_where_a_run_started(saved: Path, tmp_path: Path):
    path = saved / "past/task-0-trained/state.ckpt"
    run = go(tmp_path, {}, "run", start_from=path)
    config = read_config(write_config(tmp_path), COMMON)
    assert run.manifest["started_from"] == {
        "boundary": "task-0-trained",
        "past_key": past_key(config, TRAINED),
        "checkpoint_sha256": open_checkpoint(path).sha256,
    }
    assert "started_from" not in load(saved / "run").manifest


def test_an_interrupted_run_can_be_taken_up_from_its_last_checkpoint(saved: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        watcher = Recorder(KeyboardInterrupt(), after=4)
        go(tmp_path, {}, "lost", watcher=watcher, save_at=EVERYWHERE, checkpoints=tmp_path)
    assert sorted(path.parent.name for path in tmp_path.glob("*/state.ckpt")) == ["task-0-finished", "task-0-trained"]
    same(go(tmp_path, {}, "run", start_from=tmp_path / "task-0-finished" / "state.ckpt"), load(saved / "run"))


def test_an_interrupted_fork_keeps_its_past_and_says_when_it_was_interrupted(saved: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        watcher = Recorder(KeyboardInterrupt())
        go(tmp_path, {}, "run", watcher=watcher, start_from=saved / "past/task-0-finished/state.ckpt")
    run = load(tmp_path / "run")
    assert run.summary is None
    assert run.rounds["task_index"].to_pylist() == [0, 0, 1]
    (event,) = [event for event in run.events.to_pylist() if event["kind"] == "interrupted"]
    assert event["time_s"] == run.rounds["end_s"].to_pylist()[-1]


def test_placement_may_differ(saved: Path, tmp_path: Path):
    overrides = {"placement.clients_per_actor": 2}
    same(go(tmp_path, overrides, "run", start_from=saved / "past/task-0-finished/state.ckpt"), load(saved / "run"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"seed": 2}, "seed: 1 there, 2 here"),
        ({"training.optimizer.lr": 0.5}, "training.optimizer.lr: 0.001 there, 0.5 here"),
        ({"scenario.tasks": 3}, "scenario.tasks: 2 there, 3 here"),
        ({"method.name": "local"}, "method.method: fedknow_ray.methods.fedavg.FedAvg there"),
    ],
    ids=["seed", "learning rate", "tasks", "method"],
)
def test_another_past_is_refused_with_the_differences(
    overrides: dict[str, Any], told: str, saved: Path, tmp_path: Path
):
    with pytest.raises(CheckpointError) as refused:
        go(tmp_path, overrides, "run", start_from=saved / "past/task-0-finished/state.ckpt")
    assert f"\n  {told}" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_other_images_under_the_same_name_are_refused(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fedknow_ray.experiment.manifest.dataset_digest", lambda dataset: "0" * 64)
    with pytest.raises(CheckpointError, match=r"with other data or by other code:\n  dataset_sha256: \w+ there, 000"):
        go(tmp_path, {}, "run", start_from=saved / "past/task-0-finished/state.ckpt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: b"PAR1" + data, "is not a checkpoint of fedknow-ray"),
        (lambda data: b"", "is not a checkpoint of fedknow-ray"),
        (
            lambda data: data.replace(b"checkpoint 5", b"checkpoint 6", 1),
            "has checkpoint format 6, this program reads 5",
        ),
        (lambda data: data[:-10], "is broken"),
        (lambda data: data[:30], "is broken"),
        (lambda data: data + b"x", "is broken"),
        (lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], "is broken"),
    ],
    ids=["another file", "empty", "another format", "cut off", "hardly begun", "too long", "one bit"],
)
def test_a_file_that_is_no_whole_checkpoint_is_refused(change: Any, told: str, saved: Path, tmp_path: Path):
    path = tmp_path / "past.ckpt"
    path.write_bytes(change((saved / "past/task-0-finished/state.ckpt").read_bytes()))
    with pytest.raises(CheckpointError, match=told):
        go(tmp_path, {}, "run", start_from=path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lost", ["one bit", "missing"])
def test_a_checkpoint_with_a_broken_blob_is_refused(lost: str, saved: Path, tmp_path: Path):
    shutil.copytree(saved / "past/task-0-finished", tmp_path / "past")
    blob = max((tmp_path / "past/objects").iterdir(), key=lambda path: path.stat().st_size)
    if lost == "missing":
        blob.unlink()
    else:
        data = blob.read_bytes()
        blob.write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
    with pytest.raises(CheckpointError, match=r"state\.ckpt is broken: .*objects"):
        go(tmp_path, {}, "run", start_from=tmp_path / "past/state.ckpt")


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*/none\.ckpt: No such file"):
        go(tmp_path, {}, "run", start_from=tmp_path / "none.ckpt")


def test_boundaries_behind_the_end_are_refused(tmp_path: Path):
    told = "from the beginning to task-1-finished cannot be saved at task-2-trained"
    with pytest.raises(UserError, match=told):
        go(tmp_path, {}, "run", save_at=[Boundary(2, False)], checkpoints=tmp_path / "past")
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.yaml"]


def test_boundaries_before_the_start_are_refused(saved: Path, tmp_path: Path):
    start = saved / "past/task-0-finished/state.ckpt"
    with pytest.raises(
        UserError, match=r"from task-0-finished to task-1-finished .* at task-0-trained, task-0-finished"
    ):
        go(tmp_path, {}, "run", start_from=start, save_at=EVERYWHERE, checkpoints=tmp_path)


def test_saving_needs_a_folder(tmp_path: Path):
    with pytest.raises(UserError, match="save_at needs checkpoints"):
        go(tmp_path, {}, "run", save_at=[FINISHED])


def test_a_folder_that_cannot_be_made_is_told_before_anything_starts(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot make the folder of checkpoints"):
        go(tmp_path, {}, "run", save_at=[FINISHED], checkpoints=tmp_path / "file" / "past")
    assert not (tmp_path / "run").exists()


def key(folder: Path, overrides: Mapping[str, Any], boundary: Boundary = FINISHED) -> str:
    return past_key(read_config(write_config(folder), overrides), boundary)


def test_the_past_depends_on_all_but_placement(tmp_path: Path):
    assert key(tmp_path, {}) == key(tmp_path, {"placement.clients_per_actor": 3})
    for other in ({"seed": 2}, {"network.latency_s": 1.0}, {"training.threads": 2}, {"method.name": "local"}):
        assert key(tmp_path, other) != key(tmp_path, {}), other
    assert key(tmp_path, {}, TRAINED) != key(tmp_path, {}, FINISHED)


def test_the_past_of_a_method_is_what_it_says_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """FedKNOW with another past_settings: rho plays no part before the end of task 0."""
    from fedknow_ray.methods.fedknow.fedknow import FedKnow

    def past_settings(cls: Any, hyper: Any, task_index: int, *, finished: bool) -> dict[str, Any]:
        return {"rho": hyper.retained_fraction} if (task_index, finished) > (0, False) else {}

    monkeypatch.setattr(FedKnow, "past_settings", classmethod(past_settings))
    one, other = ({"method": {"name": "fedknow", "retained_fraction": rho}} for rho in (0.1, 0.2))
    assert key(tmp_path, one, TRAINED) == key(tmp_path, other, TRAINED)
    assert key(tmp_path, one, FINISHED) != key(tmp_path, other, FINISHED)


def test_methods_that_begin_alike_may_start_from_each_other_after_the_first_rounds(tmp_path: Path):
    """The memory of the other method troubles none of them; all are the runs from their beginnings."""
    methods: dict[str, dict[str, Any]] = {
        "fedavg": {"name": "fedavg"},
        "final": {"name": "fedavg", "own_model": "final"},
        "tuned": {"name": "fedknow"},
        "paper": {"name": "fedknow", "variant": "paper", "second_use": "off"},
    }
    for name, method in methods.items():
        go(tmp_path, {"method": method}, f"{name} whole", save_at=[TRAINED], checkpoints=tmp_path / name)
    for other, (name, method) in zip(["tuned", "fedavg", "paper", "final"], methods.items(), strict=True):
        start = checkpoint_path(tmp_path / other, TRAINED)
        same(go(tmp_path, {"method": method}, f"{name} fork", start_from=start), load(tmp_path / f"{name} whole"))


def test_before_the_first_end_of_a_task_fedavg_and_fedknow_have_the_same_state(tmp_path: Path):
    """Broadcast, all that clients keep, clock, and every row."""
    for name in ("fedavg", "fedknow"):
        go(tmp_path, {"method.name": name}, name, save_at=[TRAINED], checkpoints=tmp_path / f"{name} past")
    left, right = (
        open_checkpoint(checkpoint_path(tmp_path / f"{name} past", TRAINED)) for name in ("fedavg", "fedknow")
    )
    assert right.state == left.state
    fedavg, ours = left.contents(), right.contents()
    np.testing.assert_array_equal(ours.saved.broadcast, fedavg.saved.broadcast)
    for client_id, state in fedavg.saved.states.items():
        assert ours.saved.states[client_id] == state
    for table, rows in fedavg.tables.items():
        host = [column for column in HOST_COLUMNS if column in rows.column_names]
        assert ours.tables[table].drop_columns(host).equals(rows.drop_columns(host)), table


ENGINE = EngineState(1.5, 4, {1: (Unfinished(0, True, 1),)}, frozenset({3}), {0: 0.5})


def write_small_checkpoint(folder: Path, config: Path) -> Path:
    state = SchedulerState(FINISHED, ENGINE, 10, 0.25, frozenset({2, 0}))
    contents = Contents(Saved(np.arange(5, dtype=np.uint8), {0: b"zero", 1: b"one"}), {})
    return save_checkpoint(folder, read_config(config), state, contents, made_with={"torch": "2.6"}, wall_s=2.5)


def test_a_run_is_saved_for_others_at_boundaries_alone(tmp_path: Path):
    state = SchedulerState(None, ENGINE, 10, 0.25, frozenset(), steps=3, time_s=1.5)
    with pytest.raises(ValueError, match=r"at 1\.5 s the run stands at no boundary"):
        save_checkpoint(
            tmp_path,
            read_config(write_config(tmp_path)),
            state,
            Contents(Saved(np.zeros(1, np.uint8), {}), {}),
            made_with={},
            wall_s=0.0,
        )
