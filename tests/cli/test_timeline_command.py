"""`fedknow-ray timeline`: the file that it writes of a real run, its one line of JSON, and that torch stays out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from trace_format import check_trace

from fedknow_ray.cli.app import app
from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.experiment.run import execute

TEXT = """\
seed: 1
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 3, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 2, client_fraction: 1.0, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 1}]
availability: {name: duty_cycle, period_s: 10, on_s: 9, offset_s: random}
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timeline")
    (folder / "small.yaml").write_text(TEXT)
    return execute(folder / "small.yaml", {}, backend="local", out=folder / "run").path


def test_the_trace_of_a_run_is_written_into_its_directory(run_dir: Path):
    done = CliRunner().invoke(app, ["timeline", str(run_dir)])
    assert done.exit_code == 0, done.output
    assert done.output == f"{run_dir / 'timeline.json'}\n"
    events = check_trace(json.loads((run_dir / "timeline.json").read_text()))
    names = {event["name"] for event in events}
    assert {"download", "train", "optimize", "evaluate", "upload", "offline", "bytes in flight"} <= names


def test_the_json_counts_the_events(run_dir: Path):
    done = CliRunner().invoke(app, ["timeline", str(run_dir), "--json"])
    told = json.loads(done.output.splitlines()[-1])
    trace = json.loads((run_dir / "timeline.json").read_text())
    assert told == {
        "run_dir": str(run_dir),
        "timeline": str(run_dir / "timeline.json"),
        "events": len(trace["traceEvents"]),
        "virtual_time_s": json.loads((run_dir / "summary.json").read_text())["virtual_time_s"],
    }


def test_a_folder_that_is_no_run_is_one_message(tmp_path: Path):
    done = CliRunner().invoke(app, ["timeline", str(tmp_path)])
    assert isinstance(done.exception, RunDirectoryError)
    assert done.exception.exit_status == 2


@pytest.mark.program
def test_torch_stays_out(run_dir: Path):
    """As the program runs, in a process of its own; the last line tells what was loaded."""
    code = (
        "import sys; from fedknow_ray.__main__ import main; "
        f"sys.argv = ['fedknow-ray', 'timeline', {str(run_dir)!r}]; "
        "status = main(); print(status, 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"
