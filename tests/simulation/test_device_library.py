"""The library of devices: those that ship, a user's own beside them, and who inherits from whom."""

import pytest
import yaml

from fedknow_ray.errors import ConfigError, UnknownNameError
from fedknow_ray.simulation.device import FIGURE_KEYS, FIGURES, NETWORK_KINDS, DeviceError
from fedknow_ray.simulation.device_library import DeviceLibrary

LIBRARY = DeviceLibrary()
NAMES = [
    "jetson-agx-xavier",
    "jetson-nano",
    "jetson-orin-nano-8gb",
    "jetson-tx2",
    "jetson-xavier-nx",
    "laptop-i3-1315u",
    "phone-snapdragon-778g",
    "raspberry-pi-4-2gb",
    "raspberry-pi-4-4gb",
    "raspberry-pi-4-8gb",
    "raspberry-pi-5-8gb",
    "server-a100-80gb",
]


@pytest.fixture
def content():
    """A device file of which no number is known, as YAML gives it."""
    unknown = dict.fromkeys(FIGURES) | {"utilisation": dict.fromkeys(NETWORK_KINDS)}
    return {"name": "board", "title": "A board", "accelerator": "cpu", **unknown}


def write(folder, file, /, **entries):
    path = folder / f"{file}.yaml"
    path.write_text(yaml.safe_dump({"name": file} | entries))
    return path


def own_faults(path):
    with pytest.raises(ConfigError) as caught:
        LIBRARY.with_own(path)
    return [str(fault).replace(f"{path}/", "") for fault in caught.value.faults]


def test_the_library_lists_the_shipped_devices_in_order():
    assert LIBRARY.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped_profile_has_all_that_every_method_needs(name):
    device = LIBRARY.get(name)
    assert device.memory_bytes is not None
    assert device.sustained_flops_per_s is not None
    assert device.memory_bandwidth_bytes_per_s is not None
    assert device.storage_bandwidth_bytes_per_s is not None
    assert device.step_overhead_s is not None


@pytest.mark.parametrize(
    ("name", "rating"),
    [
        ("jetson-nano", 1578),
        ("jetson-tx2", 1977),
        ("jetson-agx-xavier", 2742),
        ("raspberry-pi-4-4gb", 1661),
        ("raspberry-pi-5-8gb", 3305),
        ("phone-snapdragon-778g", 3827),
        ("laptop-i3-1315u", 4398),
    ],
)
def test_the_overhead_is_scaled_by_the_boards_7_zip_rating(name, rating):
    """Half of 2.54 ms on a core of 2660, to two digits."""
    overhead_s = 2.54e-3 / 2 * 2660 / rating
    assert LIBRARY.get(name).require("step_overhead_s") == pytest.approx(overhead_s, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_profile_says_where_each_number_comes_from(name):
    device = LIBRARY.get(name)
    known = [key for key in FIGURE_KEYS if key in device.figures]
    assert [device.require(key) for key in known] == [device.figures[key].value for key in known]
    assert all(device.figures[key].formula for key in known if device.figures[key].basis == "estimated")


def test_jetson_nano_has_the_rate_measured_by_its_source():
    """10.92 GFLOP an image at 10.3 to 11 images a second."""
    assert 10.92e9 * 10.3 <= LIBRARY.get("jetson-nano").require("sustained_flops_per_s") <= 10.92e9 * 11


def test_raspberry_pi_4_has_the_rate_measured_by_its_source():
    """218.37 s for 20 batches of 16 images of 10.92 GFLOP."""
    rate = LIBRARY.get("raspberry-pi-4-4gb").require("sustained_flops_per_s")
    assert rate == pytest.approx(20 * 16 * 10.92e9 / 218.37, rel=0.01)


def test_raspberry_pi_5_has_the_rates_measured_by_its_source():
    """116.85 s for 20 batches of 16 images of 10.92 GFLOP; 144.35 s where an image is 1.89 GFLOP."""
    pi = LIBRARY.get("raspberry-pi-5-8gb")
    rate = pi.require("sustained_flops_per_s")
    assert rate == pytest.approx(20 * 16 * 10.92e9 / 116.85, rel=0.01)
    assert rate * pi.require("utilisation.depthwise") == pytest.approx(20 * 16 * 1.89e9 / 144.35, rel=0.01)


@pytest.mark.parametrize(("name", "hpl_gflops"), [("phone-snapdragon-778g", 48.4), ("laptop-i3-1315u", 64.555)])
def test_a_cpu_without_a_training_benchmark_is_scaled_by_linpack_from_the_raspberry_pi_5(name, hpl_gflops):
    pi = LIBRARY.get("raspberry-pi-5-8gb").require("sustained_flops_per_s")
    assert LIBRARY.get(name).require("sustained_flops_per_s") == pytest.approx(pi * hpl_gflops / 35.2, rel=0.01)


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


def test_own_devices_stand_beside_the_shipped_ones(tmp_path, content):
    write(tmp_path, "board", **content)
    library = LIBRARY.with_own(tmp_path)
    assert library.names() == sorted([*LIBRARY.names(), "board"])
    assert library.get("board").title == "A board"
    assert library.get("jetson-nano") == LIBRARY.get("jetson-nano")
    assert "board" not in LIBRARY


def test_one_file_is_enough_and_its_neighbours_are_not_taken(tmp_path, content):
    write(tmp_path, "other", **content | {"name": "other"})
    assert LIBRARY.with_own(write(tmp_path, "board", **content)).names() == sorted([*LIBRARY.names(), "board"])


def test_own_devices_inherit_from_shipped_ones_and_from_each_other(tmp_path):
    watts = {"value": 5, "basis": "measured", "source": "a power meter"}
    write(tmp_path, "slow", inherits="quiet", sustained_flops_per_s=None)
    write(tmp_path, "quiet", inherits="jetson-nano", busy_w=watts)
    slow, nano = LIBRARY.with_own(tmp_path).get("slow"), LIBRARY.get("jetson-nano")
    assert (slow.busy_w, slow.sustained_flops_per_s, slow.memory_bytes) == (5.0, None, nano.memory_bytes)
    assert slow.figures["busy_w"].source == "inherited from quiet: a power meter"
    assert slow.figures["idle_w"].source.startswith("inherited from quiet: inherited from jetson-nano: tegrastats")


def test_the_name_of_a_shipped_device_is_refused(tmp_path):
    write(tmp_path, "jetson-nano", inherits="jetson-tx2")
    assert own_faults(tmp_path) == [
        "jetson-nano.yaml: name: there is a device 'jetson-nano' already; call the file and its device something else"
    ]


def test_a_fault_of_each_file_is_told_at_once(tmp_path, content):
    write(tmp_path, "one", inherits="jetson-nano", busy_watt=3)
    write(tmp_path, "two", **content | {"name": "board"})
    (tmp_path / "three.yaml").write_text("name: [")
    (tmp_path / "four.yaml").write_bytes(b"name: \xff")
    four, one, three, two = own_faults(tmp_path)
    assert one == "one.yaml: busy_watt: unknown key; did you mean 'busy_w'?"
    assert two == "two.yaml: name: must be the file's name, got 'board'"
    assert three.startswith("three.yaml: is not YAML: ")
    assert "\n" not in three
    assert four.startswith("four.yaml: is not UTF-8 text")


def test_a_fault_of_a_parent_is_told_once_and_of_its_own_file(tmp_path, content):
    write(tmp_path, "parent", **content | {"name": "parent", "accelerator": "npu"})
    write(tmp_path, "heir", inherits="parent")
    assert own_faults(tmp_path) == ["parent.yaml: accelerator: must be 'gpu' or 'cpu', got 'npu'"]


def test_an_unknown_parent_suggests_the_nearest(tmp_path):
    write(tmp_path, "board", inherits="jetson-nanoo")
    assert own_faults(tmp_path) == ["board.yaml: inherits: unknown device 'jetson-nanoo'; did you mean 'jetson-nano'?"]


@pytest.mark.parametrize("parent", [None, 3, ["jetson-nano"]])
def test_a_parent_is_a_name(tmp_path, parent):
    write(tmp_path, "board", inherits=parent)
    (fault,) = own_faults(tmp_path)
    assert fault.startswith(f"board.yaml: inherits: unknown device {parent!r}")


def test_a_circle_is_refused_with_all_that_stand_in_it(tmp_path):
    for name, parent in (("a", "b"), ("b", "c"), ("c", "b"), ("d", "d")):
        write(tmp_path, name, inherits=parent)
    told = own_faults(tmp_path)
    assert "c.yaml: inherits: goes round in a circle (b -> c -> b); take one of them out" in told
    assert "d.yaml: inherits: goes round in a circle (d -> d); take one of them out" in told


def test_a_path_without_device_files_is_refused(tmp_path):
    text = tmp_path / "board.txt"
    text.write_text("name: board")
    assert own_faults(tmp_path / "none") == [
        f"{tmp_path}/none: there is no such file or folder; give a folder of device files, or one of them"
    ]
    assert own_faults(text) == [f"{text}: is no device file; its name must end in .yaml"]
    assert own_faults(tmp_path) == [f"{tmp_path}: there is no device file in this folder; the names must end in .yaml"]
