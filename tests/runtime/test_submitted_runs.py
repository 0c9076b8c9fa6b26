"""A run as a job of a real cluster with a dashboard and a token: the bits of a run here, and exit statuses of its own.

Takes ray[default], which the dashboard needs.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from proc import family_of
from tiny import write_config

from fedknow_ray.experiment.run import execute
from fedknow_ray.results.run import load

pytest.importorskip("aiohttp")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

DEVICES = {"device:jetson-nano": 2, "device:raspberry-pi-4-4gb": 2}
START_S, JOB_S = 120.0, 400.0


@dataclass(frozen=True)
class Head:
    """A head with its dashboard, and the environment of who may use it."""

    url: str
    environment: dict[str, str]

    def submit(self, *words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fedknow_ray", "submit", *map(str, words), "--address", self.url]
        return subprocess.run(
            command,
            env={**self.environment, **environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=JOB_S,
        )


def free_ports(count: int) -> list[int]:
    asked = [socket.socket() for _ in range(count)]
    for one in asked:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in asked]
    for one in asked:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    # short, as the path of a socket must be
    folder, (port, dashboard, agent) = Path(tempfile.mkdtemp(prefix="fks-", dir="/tmp")), free_ports(3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    # the job is started as `python`, and its home is not ours
    environment |= {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    options = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}/ray"]
    options += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", "--num-cpus=2"]
    options += [f"--resources={json.dumps(DEVICES)}", "--object-store-memory=100000000", "--memory=6000000000"]
    with (folder / "told").open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            env=environment,
            # so that the code of a job is what came with it
            cwd=folder,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        limit = time.monotonic() + START_S
        while "Ray runtime started" not in (folder / "told").read_text():
            assert time.monotonic() < limit, (folder / "told").read_text()
            time.sleep(0.5)
        yield Head(f"http://127.0.0.1:{dashboard}", environment)
    finally:
        family = family_of(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_run_comes_back_with_the_bits_of_a_run_here(head: Head, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    done = head.submit(config, "--out", tmp_path / "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "task 2/2 done" in done.stderr
    assert "fedknow-ray:" not in done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["run_dir"] == str(tmp_path / "run")
    here = execute(config, backend="local", out=tmp_path / "here")
    assert here.summary is not None
    assert summary["parameters_sha256"] == here.summary["parameters_sha256"]
    assert load(tmp_path / "run").accuracy.equals(here.accuracy)


def test_what_the_run_refuses_is_refused_here_with_the_same_status(head: Head, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    more = ["--set", "fleet.0.count=3", "--set", "scenario.clients=5"]
    unplaced = head.submit(config, *more, "--out", tmp_path / "run", cwd=tmp_path)
    assert unplaced.returncode == 3
    assert "the fleet cannot be placed" in unplaced.stderr
    lost = head.submit(config, "--set", "network.uplink_trace=/nowhere.csv", "--out", tmp_path / "run", cwd=tmp_path)
    assert lost.returncode == 2
    assert "/nowhere.csv: cannot be read" in lost.stderr
    assert not (tmp_path / "run").exists()


def test_without_the_token_nothing_is_submitted(head: Head, tmp_path: Path) -> None:
    refused = head.submit(write_config(tmp_path), cwd=tmp_path, RAY_AUTH_TOKEN="cd" * 32)
    assert refused.returncode == 2
    assert "asks for a token" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_job_can_be_left_and_come_back_to_and_stopped(head: Head, tmp_path: Path) -> None:
    """What it had recorded when it was stopped comes back."""
    config = write_config(tmp_path)
    long = ["--set", "training.rounds_per_task=50", "--set", "scenario.tasks=5"]
    left = head.submit(config, *long, "--detach", "--json", cwd=tmp_path)
    assert left.returncode == 0, left.stderr
    job = json.loads(left.stdout)["job_id"]
    command = [sys.executable, "-m", "fedknow_ray", "submit", "--attach", job, "--address", head.url]
    with (tmp_path / "told").open("w") as told:
        following = subprocess.Popen(
            [*command, "--out", str(tmp_path / "run")], env=head.environment, stdout=told, stderr=told
        )
    limit = time.monotonic() + JOB_S
    while "task 1/5 done" not in (tmp_path / "told").read_text():
        assert time.monotonic() < limit, (tmp_path / "told").read_text()
        time.sleep(1)
    following.send_signal(signal.SIGINT)
    assert following.wait(JOB_S) == 130, (tmp_path / "told").read_text()
    run = load(tmp_path / "run")
    assert run.summary is None
    assert run.accuracy.num_rows > 0
