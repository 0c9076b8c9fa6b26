"""Device profiles: the seven that ship, strict reading, and refusing instead of guessing."""

import copy
import pickle

import pytest
import yaml

from fedknow_ray.errors import UnknownNameError, UserError
from fedknow_ray.simulation.device import FIGURES, NETWORK_KINDS, DeviceError, DeviceLibrary, parse_device

LIBRARY = DeviceLibrary()
NAMES = [
    "jetson-agx-xavier",
    "jetson-nano",
    "jetson-tx2",
    "jetson-xavier-nx",
    "raspberry-pi-4-2gb",
    "raspberry-pi-4-4gb",
    "raspberry-pi-4-8gb",
]


def figure(value, **more):
    return {"value": value, "basis": "measured", "source": "a bench"} | more


@pytest.fixture
def content():
    """A complete device file, as YAML gives it."""
    return {
        "name": "board",
        "title": "A board",
        "accelerator": "cpu",
        "memory_bytes": figure(1000),
        "sustained_flops_per_s": figure(100),
        "memory_bandwidth_bytes_per_s": figure(10),
        "utilisation": {"dense_cnn": figure(1), "small_cnn": figure(0.5), "depthwise": None},
        "idle_w": figure(0),
        "busy_w": None,
        "step_overhead_s": None,
    }


def refused(content, message):
    with pytest.raises(DeviceError) as caught:
        parse_device(content, "board.yaml")
    assert str(caught.value).startswith(message)


def test_the_library_lists_the_seven_boards_in_order():
    assert LIBRARY.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped_profile_has_memory_rate_and_bandwidth(name):
    device = LIBRARY.get(name)
    assert device.memory_bytes is not None
    assert device.sustained_flops_per_s is not None
    assert device.memory_bandwidth_bytes_per_s is not None


@pytest.mark.parametrize("name", NAMES)
def test_shipped_profile_says_where_each_number_comes_from(name):
    device = LIBRARY.get(name)
    keys = [*FIGURES, *(f"utilisation.{kind}" for kind in NETWORK_KINDS)]
    known = [key for key in keys if key in device.figures]
    assert [device.require(key) for key in known] == [device.figures[key].value for key in known]
    assert all(device.figures[key].formula for key in known if device.figures[key].basis == "estimated")


def test_jetson_nano_has_the_rate_measured_by_its_source():
    """10.92 GFLOP an image at 10.3 to 11 images a second."""
    assert 10.92e9 * 10.3 <= LIBRARY.get("jetson-nano").require("sustained_flops_per_s") <= 10.92e9 * 11


def test_raspberry_pi_4_has_the_rate_measured_by_its_source():
    """218.37 s for 20 batches of 16 images of 10.92 GFLOP."""
    rate = LIBRARY.get("raspberry-pi-4-4gb").require("sustained_flops_per_s")
    assert rate == pytest.approx(20 * 16 * 10.92e9 / 218.37, rel=0.01)


def test_membership_does_not_need_a_readable_file(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [")
    library = DeviceLibrary(tmp_path)
    assert "broken" in library
    assert "board" not in library


def test_unknown_device_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown device 'jetson-nanoo'; did you mean 'jetson-nano'"):
        LIBRARY.get("jetson-nanoo")


def test_a_device_is_read_once(tmp_path, content):
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump(content))
    library = DeviceLibrary(tmp_path)
    first = library.get("board")
    file.unlink()
    assert library.get("board") is first


def test_file_that_is_not_yaml_is_named(tmp_path):
    (tmp_path / "board.yaml").write_text("name: [")
    with pytest.raises(DeviceError, match=r"board\.yaml: is not YAML"):
        DeviceLibrary(tmp_path).get("board")


def test_name_must_be_that_of_the_file(tmp_path, content):
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DeviceError, match=r"other\.yaml: name: must be the file's name, got 'board'"):
        DeviceLibrary(tmp_path).get("other")


def test_a_device_survives_pickling(content):
    """Devices travel to actors."""
    device = parse_device(content, "board.yaml")
    assert pickle.loads(pickle.dumps(device)) == device
    assert hash(device) == hash(copy.deepcopy(device))


def test_null_stays_unknown(content):
    device = parse_device(content, "board.yaml")
    assert (device.busy_w, device.idle_w, dict(device.utilisation)) == (None, 0.0, {"dense_cnn": 1.0, "small_cnn": 0.5})


def test_a_number_that_is_needed_and_absent_is_refused_by_device_and_key(content):
    device = parse_device(content, "board.yaml")
    with pytest.raises(UserError, match=r"device 'board' has no busy_w .* in board\.yaml, or choose another device"):
        device.require("busy_w")
    with pytest.raises(DeviceError, match=r"device 'board' has no utilisation\.depthwise"):
        device.require("utilisation.depthwise")


def test_unknown_kind_of_network_suggests_the_nearest(content):
    device = parse_device(content, "board.yaml")
    with pytest.raises(DeviceError, match="network of kind 'small_cn'; did you mean 'small_cnn'"):
        device.require("utilisation.small_cn")


@pytest.mark.parametrize("key", ["name", "accelerator", "idle_w", "utilisation"])
def test_missing_key_is_named(content, key):
    del content[key]
    refused(content, f"board.yaml: {key}: missing")


def test_missing_key_inside_a_number_is_named(content):
    del content["idle_w"]["source"]
    refused(content, "board.yaml: idle_w.source: missing")


def test_unknown_key_suggests_the_nearest(content):
    content["busy_watt"] = figure(3)
    refused(content, "board.yaml: busy_watt: unknown key; did you mean 'busy_w'?")


def test_unknown_kind_of_network_in_the_file_is_named(content):
    content["utilisation"]["huge_cnn"] = figure(1)
    refused(content, "board.yaml: utilisation.huge_cnn: unknown key")


def test_estimate_without_a_formula_is_refused(content):
    content["idle_w"]["basis"] = "estimated"
    refused(content, "board.yaml: idle_w.formula: missing; an estimated number states how it was computed")


def test_basis_is_measured_or_estimated(content):
    content["idle_w"]["basis"] = "guessed"
    refused(content, "board.yaml: idle_w.basis: must be 'measured' or 'estimated', got 'guessed'")


def test_accelerator_is_gpu_or_cpu(content):
    content["accelerator"] = "npu"
    refused(content, "board.yaml: accelerator: must be 'gpu' or 'cpu', got 'npu'")


@pytest.mark.parametrize("value", [-1, 0])
def test_a_rate_must_be_positive(content, value):
    content["sustained_flops_per_s"]["value"] = value
    refused(content, f"board.yaml: sustained_flops_per_s.value: must be greater than 0, got {value}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None])
def test_a_value_must_be_a_finite_number(content, value):
    content["memory_bandwidth_bytes_per_s"]["value"] = value
    refused(content, "board.yaml: memory_bandwidth_bytes_per_s.value: must be a finite number")


def test_an_exponent_that_yaml_takes_for_a_text_is_explained(content):
    content["sustained_flops_per_s"]["value"] = yaml.safe_load("1.15e11")
    with pytest.raises(DeviceError, match=r"got '1\.15e11'; write large numbers as"):
        parse_device(content, "board.yaml")


def test_memory_is_whole_bytes(content):
    content["memory_bytes"]["value"] = 0.5
    refused(content, "board.yaml: memory_bytes.value: must be whole bytes, got 0.5")


@pytest.mark.parametrize(("key", "value"), [("title", " "), ("title", 3), ("name", None)])
def test_a_text_must_say_something(content, key, value):
    content[key] = value
    refused(content, f"board.yaml: {key}: must be a text")


def test_a_bare_number_is_told_what_it_needs(content):
    content["busy_w"] = 5
    refused(content, "board.yaml: busy_w: must be a mapping with value, basis, source, got 5")


def test_an_empty_file_is_refused():
    refused(None, "board.yaml: must be a mapping with name, title")
