"""`fedknow-ray forecast`: its tables, its one line of JSON, and that a fault is one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedknow_ray.cli.app import app
from fedknow_ray.errors import UserError

TEXT = """\
seed: 1
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 3, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 1, client_fraction: 1.0, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 1}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return path


def forecast(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["forecast", *map(str, arguments)])


def test_the_tables_say_what_each_task_takes_and_what_fits(config: Path):
    done = forecast(config, "--methods", "fedavg,fedknow")
    assert done.exit_code == 0, done.output
    for words in ("fedavg: ", "fedknow: ", "of virtual time", "kept in memory", "jetson-nano: every visit fits"):
        assert words in done.output


def test_the_json_is_the_last_line(config: Path):
    done = forecast(config, "--json")
    told = json.loads(done.output.splitlines()[-1])
    (method,) = told["methods"]
    assert (method["method"], method["visits"], method["lost"]) == ("fedavg", 12, {})
    assert [task["task_index"] for task in method["tasks"]] == [0, 1]
    assert [device["device"] for device in method["memory"]] == ["jetson-nano", "raspberry-pi-4-4gb"]
    assert set(method["memory"][0]["peak_bytes"]) == {"train", "finish_task"}
    assert method["memory"][0]["stops_at"] is None


def test_a_board_that_evicts_is_told_with_the_task(config: Path, tmp_path: Path):
    paper = ["--methods", "fedknow", "--set", "method.variant=paper", "--set", "scenario.tasks=4"]
    paper += ["--set", "scenario.samples_per_client=10", "--set", "on_out_of_memory=evict_oldest_knowledge"]
    (roomy,) = json.loads(forecast(config, *paper, "--json").output.splitlines()[-1])["methods"]
    peaks = roomy["memory"][0]["peak_bytes"]["train"]
    assert roomy["memory"][0]["evicts_at"] is None
    figure = f"{{value: {(peaks[1] + peaks[2]) // 2}, basis: measured, source: a test}}"
    (tmp_path / "tight.yaml").write_text(f"name: tight\ninherits: jetson-nano\nmemory_bytes: {figure}\n")
    tight = ["--set", f"devices_path={tmp_path / 'tight.yaml'}", "--set", "fleet.0.device=tight"]
    done = forecast(config, *paper, *tight)
    assert "tight: evicts knowledge from task 2 on, of 2 past tasks by the last; every visit fits" in done.output
    assert done.output.count(" evicts ") == 2 + 1
    (told,) = json.loads(forecast(config, *paper, *tight, "--json").output.splitlines()[-1])["methods"]
    assert [told["memory"][0][key] for key in ("evicts_at", "stops_at", "evicted_tasks")] == [2, None, [0, 0, 1, 2]]


def test_a_measured_clock_is_refused(config: Path):
    done = forecast(config, "--set", "clock=measured", "--set", "host_device=jetson-nano")
    assert isinstance(done.exception, UserError)
    assert done.exception.exit_status == 2
