"""The script for this machine, really run: what it starts, who is let in, and that nothing stays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fleets import SOURCE

from fedknow_ray.cluster.plan import ClusterPlan, NodeGroup
from fedknow_ray.cluster.render import render

pytestmark = pytest.mark.ray

PLAN = ClusterPlan("two", tuple(NodeGroup(device, 1, 2, 1, 300 * 2**20) for device in ("jetson-nano", "Pi_4.4GB")))
RUNTIME_TESTS = Path(__file__).parents[1] / "runtime"
VISITOR = """
import json, os
from proc import family_of, listening
import ray
from fedknow_ray.runtime.ray_security import probe
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=0.001, resources={"device:Pi_4.4GB": 2}, label_selector={"fedknow.io/device": "Pi_4.4GB"})
class Actor:
    def labels(self):
        return ray.get_runtime_context().get_node_labels()

from fedknow_ray.runtime.probing import cluster_address, probe_nodes
labels = ray.get(Actor.remote().labels.remote(), timeout=60)
told = {
    "nodes": [[node["Resources"], node["Labels"]] for node in ray.nodes()],
    "actor": labels,
    "listening": sorted(listening(family_of(int(os.environ["SCRIPT_PID"])))),
    "probes": [[each.error, abs(each.skew_s) - each.skew_bound_s < 1] for each in probe_nodes()],
    "joins_at": cluster_address(),
    "lock": probe(os.environ["RAY_ADDRESS"]),
}
print(json.dumps(told))
"""


def test_the_script_starts_labelled_nodes_behind_a_token_and_ends_them(tmp_path: Path) -> None:
    """In a session of its own, as a terminal has it, with an environment that says nothing of Ray."""
    script = tmp_path / "local.sh"
    script.write_text(render("local", PLAN, SOURCE))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # the python of the tests, as where the environment is activated
    plain |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{plain['PATH']}"}
    with (tmp_path / "told").open("w") as told:
        running = subprocess.Popen(
            ["bash", str(script)], env=plain, stdout=told, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        connect = wait_for(tmp_path / "told", running)
        folder = Path(re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)/token", connect)[1])  # type: ignore[index]
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "token").stat().st_mode & 0o777 == 0o600
        seen = visit(plain, connect, running.pid)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    finally:
        running.terminate()
        running.wait(60)
    resources = sorted(
        tuple(sorted((k, v) for k, v in offers.items() if k == "CPU" or k.startswith("device:")))
        for offers, _ in seen["nodes"]
    )
    assert resources == [(), (("CPU", 1.0), ("device:Pi_4.4GB", 2.0)), (("CPU", 1.0), ("device:jetson-nano", 2.0))]
    assert {labels.get("fedknow.io/device") for _, labels in seen["nodes"]} == {None, "jetson-nano", "Pi_4.4GB"}
    assert seen["actor"]["fedknow.io/device"] == "Pi_4.4GB"
    assert seen["probes"] == [[None, True]] * 3
    assert f"RAY_ADDRESS={seen['joins_at']} " in connect
    assert seen["lock"] == "locked"
    assert {"gcs_server", "raylet"} <= {name for name, _ in seen["listening"]}
    assert {ip for _, ip in seen["listening"]} == {"127.0.0.1"}
    assert processes_with(str(folder)) == []
    assert not folder.exists()
    assert not (tmp_path / ".ray").exists()


def wait_for(told: Path, running: subprocess.Popen[bytes]) -> str:
    """Return what the script says of how to connect."""
    limit = time.monotonic() + 120
    while "Ctrl-C here ends them" not in (text := told.read_text()):
        assert running.poll() is None and time.monotonic() < limit, text
        time.sleep(0.2)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip().startswith("export "))


def visit(plain: dict[str, str], connect: str, pid: int) -> Any:
    """Connect from another shell, by the very lines that were printed."""
    paths = os.pathsep.join([str(RUNTIME_TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-c", f'{connect}\nexec "$0" -c "$1"', sys.executable, VISITOR],
        env={**plain, "PYTHONPATH": paths, "SCRIPT_PID": str(pid)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words:
            found.append(words)
    return found
