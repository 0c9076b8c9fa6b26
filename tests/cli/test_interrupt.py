"""Ctrl-C in the middle of a run: status 130, tables that can be read, and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedknow_ray

pytestmark = pytest.mark.program

CONFIG = """\
scenario:
  {dataset: digits, tasks: 5, classes_per_task: 2, clients: 2, samples_per_client: 60,
   partition: {name: shards, shards_per_client: 2}}
training: {rounds_per_task: 30, client_fraction: 1, local_epochs: 4, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}]
"""


def processes_of(session: int) -> list[str]:
    """The commands of all processes that belong to a session, whoever their parent is now."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def wait_for(path: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear within {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("backend", "sign"),
    [
        ("local", signal.SIGINT),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.ray),
        pytest.param("ray", signal.SIGTERM, marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
)
def test_an_interrupted_run_is_closed_cleanly(tmp_path: Path, backend: str, sign: signal.Signals) -> None:
    config, out = tmp_path / "long.yaml", tmp_path / "run"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "fedknow_ray", "run", str(config), "--backend", backend, "--out", str(out)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(out / "rounds.parquet", 120)
    if sign is signal.SIGINT:
        # what a terminal does: every process of the foreground group gets the signal
        os.killpg(running.pid, sign)
    else:
        running.send_signal(sign)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    assert processes_of(running.pid) == []
    run = fedknow_ray.load(out)
    assert run.summary is None
    assert run.rounds.num_rows >= 1
    assert run.events["kind"].to_pylist()[-1] == "interrupted"
