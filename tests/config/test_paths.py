"""Which files a config names."""

from __future__ import annotations

from pathlib import Path

from fedknow_ray.config.paths import named_paths, trace_paths
from fedknow_ray.experiment.run import read_config


def test_paths_are_found_wherever_they_are_in_a_config() -> None:
    plain = {"a": Path("x"), "b": [{"c": Path("y")}, 1], "d": ({"e": None},)}
    assert list(named_paths(plain)) == [("a", Path("x")), ("b.0.c", Path("y"))]


def test_the_traces_of_a_config_are_named_and_its_data_and_devices_are_not(tmp_path: Path):
    """Of links, of the fleet's entries, of availability and of arriving tasks."""
    file = tmp_path / "a.yaml"
    file.write_text(
        "scenario: {dataset: digits, source: bundled, data_root: /data, tasks: 2, classes_per_task: 2, clients: 2}\n"
        "method: {name: fedavg}\n"
        "network: {uplink_trace: up.csv}\n"
        "availability: {name: trace, file: there.csv}\n"
        "fleet: [{device: jetson-nano, count: 2, downlink_trace: down.csv}]\n"
    )
    for each in ("up.csv", "there.csv", "down.csv"):
        (tmp_path / each).touch()
    assert trace_paths(read_config(file)) == {
        "network.uplink_trace": Path("up.csv"),
        "availability.file": Path("there.csv"),
        "fleet.0.downlink_trace": Path("down.csv"),
    }
