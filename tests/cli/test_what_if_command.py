"""`fedknow-ray what-if`: what it prints, its one line of JSON, its statuses, and that torch stays out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedknow_ray.cli.app import app
from fedknow_ray.experiment.run import execute

TEXT = """\
seed: 1
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 3, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedknow}
training: {rounds_per_task: 1, client_fraction: 1.0, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 1}]
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    (folder / "small.yaml").write_text(TEXT)
    return execute(folder / "small.yaml", {}, backend="local", out=folder / "run").path


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["what-if", *map(str, arguments)])


def test_recorded_and_replayed_stand_side_by_side(run_dir: Path):
    done = ask(run_dir, "--set", "network.uplink_bytes_per_s=2e6", "--set", "fleet.1.device=jetson-tx2")
    assert done.exit_code == 0, done.output
    assert "network.uplink_bytes_per_s: 2000000.0 in place of 1000000.0" in done.output
    assert "the accuracies stand" in done.output
    for word in ("recorded", "replayed", "virtual time", "waiting", "jetson-nano", "raspberry-pi-4-4gb", "jetson-tx2"):
        assert word in done.output


def test_the_json_has_the_answer(run_dir: Path, tmp_path: Path):
    done = ask(run_dir, "--set", "network.latency_s=1", "--json", "--out", tmp_path / "out")
    answer = json.loads(done.output.splitlines()[-1])
    assert (answer["valid"], answer["reason"]) == (True, None)
    assert answer["changes"] == {"network.latency_s": [0.02, 1.0]}
    recorded, replayed = answer["recorded"], answer["replayed"]
    # 12 visits download and 6 upload, each with 0.98 s more of latency
    assert replayed["download_s"] - recorded["download_s"] == pytest.approx(12 * 0.98)
    assert replayed["upload_s"] - recorded["upload_s"] == pytest.approx(6 * 0.98)
    # one round and one end in each of 2 tasks
    assert replayed["virtual_time_s"] - recorded["virtual_time_s"] == pytest.approx(2 * 3 * 0.98)
    assert replayed["devices"]["jetson-nano"]["visits"] == 8
    assert (
        json.loads((Path(answer["out"]) / "summary.json").read_text())["virtual_time_s"] == replayed["virtual_time_s"]
    )


def test_retraining_is_an_answer_without_times(run_dir: Path, tmp_path: Path):
    arguments = (run_dir, "--set", "training.local_epochs=2", "--out", tmp_path / "out")
    done = ask(*arguments)
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == "retraining is needed: training.local_epochs decides what is learnt"
    answer = json.loads(ask(*arguments, "--json").output.splitlines()[-1])
    assert (answer["valid"], answer["replayed"], answer["out"]) == (False, None, None)
    assert not (tmp_path / "out").exists()


def test_a_wrong_key_is_one_message(run_dir: Path):
    done = ask(run_dir, "--set", "network.uplink=3")
    assert getattr(done.exception, "exit_status", None) == 2
    assert "network.uplink" in str(done.exception)


@pytest.mark.program
def test_torch_stays_out(run_dir: Path):
    """As the program runs, in a process of its own; the last line tells what was loaded."""
    code = (
        "import sys; from fedknow_ray.__main__ import main; "
        f"sys.argv = ['fedknow-ray', 'what-if', {str(run_dir)!r}, '--set', 'network.latency_s=1', '--json']; "
        "status = main(); print(status, 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"
