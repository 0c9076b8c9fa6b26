"""The file of a calibrated machine is one that the device library reads, with every number and its source."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fedknow_ray.simulation.calibrated_profile import Reading, profile_content, profile_text, rounded
from fedknow_ray.simulation.calibration import Fit
from fedknow_ray.simulation.device import parse_device
from fedknow_ray.simulation.device_library import DeviceLibrary

FIT = Fit(
    sustained_flops_per_s=51_234_567_890.0,
    memory_bandwidth_bytes_per_s=9_876_543_210.0,
    step_overhead_s=0.000_123_456,
    utilisation={"dense_cnn": 1.0, "small_cnn": 0.912_345},
)
HOW = {
    "sustained_flops_per_s": "ResNet-18, here",
    "memory_bandwidth_bytes_per_s": "copy: 128 MiB",
    "step_overhead_s": "a tiny step # and no more",
    "utilisation.dense_cnn": "by definition",
    "utilisation.small_cnn": "cnn6, here",
}
READINGS = {
    "memory_bytes": Reading(3_892_314_113, "MemAvailable"),
    "idle_w": Reading(None, "the kernel shows no power"),
    "busy_w": Reading(7.25, "RAPL"),
}
CONTENT = profile_content("my-board", "My board: a test", FIT, HOW, READINGS)


def test_the_device_library_reads_the_file(tmp_path: Path):
    path = tmp_path / "my-board.yaml"
    path.write_text(profile_text(CONTENT, ["Calibrated.", "", "error: 3 %"]), encoding="utf-8")
    device = DeviceLibrary().with_own(path).get("my-board")
    assert (device.title, device.accelerator) == ("My board: a test", "cpu")
    assert device.sustained_flops_per_s == 51_230_000_000
    assert device.memory_bandwidth_bytes_per_s == 9_877_000_000
    assert device.step_overhead_s == 0.0001235
    assert device.utilisation == {"dense_cnn": 1.0, "small_cnn": 0.9123}
    assert (device.memory_bytes, device.idle_w, device.busy_w) == (3_892_314_113, None, 7.25)
    assert {figure.basis for figure in device.figures.values()} == {"measured"}
    assert device.figures["step_overhead_s"].source == "a tiny step # and no more"


def test_the_content_is_what_its_text_says():
    text = profile_text(CONTENT, ["Calibrated.", "", "error: 3 %"])
    assert text.startswith("# Calibrated.\n#\n# error: 3 %\nname: my-board\n")
    assert yaml.safe_load(text) == CONTENT
    assert parse_device(CONTENT, "here").name == "my-board"


def test_what_nobody_measured_is_null():
    assert CONTENT["idle_w"] is None
    assert CONTENT["utilisation"]["depthwise"] is None


def test_a_number_of_the_fit_needs_its_source():
    with pytest.raises(KeyError, match=r"utilisation\.small_cnn"):
        profile_content("b", "B", FIT, {key: HOW[key] for key in HOW if key != "utilisation.small_cnn"}, {})


@pytest.mark.parametrize(
    ("value", "short"),
    [(0.0, 0.0), (1.0, 1.0), (0.99996, 1.0), (5.0e-5, 5.0e-5), (123456.0, 123500), (99999.0, 100000)],
)
def test_numbers_keep_four_digits(value: float, short: float):
    assert rounded(value) == short
