"""The measured clock beside the virtual one, on this machine calibrated as it is: the error is told, not hidden.

`python -m pytest -m slow -s tests/experiment/test_both_clocks.py` prints the seconds of both and their difference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from small import write_config

from fedknow_ray.cli.app import app
from fedknow_ray.experiment.catalogue import devices_with
from fedknow_ray.experiment.run import execute
from fedknow_ray.simulation.cost import compute_s
from fedknow_ray.simulation.work import Work, WorkItem

CONFIG = """\
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 5, clients: 3, samples_per_client: 120, partition: {name: iid}}
model: {name: cnn6}
method: {name: fedknow}
training: {rounds_per_task: 2, client_fraction: 1.0, local_epochs: 2, batch_size: 20}
fleet: [{device: this-host, count: 3}]
clock: measured
host_device: this-host
"""


@pytest.mark.slow
def test_both_clocks_tell_the_same_of_training_on_this_machine(
    tmp_path: Path, record_property: Callable[[str, object], None]
):
    """The bound is wide, since other programs may be at work; the figure is what the test is for."""
    device_file = tmp_path / "this-host.yaml"
    CliRunner().invoke(app, ["calibrate", "--out", str(device_file), "--quiet"], standalone_mode=False)
    config = write_config(tmp_path, CONFIG + f"devices_path: {device_file}\n")
    run = execute(config, backend="local", out=tmp_path / "run")
    device = devices_with(device_file).get("this-host")
    trained = [row for row in run.visits.to_pylist() if row["kind"] == "train"]
    measured_s = sum(row["compute_s"] for row in trained)
    virtual_s = sum(
        compute_s(Work(tuple(WorkItem(**step) for step in row["work"])), device, "small_cnn") for row in trained
    )
    error_percent = 100 * (virtual_s / measured_s - 1)
    record_property("virtual_clock_error_percent", error_percent)
    seconds = f"measured {measured_s:.2f} s, virtual {virtual_s:.2f} s, {error_percent:+.1f} %"
    print(f"\n{len(trained)} training visits: {seconds}")
    assert len(trained) == 12
    assert 1 / 3 < virtual_s / measured_s < 3
