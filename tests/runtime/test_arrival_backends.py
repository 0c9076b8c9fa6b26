"""Tasks that come to each client by time, and come again: the same bits on both backends, and what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import without_host, write_config

from fedknow_ray.experiment.run import execute
from fedknow_ray.results.run import Run

ARRIVALS = """\
client_id,time_s,task
0,0,0
0,1,1
0,20,0
1,2,1
1,3,0
1,4,1
2,0,0
2,0,1
2,0,0
3,0,1
3,9,0
3,9,1
"""
CASES: dict[str, dict[str, Any]] = {
    "rounds": {"policy.name": "synchronous"},
    "fedasync": {"policy": {"name": "fedasync", "concurrency": 3}, "failures.probability": 0.1},
}
each = pytest.mark.parametrize("name", CASES)
SLOW = pytest.mark.slow


def settings(folder: Path, name: str) -> dict[str, Any]:
    trace = folder / "arrivals.csv"
    trace.write_text(ARRIVALS)
    return {"task_arrival": {"trace": trace}, "placement.clients_per_actor": 2, **CASES[name]}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("local")
    config = write_config(folder)
    return {name: execute(config, settings(folder, name), backend="local", out=folder / name) for name in CASES}


@pytest.mark.ray
@pytest.mark.parametrize("name", [name if name == "rounds" else pytest.param(name, marks=SLOW) for name in CASES])
def test_both_backends_give_the_same_bits(local: dict[str, Run], name: str, tmp_path: Path) -> None:
    run, other = execute(write_config(tmp_path), settings(tmp_path, name), out=tmp_path / "ray"), local[name]
    assert run.summary is not None and other.summary is not None
    assert run.summary["parameters_sha256"] == other.summary["parameters_sha256"]
    assert without_host(run.visits).equals(without_host(other.visits))
    for table in ("accuracy", "rounds"):
        assert getattr(run, table).equals(getattr(other, table)), table


@each
def test_each_client_is_scored_on_what_it_has_learnt_when_it_is_through(local: dict[str, Run], name: str) -> None:
    """Own and global model, after each of 3 places, on the places until then: 2 x (1 + 2 + 3) scores a client."""
    rows = local[name].accuracy.to_pylist()
    assert {row["client_id"]: sum(r["client_id"] == row["client_id"] for r in rows) for row in rows} == dict.fromkeys(
        range(4), 12
    )


@each
def test_a_task_that_comes_again_is_scored_alike_at_both_places(local: dict[str, Run], name: str) -> None:
    """Place 2 is place 0's task once more: the same images, and the same head rows."""
    rows = [row for row in local[name].accuracy.to_pylist() if row["trained_task_index"] == 2]
    right = {(row["client_id"], row["model"], row["task_index"]): row["correct"] for row in rows}
    assert all(right[client, model, 0] == right[client, model, 2] for client, model, task in right if task == 2)


@each
def test_rounds_belong_to_no_task_and_arrivals_are_events(local: dict[str, Run], name: str) -> None:
    run = local[name]
    assert set(run.rounds["task_index"].to_pylist()) == {None}
    assert run.rounds["round_index"].to_pylist() == list(range(run.rounds.num_rows))
    came = [(row["time_s"], row["client_id"]) for row in run.events.to_pylist() if row["kind"] == "task_arrived"]
    assert sorted(came)[-1] == (20.0, 0)
    assert len(came) == 12


def test_clients_are_on_tasks_of_their_own(local: dict[str, Run]) -> None:
    """Client 0's third task comes when client 2 is through with all three."""
    starts_s = {
        (row["client_id"], row["task_index"]): row["start_s"]
        for row in reversed(local["fedasync"].visits.to_pylist())
        if row["kind"] == "train"
    }
    assert starts_s[0, 2] >= 20.0 > starts_s[2, 2]
