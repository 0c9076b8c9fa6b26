"""`fedknow-ray explain-time`: what it prints, its one line of JSON, and that it is quick because torch stays out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedknow_ray.cli.app import app
from fedknow_ray.experiment.run import execute
from fedknow_ray.report.visit_choice import NoSuchVisit

TEXT = """\
seed: 1
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 3, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 1, client_fraction: 1.0, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 1}]
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    (folder / "small.yaml").write_text(TEXT)
    return execute(folder / "small.yaml", {}, backend="local", out=folder / "run").path


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["explain-time", *map(str, arguments)])


def test_every_term_is_printed(run_dir: Path):
    done = explain(run_dir, "--client", 2, "--round", 1)
    assert done.exit_code == 0, done.output
    assert "client 2 (raspberry-pi-4-4gb), task 1, round 0 of it: train, ok, begun at " in done.output
    for word in ("optimize", "bound by", "download_s", "compute_s", "upload_s", "wait_s", "energy_j", "tinymembench"):
        assert word in done.output


def test_the_json_sums_up(run_dir: Path):
    done = explain(run_dir, "--client", 0, "--round", 1, "--task", 1, "--json")
    (visit,) = json.loads(done.output.splitlines()[-1])["visits"]
    assert (visit["kind"], visit["device"], visit["modelled"]) == ("finish_task", "jetson-nano", True)
    assert {item["phase"] for item in visit["items"]} == {"evaluate"}
    assert sum(item["seconds"] for item in visit["items"]) == visit["planned_s"] == visit["compute_s"]
    assert visit["busy_j"] + visit["idle_j"] == visit["energy_j"]
    assert visit["figures"]["busy_w"]["value"] == 10.0
    assert visit["upload"]["seconds"] == 0.0


def test_a_wrong_client_is_one_message(run_dir: Path):
    done = explain(run_dir, "--client", 3, "--round", 0)
    assert isinstance(done.exception, NoSuchVisit)
    assert done.exception.exit_status == 2
    assert str(done.exception) == "there is no client 3; the clients are 0 to 2"


def test_the_help_says_how_rounds_are_counted():
    assert "counted over the run" in " ".join(explain("--help").output.split())


@pytest.mark.program
def test_torch_stays_out(run_dir: Path):
    """As the program runs, in a process of its own; the last line tells what was loaded."""
    code = (
        "import sys; from fedknow_ray.__main__ import main; "
        f"sys.argv = ['fedknow-ray', 'explain-time', {str(run_dir)!r}, '--client', '0', '--round', '0', '--json']; "
        "status = main(); print(status, 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"
