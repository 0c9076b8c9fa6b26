"""`fedknow-ray calibrate` as a person runs it: the file it leaves, what it prints, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fedknow_ray.cli.app import app
from fedknow_ray.errors import UserError
from fedknow_ray.experiment import calibration
from fedknow_ray.experiment.calibration_networks import Workload, workloads
from fedknow_ray.experiment.run import execute
from fedknow_ray.simulation.device_library import DeviceLibrary

RUN = """\
scenario:
  {dataset: digits, tasks: 1, classes_per_task: 2, clients: 2, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 1, client_fraction: 1, local_epochs: 1, batch_size: 8}
fleet: [{device: my-board, count: 2}]
"""
KEYS = {
    "device", "path", "date", "torch", "threads", "cpu_share", "processor", "figures", "matmul_flops_per_s", "memory",
    "storage", "power", "networks", "prediction_error_percent",
}  # fmt: skip
FITTED = {
    "sustained_flops_per_s", "memory_bandwidth_bytes_per_s", "step_overhead_s", "utilisation.dense_cnn",
    "utilisation.small_cnn", "utilisation.depthwise",
}  # fmt: skip


def here(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)], standalone_mode=False)


def check(summary: dict[str, Any], path: Path) -> None:
    """The structure of what a calibration leaves; its figures are the machine's."""
    assert summary.keys() == KEYS
    assert summary["figures"].keys() >= FITTED
    assert summary["figures"]["utilisation.dense_cnn"] == 1
    held_out = [network for network in summary["networks"] if network["held_out"]]
    worst = max(held_out, key=lambda network: abs(network["error_percent"]))
    assert len(held_out) == 2
    assert summary["prediction_error_percent"] == worst["error_percent"]
    text = path.read_text(encoding="utf-8")
    assert all(f"#   {network['network']}: {network['error_percent']:+.1f} %\n" in text for network in held_out)
    device = DeviceLibrary().with_own(path).get(path.stem)
    assert {key: figure.value for key, figure in device.figures.items()} == summary["figures"]
    assert all(summary["torch"] in figure.source for key, figure in device.figures.items() if "dense" not in key)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def shrunk(workload: Workload) -> Workload:
    side = 32 if workload.role == "reference" else min(workload.side, 16)
    return Workload(workload.role, workload.spec, side, 4 if workload.batch_size > 1 else 1)


@pytest.mark.program
def test_a_run_can_use_the_file_that_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the networks on small images, so that it takes seconds."""
    monkeypatch.setattr(calibration, "workloads", lambda: tuple(map(shrunk, workloads())))
    (tmp_path / "boards").mkdir()
    path = tmp_path / "boards" / "my-board.yaml"
    done = here("--out", path, "--seconds", 2, "--json")
    assert done.exception is None
    [line] = done.stdout.splitlines()
    assert "held out" in done.stderr
    check(json.loads(line), path)
    (tmp_path / "run.yaml").write_text(RUN + f"devices_path: {path}\n")
    run = execute(tmp_path / "run.yaml", backend="local", out=tmp_path / "run")
    assert run.summary is not None
    assert run.summary["virtual_time_s"] > 0


@pytest.mark.slow
def test_the_program_calibrates_this_machine(tmp_path: Path):
    path = tmp_path / "my-board.yaml"
    command = [sys.executable, "-m", "fedknow_ray", "calibrate", "--out", str(path), "--seconds", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), path)


@pytest.mark.program
def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path):
    path = tmp_path / "my-board.yaml"
    path.write_text("mine")
    command = [sys.executable, "-m", "fedknow_ray", "calibrate", "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    message = f"error: {path} is there already and is not overwritten; name another file, or remove it first\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)
    assert path.read_text() == "mine"


def test_more_threads_than_cores_are_refused(tmp_path: Path):
    done = here("--out", tmp_path / "b.yaml", "--threads", 10_000)
    assert isinstance(done.exception, UserError)
    assert "--threads 10000 is more than this process has cores" in str(done.exception)
    assert list(tmp_path.iterdir()) == []
