"""`fedknow-ray scale` as a person runs it: interrupted, continued, one object, tables, and wrong options."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from fedknow_ray.cli.app import app
from fedknow_ray.cli.scale import growth_table, points_table
from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.scale_config import Axes, PointId
from fedknow_ray.metrics.growth import Fit, Slope
from fedknow_ray.report.scale_measures import MEASURES, PointFigures, ScaleFigures

CONFIG = """\
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 2, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 1, client_fraction: 1, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 1}, {device: jetson-tx2, count: 1}]
"""
GRID = ["scale", "tiny.yaml", "--clients", "1,2", "--tasks", "1,2", "--jobs", "1", "--out", "grid", "--json"]


def command(folder: Path) -> list[str]:
    (folder / "tiny.yaml").write_text(CONFIG)
    return [sys.executable, "-m", "fedknow_ray", *GRID]


def without_host(told: dict[str, Any]) -> dict[str, Any]:
    """What a seed decides: all but the seconds of this host."""
    points = [{key: value for key, value in point.items() if key != "host_cpu_s"} for point in told["points"]]
    fits = [fit for fit in told["fits"] if fit["measure"] != "host_cpu_s"]
    return {**told, "points": points, "fits": fits}


@pytest.mark.program
@pytest.mark.slow
def test_interrupted_and_continued_it_says_the_same_as_in_one_go(tmp_path: Path):
    """Ctrl-C as soon as one run is there: status 130; the same command makes the others, and no run twice."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        folder.mkdir()
    whole = subprocess.run(command(once), cwd=once, capture_output=True, text=True, timeout=600, check=False)
    assert whole.returncode == 0, whole.stderr
    assert [line for line in whole.stderr.splitlines() if line.startswith("4/4")] == [
        "4/4 fedavg, 1 client, 1 task: done"
    ]

    begun = subprocess.Popen(
        command(twice), cwd=twice, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    first = twice / "grid" / "runs" / "fedavg-2-clients-2-tasks" / "summary.json"
    end = time.monotonic() + 300
    while not first.exists():
        assert time.monotonic() < end and begun.poll() is None
        time.sleep(0.05)
    begun.send_signal(signal.SIGINT)
    _, errors = begun.communicate(timeout=60)
    assert begun.returncode == 130, errors
    assert "Traceback" not in errors

    made = first.stat().st_mtime_ns
    done = subprocess.run(command(twice), cwd=twice, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "of them there" in done.stderr
    assert first.stat().st_mtime_ns == made
    told = [json.loads(run.stdout.splitlines()[-1]) for run in (whole, done)]
    assert without_host(told[0]) == without_host(told[1])
    assert [point["made"] for point in told[1]["points"]] == [True] * 4
    assert {point["clients"]: point["sent_bytes"] for point in told[1]["points"] if point["tasks"] == 1} == {
        clients: clients * told[1]["points"][0]["sent_bytes"] for clients in (1, 2)
    }


def test_faults_of_all_options_end_it_before_anything_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(CONFIG)
    options = ["--clients", "2,two", "--tasks", "9,1", "--methods", "fedavgg", "--out", "grid"]
    done = CliRunner().invoke(app, ["scale", "tiny.yaml", *options])
    assert isinstance(done.exception, ConfigError)
    assert done.exception.exit_status == 2
    assert len(done.exception.faults) == 2
    assert not Path("grid").exists()


@pytest.mark.parametrize("left_out", ["--clients", "--tasks", "--out"])
def test_options_that_a_grid_needs(left_out: str):
    place = GRID.index(left_out)
    done = CliRunner().invoke(app, [*GRID[:place], *GRID[place + 2 :]])
    assert done.exit_code == 2
    assert f"Missing option '{left_out}'" in done.output


def shown(table: Any) -> list[str]:
    console = Console(width=220, record=True, file=StringIO())
    console.print(table)
    return [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]


def test_tables_have_a_line_for_each_point_and_for_each_figure():
    values = dict.fromkeys(MEASURES, 0.5) | {"virtual_time_s": 90.0, "sent_bytes": 2_000_000, "energy_j": None}
    points = (PointFigures(PointId("fedavg", 2, 1), "runs/a", values), PointFigures(PointId("fedavg", 4, 1), "runs/b"))
    fits = {("fedavg", measure): Fit("power", 2, note="one point") for measure in MEASURES}
    fits["fedavg", "sent_bytes"] = Fit("power", 4, 1.0, Slope(1.0, 0.9, 1.1), None, 0.99)
    figures = ScaleFigures("tiny", Axes((2, 4), (1,)), ("fedavg",), points, fits)
    lines = shown(points_table(figures))
    assert any(line.startswith("fedavg 2 1 1 min 30 s") and "2.00 MB" in line for line in lines)
    assert f"fedavg 4 1 {' '.join('-' * 11)}" in lines
    lines = shown(growth_table(figures, Path("grid/scale.html")))
    assert "Bytes sent, both ways fedavg 1.00 [0.90, 1.10] - 0.990 4" in lines
    assert "Energy of all visits fedavg - - - 2 one point" in lines
    assert "page grid/scale.html" in lines
