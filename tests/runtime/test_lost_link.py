"""A worker node whose link is cut, in a network namespace of its own: its clients go on elsewhere, to the same bits."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny import write_config

from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.verify import compare_runs
from fedknow_ray.results.run import load

BRIDGE, SPACE, OUTER, INNER = "fkbr0", "fkns0", "fkv0", "fkv1"
HEAD, WORKER, PORT = "10.77.0.1", "10.77.0.2", 7101
DEVICES = '{"device:jetson-nano": 4, "device:raspberry-pi-4-4gb": 4}'
LONGER = {"training.local_epochs": 12, "placement.clients_per_actor": 2}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


def can_make_namespaces() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        ip("netns", "add", "fkprobe")
        ip("netns", "delete", "fkprobe")
    except (OSError, subprocess.SubprocessError):
        return False
    return True


pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and network namespaces"),
]


@contextmanager
def network() -> Iterator[None]:
    """A bridge with an address, and a namespace behind a link."""
    with ExitStack() as stack:
        ip("link", "add", BRIDGE, "type", "bridge")
        stack.callback(ip, "link", "delete", BRIDGE)
        ip("addr", "add", f"{HEAD}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        ip("netns", "add", SPACE)
        stack.callback(ip, "netns", "delete", SPACE)
        ip("link", "add", OUTER, "type", "veth", "peer", "name", INNER)
        # named, since the namespace keeps its end for as long as a process is in it
        stack.callback(ip, "link", "delete", OUTER)
        ip("link", "set", OUTER, "master", BRIDGE)
        ip("link", "set", OUTER, "up")
        ip("link", "set", INNER, "netns", SPACE)
        ip("-n", SPACE, "addr", "add", f"{WORKER}/24", "dev", INNER)
        for device in (INNER, "lo"):
            ip("-n", SPACE, "link", "set", device, "up")
        yield


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of its own, which ends with the block."""
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def visiting(space: str) -> bool:
    """Whether a client in a namespace makes a visit now."""
    pids = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=True).stdout.split()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::ClientActor.visit"):
                return True
        except OSError:
            continue
    return False


def test_a_link_that_is_cut_costs_time_and_no_bit(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    whole = execute(config, LONGER, backend="local", out=tmp_path / "whole")
    ray = str(Path(sys.executable).parent / "ray")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    size = ["--object-store-memory=100000000", "--num-cpus=1", "--disable-usage-stats", "--block"]
    temp = f"/tmp/fkl-{os.getpid()}"
    head = [ray, "start", "--head", f"--node-ip-address={HEAD}", f"--port={PORT}", "--include-dashboard=false"]
    inside = [ray, "start", f"--address={HEAD}:{PORT}", f"--node-ip-address={WORKER}", f"--resources={DEVICES}"]
    spare = [ray, "start", f"--address={HEAD}:{PORT}", f"--node-ip-address={HEAD}", f"--resources={DEVICES}"]
    out = tmp_path / "run"
    run = [sys.executable, "-m", "fedknow_ray", "run", str(config), "--address", f"{HEAD}:{PORT}", "--out", str(out)]
    run += ["--quiet", *(f"--set={key}={value}" for key, value in LONGER.items())]
    with network(), ExitStack() as stack:
        stack.callback(shutil.rmtree, temp, ignore_errors=True)
        stack.enter_context(started([*head, *size, f"--temp-dir={temp}"], environment))
        time.sleep(8)
        stack.enter_context(started(["ip", "netns", "exec", SPACE, *inside, *size], environment))
        time.sleep(8)
        driver = subprocess.Popen(run, env=environment, stderr=subprocess.PIPE, text=True)
        deadline_s = time.monotonic() + 90
        while not visiting(SPACE) and driver.poll() is None:
            assert time.monotonic() < deadline_s, "no visit began behind the link"
            time.sleep(0.05)
        ip("link", "set", OUTER, "down")
        stack.enter_context(started([*spare, *size], environment))
        _, told = driver.communicate(timeout=240)
        assert driver.returncode == 0, told
    done = load(out)
    assert compare_runs(whole, done).mismatch is None
    losses: list[dict[str, Any]] = [
        json.loads(row["detail"]) for row in done.events.to_pylist() if row["kind"] == "actor_lost"
    ]
    assert losses
    assert {tuple(loss["clients"]) for loss in losses} <= {(0, 1), (2, 3)}
