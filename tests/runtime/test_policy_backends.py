"""Every policy on both backends: the same bits, the same visits, and only what arrives is made.

Two Nanos are done before two Raspberry Pis, so that rounds that start all four and need two leave the Pis behind. A
visit in ten fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import without_host, write_config

from fedknow_ray.experiment.run import execute
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.results.run import Run

POLICIES: dict[str, dict[str, Any]] = {
    "deadline-drop": {"name": "deadline", "over_selection": 2.0},
    "deadline-keep": {"name": "deadline", "over_selection": 2.0, "late": "keep"},
    "fedbuff": {"name": "fedbuff", "buffer_size": 2, "concurrency": 3},
    "fedasync": {"name": "fedasync", "concurrency": 2},
}
each = pytest.mark.parametrize("name", POLICIES)
SLOW = pytest.mark.slow


def settings(name: str) -> dict[str, Any]:
    return {
        "method.name": "fedavg",
        "policy": POLICIES[name],
        "failures.probability": 0.1,
        "training.client_fraction": 0.5,
        "training.rounds_per_task": 3,
        "training.local_epochs": 1,
        "placement.clients_per_actor": 2,
    }


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("local")
    config = write_config(folder)
    return {name: execute(config, settings(name), backend="local", out=folder / name) for name in POLICIES}


def digest(run: Run) -> str:
    assert run.summary is not None
    return str(run.summary["parameters_sha256"])


def test_each_policy_trains_another_model(local: dict[str, Run]) -> None:
    assert len({digest(run) for run in local.values()}) == len(POLICIES)


@pytest.mark.parametrize("name", ["fedbuff", "fedasync"])
def test_the_budget_is_that_of_synchronous_rounds(local: dict[str, Run], name: str) -> None:
    """2 tasks of 3 rounds of 2 of the 4 clients."""
    assert local[name].visits["kind"].to_pylist().count("train") == 12


@each
def test_lost_visits_have_no_loss_and_took_no_time_of_the_host(local: dict[str, Run], name: str) -> None:
    rows = local[name].visits.to_pylist()
    assert {row["status"] for row in rows} > {"ok"}
    for row in rows:
        assert (row["host_cpu_s"] > 0) == (row["status"] == "ok")
        assert row["loss"] is None or row["status"] == "ok"
        assert row["merge_index"] is None or (row["status"], row["kind"]) == ("ok", "train")


@each
def test_staleness_is_what_the_table_says(local: dict[str, Run], name: str) -> None:
    rows = [row for row in local[name].visits.to_pylist() if row["merge_index"] is not None]
    assert rows
    stale = {row["merge_index"] - row["model_version"] for row in rows}
    assert min(stale) == 0
    assert (max(stale) > 0) == (name != "deadline-drop")


@pytest.mark.parametrize("name", ["deadline-keep", "fedbuff"])
def test_a_run_is_taken_up_at_a_boundary(local: dict[str, Run], name: str, tmp_path: Path) -> None:
    config, boundary = write_config(tmp_path), Boundary(0, True)
    options: dict[str, Any] = {"backend": "local"}
    execute(config, settings(name), **options, out=tmp_path / "past", save_at=[boundary], checkpoints=tmp_path)
    saved = tmp_path / str(boundary) / "state.ckpt"
    fork = execute(config, settings(name), **options, out=tmp_path / "fork", start_from=saved)
    assert digest(fork) == digest(local[name])
    assert without_host(fork.visits).equals(without_host(local[name].visits))


@pytest.mark.ray
@pytest.mark.parametrize("name", [name if name == "fedbuff" else pytest.param(name, marks=SLOW) for name in POLICIES])
def test_both_backends_give_the_same_bits(local: dict[str, Run], name: str, tmp_path: Path) -> None:
    run = execute(write_config(tmp_path), settings(name), out=tmp_path / "ray")
    assert digest(run) == digest(local[name])
    assert without_host(run.visits).equals(without_host(local[name].visits))
    for table in ("accuracy", "rounds"):
        assert getattr(run, table).equals(getattr(local[name], table)), table
    lost = [[row for row in r.events.to_pylist() if row["kind"] != "packed"] for r in (run, local[name])]
    assert lost[0] == lost[1]
