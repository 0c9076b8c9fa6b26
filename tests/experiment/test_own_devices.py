"""A run on devices of the user's own: from the config's `devices_path` to a run directory that needs them no more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small import TEXT, write_config

from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.checkpoint import checkpoint_path
from fedknow_ray.experiment.checkpoint_file import CheckpointError
from fedknow_ray.experiment.run import execute, read_config
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.report import write_report
from fedknow_ray.results.run import load
from fedknow_ray.simulation.device import DeviceError

HALF = """\
name: half-nano
inherits: jetson-nano
title: Half a Jetson Nano
sustained_flops_per_s: {value: 57_500_000_000, basis: estimated, source: jetson-nano, formula: 115e9 / 2}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the small config with an own device, that lies beside it, in place of the Jetson Nano."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "half-nano.yaml").write_text(HALF)
    text = TEXT.replace("jetson-nano", "half-nano") + f"devices_path: {tmp_path / 'own'}\n"
    return write_config(tmp_path, text)


def test_the_report_of_a_run_needs_the_device_files_no_more(config: Path, tmp_path: Path):
    run = execute(config, backend="local", out=tmp_path / "run")
    shutil.rmtree(tmp_path / "own")
    page = write_report(load(run.path)).read_text(encoding="utf-8")
    assert "half-nano" in page
    figures = run.manifest["devices"]["half-nano"]["figures"]
    assert figures["sustained_flops_per_s"]["value"] == 57.5e9
    assert figures["busy_w"]["source"].startswith("inherited from jetson-nano: ")
    assert "sustained_flops_per_s" in run.manifest["estimated_device_fields"]["half-nano"]


def test_a_device_whose_storage_is_not_known_trains_fedavg_but_not_fedknow(config: Path, tmp_path: Path):
    (tmp_path / "own" / "half-nano.yaml").write_text(HALF + "storage_bandwidth_bytes_per_s: null\n")
    execute(config, backend="local", out=tmp_path / "run")
    with pytest.raises(DeviceError, match="device 'half-nano' has no storage_bandwidth_bytes_per_s"):
        execute(config, {"method": {"name": "fedknow"}}, backend="local", out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_fault_of_an_own_device_is_one_of_the_config(config: Path, tmp_path: Path):
    file = tmp_path / "own" / "half-nano.yaml"
    file.write_text(HALF.replace("estimated", "guessed"))
    with pytest.raises(ConfigError) as caught:
        read_config(config)
    told = f"  {file}: sustained_flops_per_s.basis: must be 'measured' or 'estimated', got 'guessed'"
    assert str(caught.value).splitlines() == ["the config has 1 fault:", told]
    assert caught.value.exit_status == 2


def test_a_saved_run_does_not_go_on_with_other_numbers(config: Path, tmp_path: Path):
    boundary = Boundary(0, True)
    execute(config, backend="local", out=tmp_path / "one", save_at=[boundary], checkpoints=tmp_path)
    (tmp_path / "own" / "half-nano.yaml").write_text(HALF.replace("57_500_000_000", "50_000_000_000"))
    with pytest.raises(CheckpointError, match="devices_sha256"):
        execute(config, backend="local", out=tmp_path / "two", start_from=checkpoint_path(tmp_path, boundary))
