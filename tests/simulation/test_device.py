"""A device file: strict reading, inheritance, and refusing instead of guessing."""

import copy
import pickle

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.errors import UserError
from fedknow_ray.simulation.device import FIGURE_KEYS, FIGURES, DeviceError, DeviceFileError, parse_device


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


def test_a_device_survives_pickling(content):
    """Devices travel to actors."""
    device = parse_device(content, "board.yaml")
    assert pickle.loads(pickle.dumps(device)) == device
    assert hash(device) == hash(copy.deepcopy(device))


def test_null_stays_unknown(content):
    device = parse_device(content, "board.yaml")
    assert (device.busy_w, device.idle_w, dict(device.utilisation)) == (None, 0.0, {"dense_cnn": 1.0, "small_cnn": 0.5})


def test_the_bandwidth_of_storage_may_be_left_out_and_is_unknown_then(content):
    """So that files from before there was such a number stay good."""
    assert parse_device(content, "board.yaml").storage_bandwidth_bytes_per_s is None
    device = parse_device(content | {"storage_bandwidth_bytes_per_s": figure(7)}, "board.yaml")
    assert device.storage_bandwidth_bytes_per_s == device.require("storage_bandwidth_bytes_per_s") == 7.0
    refused(content | {"storage_bandwidth_bytes_per_s": figure(0)}, "board.yaml: storage_bandwidth_bytes_per_s.value: ")


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


@pytest.fixture
def parent(content):
    return parse_device(content, "board.yaml")


def heir(parent, **entries):
    return parse_device({"name": "heir", "inherits": parent.name} | entries, "heir.yaml", parent)


def test_an_heir_has_all_that_it_does_not_give_itself(parent):
    device = heir(parent, title="Another board", busy_w=figure(7))
    assert (device.name, device.title, device.accelerator) == ("heir", "Another board", "cpu")
    assert (device.memory_bytes, device.busy_w, dict(device.utilisation)) == (1000, 7.0, dict(parent.utilisation))


def test_an_inherited_number_says_where_it_is_from_and_an_own_one_does_not(parent):
    figures = heir(parent, idle_w=figure(2)).figures
    assert figures["memory_bytes"].source == "inherited from board: a bench"
    assert figures["idle_w"].source == "a bench"


def test_a_chain_of_heirs_can_be_read_off_the_source(parent):
    last = parse_device({"name": "last", "inherits": "heir"}, "last.yaml", heir(parent))
    assert last.figures["memory_bytes"].source == "inherited from heir: inherited from board: a bench"


def test_null_takes_away_what_the_parent_has(parent):
    device = heir(parent, idle_w=None, utilisation={"small_cnn": None})
    assert (device.idle_w, dict(device.utilisation)) == (None, {"dense_cnn": 1.0})
    assert dict(heir(parent, utilisation=None).utilisation) == {}


def test_an_heir_is_read_as_strictly(parent):
    with pytest.raises(DeviceFileError, match=r"heir\.yaml: busy_watt: unknown key; did you mean 'busy_w'"):
        heir(parent, busy_watt=figure(3))
    with pytest.raises(DeviceFileError, match=r"heir\.yaml: idle_w\.basis: missing"):
        heir(parent, idle_w={"value": 3, "source": "a bench"})


def test_inherits_means_nothing_without_a_parent(content):
    refused(content | {"inherits": "other"}, "board.yaml: inherits: unknown key")


@given(st.sets(st.sampled_from(FIGURES)), st.sets(st.sampled_from(FIGURES)))
def test_each_number_is_the_heirs_own_or_its_parents(given_keys, null_keys):
    full = dict.fromkeys(FIGURES, figure(4)) | {"utilisation": dict.fromkeys(("dense_cnn", "small_cnn", "depthwise"))}
    parent = parse_device({"name": "board", "title": "B", "accelerator": "gpu"} | full, "board.yaml")
    device = heir(parent, **dict.fromkeys(given_keys, figure(8)), **dict.fromkeys(null_keys - given_keys))
    expected = {key: 8.0 if key in given_keys else 4.0 for key in FIGURES if key in given_keys or key not in null_keys}
    assert {key: found.value for key, found in device.figures.items()} == expected
    assert list(device.figures) == [key for key in FIGURE_KEYS if key in expected]


def test_a_fault_of_a_file_survives_pickling_in_its_parts():
    error = DeviceFileError("board.yaml", "idle_w", "must be a mapping")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.fault, again.exit_status) == (str(error), error.fault, 2)
