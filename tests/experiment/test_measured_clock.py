"""A run whose seconds come from the host's processor seconds, by a calibrated profile of the host."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import TEXT, write_config

from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.run import execute, read_config

HOST = """\
name: my-host
inherits: jetson-nano
title: This machine, said to be ten times a Jetson Nano
sustained_flops_per_s: {value: 1_150_000_000_000, basis: measured, source: made up for this test}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "my-host.yaml").write_text(HOST)
    own = f"devices_path: {tmp_path / 'my-host.yaml'}\nclock: measured\nhost_device: my-host\n"
    return write_config(tmp_path, TEXT + own)


def test_a_visits_seconds_are_the_hosts_by_the_ratio_of_the_rates(config: Path, tmp_path: Path):
    """Nano: 115e9 x 0.5; Raspberry Pi 4: its own rate x utilisation; the host 1150e9 x 0.5."""
    run = execute(config, backend="local", out=tmp_path / "run")
    devices = run.manifest["devices"]
    rates = {
        name: devices[name]["figures"]["sustained_flops_per_s"]["value"]
        * devices[name]["figures"]["utilisation.small_cnn"]["value"]
        for name in ("jetson-nano", "raspberry-pi-4-4gb")
    }
    visits = run.visits.to_pylist()
    assert {visit["device"] for visit in visits} == set(rates)
    for visit in visits:
        assert visit["compute_s"] == pytest.approx(visit["host_cpu_s"] * 1150e9 * 0.5 / rates[visit["device"]])
        assert visit["download_s"] > 1 and visit["status"] == "ok"
    last = max(run.rounds.to_pylist(), key=lambda row: row["end_s"])
    own = [v for v in visits if (v["task_index"], v["kind"]) == (last["task_index"], "train")]
    ends_s = [v["start_s"] + v["download_s"] + v["compute_s"] + v["upload_s"] for v in own]
    assert max(ends_s) == pytest.approx(last["end_s"])


def test_what_is_trained_does_not_depend_on_the_clock(config: Path, tmp_path: Path):
    measured = execute(config, backend="local", out=tmp_path / "measured")
    virtual = execute(config, {"clock": "virtual", "host_device": None}, backend="local", out=tmp_path / "virtual")
    assert measured.summary and virtual.summary
    assert measured.summary["parameters_sha256"] == virtual.summary["parameters_sha256"]
    assert measured.accuracy == virtual.accuracy
    assert measured.summary["upload_bytes"] == virtual.summary["upload_bytes"]


def test_a_client_whose_visit_was_made_and_lost_hears_its_past_tasks_again(config: Path, tmp_path: Path):
    """Its next visit is planned as its first one in the task, and the work counted is what was planned."""
    failing = {"failures.schedule": [{"client": 0, "task": 1, "round": 0, "at": 0.5}]}
    often = {"method": {"name": "fedknow"}, "training.client_fraction": 1.0, "training.rounds_per_task": 2}
    run = execute(config, {**failing, **often}, backend="local", out=tmp_path / "run")
    assert run.visits["status"].to_pylist().count("failed") == 1


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"host_device": None}, "host_device: clock: measured needs the device file of this host"),
        ({"clock": "virtual"}, "host_device: 'my-host' is for clock: measured; the clock is virtual"),
        ({"host_device": "my-hots"}, "host_device: unknown device 'my-hots'; did you mean 'my-host'?"),
    ],
)
def test_a_clock_without_its_host_is_refused(config: Path, overrides: dict[str, object], told: str):
    with pytest.raises(ConfigError) as caught:
        read_config(config, overrides)
    assert told in str(caught.value)
