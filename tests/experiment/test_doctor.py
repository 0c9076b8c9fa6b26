"""The doctor: what it makes of nodes' answers, and once on a Ray of this machine."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from small import write_config

from fedknow_ray.cli.app import app
from fedknow_ray.experiment.checkup import Check, exit_status
from fedknow_ray.experiment.doctor import check_machines, examine
from fedknow_ray.runtime.node_facts import facts_here
from fedknow_ray.runtime.probing import NodeProbe


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_node_that_is_not_as_the_driver_is_named(tmp_path: Path) -> None:
    facts = facts_here(str(tmp_path))
    probes = [
        NodeProbe("a" * 40, "10.0.0.1", facts, skew_s=0.1, skew_bound_s=0.01),
        NodeProbe("b" * 40, "10.0.0.2", replace(facts, versions={**facts.versions, "ray": "1.0"})),
        NodeProbe("c" * 40, "10.0.0.3", error="gave no answer within 60 s"),
    ]
    checks = by_name(check_machines(probes))
    assert checks["nodes"].found == "2 answered; 10.0.0.3 (cccccc): gave no answer within 60 s"
    assert checks["version of ray"].found.endswith("here; 10.0.0.2 (bbbbbb): 1.0")
    assert checks["version of torch"].status == "ok"
    assert checks["clocks"].found == "0.11 s apart at most"
    assert exit_status(checks.values()) == 2


def test_a_cluster_that_cannot_be_reached_is_a_check_that_fails() -> None:
    with socket.socket() as taken:
        # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (check,) = examine(None, address=address)
    assert (check.name, check.status) == ("connection", "fail")
    assert f"no Ray cluster can be reached at '{address}'" in check.found
    assert "ray start --head" in check.todo
    assert exit_status([check]) == 2


@pytest.mark.ray
def test_on_this_machine_a_fleet_that_asks_for_too_much_memory_does_not_fit(tmp_path: Path) -> None:
    """The machine itself is looked at all the same, by tasks on a Ray that ends with the command."""
    config = str(write_config(tmp_path))
    done = CliRunner().invoke(
        app, ["doctor", config, "--set", "placement.memory_per_actor=90TB", "--json", "--wait", "1.5"]
    )
    assert done.stderr == "waiting for nodes with room for the fleet, 2 s at most\n"
    told = json.loads(done.stdout.splitlines()[-1])
    checks = {check["name"]: check for check in told["checks"]}
    assert checks["fleet jetson-nano"]["found"].startswith("2 clients in 2 actors of 90.0 TB; free: 2 of device:")
    assert checks["fleet jetson-nano"]["todo"].startswith("memory is short")
    assert checks["fleet server"]["status"] == "ok"
    for name in ("authentication", "nodes", "version of ray", "version of torch", "clocks"):
        assert checks[name]["status"] == "ok", checks[name]
    assert (told["status"], told["exit_status"]) == ("fail", 3)

    import ray

    assert not ray.is_initialized()
