"""Runs on boards that evict: told before, made on either backend, taken up again, and replayed.

Four tasks, the paper's method; the boards of clients 0 and 1 hold one past task's gradient and no second.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import run_small, tables, with_memory, without_models, write_config

from fedknow_ray.experiment.assembly import open_labels
from fedknow_ray.experiment.forecast import Forecast, forecast
from fedknow_ray.experiment.run import execute, read_config
from fedknow_ray.experiment.what_if import what_if
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.results.run import Run

PAPER: dict[str, Any] = {
    "method": {"name": "fedknow", "variant": "paper"},
    "scenario.tasks": 4,
    "scenario.samples_per_client": 10,
    "training.rounds_per_task": 2,
    "training.client_fraction": 1.0,
    "training.local_epochs": 2,
    "on_out_of_memory": "evict_oldest_knowledge",
}


def told(folder: Path, overrides: dict[str, Any]) -> Forecast:
    config = read_config(write_config(folder), overrides)
    return forecast(config, open_labels(config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evicting")


@pytest.fixture(scope="module")
def limit(folder: Path) -> int:
    """Memory between what visits take with one past task and with two."""
    roomy = told(folder, PAPER).memory[0]
    return (roomy.highest(1)[1] + roomy.highest(2)[1]) // 2


def tight(folder: Path, memory_bytes: int) -> dict[str, Any]:
    """The run on boards of so much memory; client 0's training of task 2 fails once, half way."""
    failures = {"failures.schedule": [{"client": 0, "task": 2, "round": 0, "at": 0.5}]}
    return {**PAPER, **failures, **with_memory(folder / f"devices-{memory_bytes}", memory_bytes)}


@pytest.fixture(scope="module")
def overrides(folder: Path, limit: int) -> dict[str, Any]:
    return tight(folder, limit)


@pytest.fixture(scope="module")
def run(folder: Path, overrides: dict[str, Any]) -> Run:
    return run_small(folder, overrides)


def evictions(run: Run) -> list[tuple[int, str, int, int, int]]:
    """Client, kind, task, round and evicted tasks of each event."""
    rows = [(row, json.loads(row["detail"])) for row in run.events.to_pylist() if row["kind"] == "knowledge_evicted"]
    return [(r["client_id"], d["kind"], d["task_index"], d["round_index"], d["evicted_tasks"]) for r, d in rows]


def same(run: Run, other: Run) -> None:
    """Compare two runs in everything that a seed decides but how clients share actors."""
    assert run.summary is not None
    assert other.summary is not None
    assert run.summary["parameters_sha256"] == other.summary["parameters_sha256"]
    for name, table in tables(run).items():
        rows, others = table.to_pylist(), tables(other)[name].to_pylist()
        keep = [row for row in rows if row.get("kind") != "packed"]
        assert keep == [row for row in others if row.get("kind") != "packed"], name


def test_each_task_more_costs_the_oldest_one_and_no_visit_is_lost_for_memory(run: Run):
    """The first training visit of tasks 2 and 3 throws one away, also that which fails later."""
    assert evictions(run) == [(client, "train", task, 0, task - 1) for task in (2, 3) for client in (0, 1)]
    statuses = [(row["client_id"], row["status"]) for row in run.visits.to_pylist() if row["status"] != "ok"]
    assert statuses == [(0, "failed")]


def test_the_event_has_the_bytes_before_and_after(run: Run, limit: int):
    rows = [json.loads(row["detail"]) for row in run.events.to_pylist() if row["kind"] == "knowledge_evicted"]
    assert {row["device_memory_bytes"] for row in rows} == {limit}
    assert all(row["tried_bytes"][-1] > limit >= row["peak_memory_bytes"] for row in rows)


def test_the_forecast_is_what_the_run_records(folder: Path, overrides: dict[str, Any], run: Run):
    found = told(folder, overrides)
    assert run.summary is not None
    for key in ("virtual_time_s", "upload_bytes", "download_bytes", "energy_j"):
        assert getattr(found, key) == run.summary[key], key
    board, other = found.memory
    assert (board.device, board.evicts_at, board.stops_at, board.evicted_tasks) == ("tight", 2, None, (0, 0, 1, 2))
    assert (other.evicts_at, other.stops_at, other.evicted_tasks) == (None, None, (0, 0, 0, 0))
    assert [board.fits(t) for t in range(4)] == [True, True, False, False]


@pytest.mark.ray
@pytest.mark.slow
def test_both_backends_give_the_same_bits(folder: Path, overrides: dict[str, Any], run: Run):
    same(execute(write_config(folder), {**overrides, "placement.clients_per_actor": 2}, out=folder / "ray"), run)


def test_a_run_that_is_taken_up_is_the_run_from_its_beginning(
    folder: Path, overrides: dict[str, Any], run: Run, tmp_path: Path
):
    """When task 2 has evicted for the first time, before and after its end."""
    config, boundaries = write_config(folder), (Boundary(2, False), Boundary(2, True))
    execute(config, overrides, backend="local", out=tmp_path / "a", save_at=boundaries, checkpoints=tmp_path / "saved")
    for boundary in boundaries:
        start = tmp_path / "saved" / str(boundary) / "state.ckpt"
        same(execute(config, overrides, backend="local", out=tmp_path / str(boundary), start_from=start), run)


def test_with_tasks_that_come_by_time_each_client_evicts_on_its_own_way(
    folder: Path, overrides: dict[str, Any], tmp_path: Path
):
    by_time = {**overrides, "task_arrival": {"every_s": 30}, "policy": {"name": "fedbuff", "buffer_size": 2}}
    found, made = told(folder, by_time), run_small(tmp_path, by_time)
    assert made.summary is not None
    assert found.virtual_time_s == made.summary["virtual_time_s"]
    assert sorted(evictions(made)) == [(client, "train", task, 0, task - 1) for client in (0, 1) for task in (2, 3)]
    assert (found.memory[0].evicts_at, found.memory[0].evicted_tasks) == (2, (0, 0, 1, 2))


# Replays


def test_a_replay_throws_away_what_the_run_did(run: Run, folder: Path, overrides: dict[str, Any], tmp_path: Path):
    slower = {"network.uplink_bytes_per_s": 2e5, "fleet.1.device": "jetson-agx-xavier"}
    fresh = run_small(folder, {**overrides, **slower}, out="slower")
    answer = what_if(run.path, slower)
    assert answer.replayed is not None, answer.reason
    for name in ("visits", "rounds", "events"):
        drop = [column for column in ("host_wall_s", "host_cpu_s") if name == "visits"]
        told = without_models(answer.replayed.tables[name].drop_columns(drop))
        assert told.equals(without_models(tables(fresh)[name])), name


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"on_out_of_memory": "fail"},
            "client 0's training visit in task 2, round 0 would come to the status out_of_memory, and came to failed",
        ),
        (
            {"fleet.0.device": "jetson-nano"},
            "client 0's training visit in task 2, round 0 would begin with 0 past tasks evicted, and began with 1",
        ),
    ],
    ids=["nobody evicts", "more memory"],
)
def test_a_course_that_evicts_otherwise_needs_retraining(run: Run, changed: dict[str, Any], reason: str):
    assert what_if(run.path, changed).reason == reason


def test_less_memory_is_not_known_to_suffice(run: Run, folder: Path):
    """Task 1 fits as before, and task 2 only with both past tasks gone, which the run has not tried."""
    (board, _) = told(folder, PAPER).memory
    answer = what_if(run.path, with_memory(folder / "smaller", board.highest(1)[1]))
    assert answer.reason is not None
    assert "in task 2, round 0, with 2 past tasks evicted, and the run has none" in answer.reason


@pytest.mark.parametrize("method", [{"name": "fedknow"}, {"name": "fedavg"}], ids=str)
def test_a_run_in_which_evicting_does_not_help_is_replayed(method: dict[str, Any], folder: Path, tmp_path: Path):
    """Boards that hold the end of a task and no training visit, which the end of a task of `tuned` does not contain."""
    settings = {**PAPER, "method": method, "scenario.tasks": 2}
    ends = told(tmp_path, settings).memory[0].peak_bytes["finish_task"]
    lost = run_small(tmp_path, {**settings, **with_memory(tmp_path / "devices", max(ends))})
    rows = [row for row in lost.visits.to_pylist() if row["client_id"] < 2]
    assert {(row["kind"], row["status"]) for row in rows} == {("train", "out_of_memory"), ("finish_task", "ok")}
    assert evictions(lost) == []
    assert what_if(lost.path, {"network.latency_s": 0.5}).valid
    assert not what_if(lost.path, {"fleet.0.device": "jetson-nano"}).valid


def test_a_run_that_lost_visits_for_memory_does_not_say_what_evicting_would_do(
    folder: Path, overrides: dict[str, Any], tmp_path: Path
):
    lost = run_small(tmp_path, {**overrides, "on_out_of_memory": "fail"})
    assert "out_of_memory" in lost.visits["status"].to_pylist()
    answer = what_if(lost.path, {"on_out_of_memory": "evict_oldest_knowledge"})
    assert answer.reason is not None
    assert "with 1 past tasks evicted, and the run has none" in answer.reason
