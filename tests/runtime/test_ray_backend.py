"""Real Ray: the same bits as the local backend, one process a client, and clean ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import without_host, write_config

from fedknow_ray.errors import DivergenceError, PlacementError, UserError
from fedknow_ray.experiment.place import Backend
from fedknow_ray.experiment.run import execute
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.results.run import Run, load

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    config = write_config(folder)
    return {
        "local": execute(config, backend="local", out=folder / "local"),
        "one_to_one": execute(config, out=folder / "one_to_one"),
        "packed": execute(config, {"placement.clients_per_actor": 2}, out=folder / "packed"),
    }


@pytest.mark.parametrize("other", ["one_to_one", "packed"])
def test_the_parameters_are_the_same_bits_wherever_they_were_trained(runs: dict[str, Run], other: str) -> None:
    expected, got = runs["local"].summary, runs[other].summary
    assert expected is not None and got is not None
    assert got["parameters_sha256"] == expected["parameters_sha256"]


@pytest.mark.parametrize("other", ["one_to_one", "packed"])
@pytest.mark.parametrize("table", ["accuracy", "rounds"])
def test_accuracy_and_rounds_are_equal_row_by_row(runs: dict[str, Run], other: str, table: str) -> None:
    assert getattr(runs[other], table).equals(getattr(runs["local"], table))


@pytest.mark.parametrize("other", ["one_to_one", "packed"])
def test_visits_are_equal_but_for_the_host_columns(runs: dict[str, Run], other: str) -> None:
    assert without_host(runs[other].visits).equals(without_host(runs["local"].visits))


def test_method_figures_are_equal(runs: dict[str, Run]) -> None:
    assert runs["one_to_one"].events.equals(runs["local"].events)


def test_each_client_has_a_process_of_its_own_and_none_is_the_drivers(runs: dict[str, Run]) -> None:
    pids = runs["one_to_one"].placement["pid"].to_pylist()
    assert len(set(pids)) == 4
    assert os.getpid() not in pids


def test_packed_clients_share_an_actor_with_their_own_kind(runs: dict[str, Run]) -> None:
    rows = runs["packed"].placement.to_pylist()
    assert len({row["actor_id"] for row in rows}) == 2
    assert {(row["actor_id"], row["device"]) for row in rows} == {(r["actor_id"], r["device"]) for r in rows[::2]}


def test_an_actor_holds_the_resources_of_its_device(runs: dict[str, Run]) -> None:
    resources = [json.loads(row["resources"]) for row in runs["one_to_one"].placement.to_pylist()]
    assert [r.get("device:jetson-nano") for r in resources] == [1.0, 1.0, None, None]
    assert [r.get("device:raspberry-pi-4-4gb") for r in resources] == [None, None, 1.0, 1.0]


def test_packing_is_told_in_the_events(runs: dict[str, Run]) -> None:
    told = [row["detail"] for row in runs["packed"].events.to_pylist() if row["kind"] == "packed"]
    assert told == ["4 clients in 2 actors (clients_per_actor: 2)"]


def test_nothing_is_written_to_home(runs: dict[str, Run]) -> None:
    assert not (Path.home() / ".ray").exists()


def test_the_environment_is_as_before(runs: dict[str, Run]) -> None:
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_fleet_that_cannot_be_placed_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """10 TiB an actor fits nowhere: status 3, a table instead of a traceback, and no run directory stays."""
    out = tmp_path / "run"
    options = ["--set", "placement.memory_per_actor=10 TiB", "--out", str(out), "--quiet"]
    command = [sys.executable, "-m", "fedknow_ray", "run", str(write_config(tmp_path)), *options]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert refused.returncode == PlacementError.exit_status == 3
    lines = refused.stderr.splitlines()
    assert "4 of 4 client actors find no node" in lines[0]
    assert [line.split()[0] for line in lines[2:4]] == ["jetson-nano", "raspberry-pi-4-4gb"]
    assert not out.exists()


def test_diverged_training_in_an_actor_is_the_users_fault_as_it_is_in_this_process(tmp_path: Path) -> None:
    overrides = {"training.optimizer": {"name": "sgd", "lr": 1.0e30}, "placement.clients_per_actor": 2}
    with pytest.raises(DivergenceError, match=r"client \d, task_index 0, round_index 0"):
        execute(write_config(tmp_path), overrides, out=tmp_path / "run")


def test_an_address_where_nobody_answers_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no Ray cluster can be reached at '127\.0\.0\.1:1'"):
        execute(write_config(tmp_path), address="127.0.0.1:1", out=tmp_path / "run")


@pytest.mark.parametrize(("first", "second"), [("ray", "local"), pytest.param("local", "ray", marks=pytest.mark.slow)])
def test_a_run_saved_on_one_backend_is_taken_up_on_the_other(
    first: Backend, second: Backend, runs: dict[str, Run], tmp_path: Path
) -> None:
    """Saved after the rounds of task 0; two clients an actor on Ray, so clients are spread otherwise than before."""
    config, boundary, packed = write_config(tmp_path), Boundary(0, False), {"placement.clients_per_actor": 2}
    execute(config, packed, backend=first, out=tmp_path / "past", save_at=[boundary], checkpoints=tmp_path)
    fork = execute(
        config, packed, backend=second, out=tmp_path / "fork", start_from=tmp_path / str(boundary) / "state.ckpt"
    )
    whole = runs["packed" if second == "ray" else "local"]
    assert fork.summary is not None and whole.summary is not None
    assert fork.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    assert without_host(fork.visits).equals(without_host(whole.visits))
    for table in ("accuracy", "rounds", "events"):
        assert getattr(fork, table).equals(getattr(whole, table)), table


JOIN = """
import json, sys
from contextlib import ExitStack
import ray
from ray.cluster_utils import Cluster
from fedknow_ray.experiment.run import execute

if __name__ == "__main__":
    config, out = sys.argv[1:]
    size = {"object_store_memory": 80 << 20, "num_cpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **size})
    with ExitStack() as stack:
        stack.callback(cluster.shutdown)
        for device in ("jetson-nano", "raspberry-pi-4-4gb"):
            labels = {"fedknow.io/device": device}
            cluster.add_node(resources={f"device:{device}": 2}, labels=labels, **size)
        import os
        os.environ["RAY_ADDRESS"] = cluster.address
        joined = execute(config, address="auto", out=out + "/joined")
        own = execute(config, {"scenario.tasks": 1, "placement.clients_per_actor": 2}, out=out + "/own")
"""


def test_a_cluster_is_used_where_its_address_is_given_and_only_there(runs: dict[str, Run], tmp_path: Path) -> None:
    """On the labelled nodes of a cluster the bits are the same; without --address its nodes are left alone."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", JOIN, str(write_config(tmp_path)), str(tmp_path)],
        env={**os.environ, **token},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    joined, own = load(tmp_path / "joined"), load(tmp_path / "own")
    nodes = {row["device"]: row["node_id"] for row in joined.placement.to_pylist()}
    assert len(set(nodes.values())) == 2
    assert not set(nodes.values()) & set(own.placement["node_id"].to_pylist())
    assert joined.summary is not None and runs["local"].summary is not None
    assert joined.summary["parameters_sha256"] == runs["local"].summary["parameters_sha256"]
