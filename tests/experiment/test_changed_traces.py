"""A run whose trace files have changed since is another run: it does not go on as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import TEXT, write_config

from fedknow_ray.experiment.checkpoint import checkpoint_path
from fedknow_ray.experiment.checkpoint_file import CheckpointError
from fedknow_ray.experiment.run import execute
from fedknow_ray.federation.boundary import Boundary

TRACE = "time_s,bytes_per_s\n0,100000\n5,50000\n"


def test_a_saved_run_does_not_go_on_over_another_trace_of_the_same_name(tmp_path: Path):
    trace, boundary = tmp_path / "up.csv", Boundary(0, True)
    trace.write_text(TRACE)
    config = write_config(tmp_path, TEXT + f"network: {{uplink_trace: {trace}}}\n")
    run = execute(config, backend="local", out=tmp_path / "one", save_at=[boundary], checkpoints=tmp_path)
    saved = checkpoint_path(tmp_path, boundary)
    again = execute(config, backend="local", out=tmp_path / "two", start_from=saved)
    assert again.summary is not None and run.summary is not None
    assert again.summary["parameters_sha256"] == run.summary["parameters_sha256"]
    trace.write_text(TRACE.replace("50000", "40000"))
    with pytest.raises(CheckpointError, match=r"traces_sha256: .* there, .* here"):
        execute(config, backend="local", out=tmp_path / "three", start_from=saved)
    assert not (tmp_path / "three").exists()


def test_a_run_without_traces_has_no_digest_of_them(tmp_path: Path):
    run = execute(write_config(tmp_path), backend="local", out=tmp_path / "run", durable=False)
    assert "traces_sha256" not in run.manifest["digests"]
