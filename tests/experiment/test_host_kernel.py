"""What the kernel says, from trees of files as it has them; what it does not say is None, and power is not invented."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedknow_ray.experiment.host_kernel import (
    EnergyMeter,
    SensorMeter,
    available_memory_bytes,
    largest_cache_bytes,
    power_meter,
    processor_name,
)
from fedknow_ray.runtime.timing import HostTime

TWO_SECONDS = HostTime(wall_s=2.0, cpu_s=1.0)


def put(root: Path, **files: str) -> Path:
    """Write files; their names have __ for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def rapl(root: Path, zone: str, energy: int, most: int = 1_000_000_000) -> Path:
    folder = f"sys/class/powercap/{zone}/"
    put(
        root,
        **{f"{folder}name": "package", f"{folder}energy_uj": str(energy), f"{folder}max_energy_range_uj": str(most)},
    )
    return root / folder


def test_memory_is_what_is_available(tmp_path: Path):
    put(tmp_path, proc__meminfo="MemTotal:       2000 kB\nMemAvailable:   1000 kB\nSwapFree:  5 kB")
    assert available_memory_bytes(tmp_path) == 1_024_000


def test_memory_is_bounded_by_the_control_groups_around_the_process(tmp_path: Path):
    put(tmp_path, proc__meminfo="MemAvailable:   1000 kB")
    put(tmp_path, proc__self__cgroup="0::/outer/inner")
    groups = tmp_path / "sys/fs/cgroup"
    put(groups / "outer/inner", **{"memory.max": "max", "memory.current": "5"})
    put(groups / "outer", **{"memory.max": "700000", "memory.current": "100000"})
    assert available_memory_bytes(tmp_path) == 600_000


def test_a_kernel_that_says_nothing_gives_none(tmp_path: Path):
    assert available_memory_bytes(tmp_path) is None
    assert largest_cache_bytes(tmp_path) == 0
    assert processor_name(tmp_path)


def test_the_largest_cache_counts(tmp_path: Path):
    put(tmp_path / "sys/devices/system/cpu/cpu0/cache", index0__size="32K", index2__size="512K", index3__size="8M")
    assert largest_cache_bytes(tmp_path) == 8 * 2**20


def test_the_processor_is_named_as_the_kernel_has_it(tmp_path: Path):
    assert (
        processor_name(put(tmp_path, proc__cpuinfo="processor : 0\nmodel name\t: A Chip @ 2 GHz")) == "A Chip @ 2 GHz"
    )


def test_energy_counters_give_the_mean_watts_of_an_action(tmp_path: Path):
    """Package 0 goes from 1 J to 21 J, package 1 from 900 J over its end at 1,000 J to 10 J: 130 J in 2 s."""
    zones = [rapl(tmp_path, "intel-rapl:0", 1_000_000), rapl(tmp_path, "intel-rapl:1", 900_000_000)]
    rapl(tmp_path, "intel-rapl:0:0", 5)

    def work() -> HostTime:
        rapl(tmp_path, "intel-rapl:0", 21_000_000)
        rapl(tmp_path, "intel-rapl:1", 10_000_000)
        return TWO_SECONDS

    meter = power_meter(tmp_path)
    assert isinstance(meter, EnergyMeter)
    assert meter.watch(work) == (TWO_SECONDS, pytest.approx(65.0))
    assert "processor packages, not the whole machine" in meter.source
    assert len(zones) == 2


def test_a_sensor_of_the_machine_is_read_while_something_is_done(tmp_path: Path):
    put(tmp_path / "sys/class/hwmon/hwmon1", name="ina2xx", power1_input="4500000")
    meter = power_meter(tmp_path)
    assert isinstance(meter, SensorMeter)
    assert meter.watch(lambda: TWO_SECONDS) == (TWO_SECONDS, 4.5)
    assert meter.source == "hwmon sensor power1_input of ina2xx, 10 Hz"


def test_a_graphics_cards_sensor_is_not_the_machines(tmp_path: Path):
    put(tmp_path / "sys/class/hwmon/hwmon0", name="amdgpu", power1_average="9000000")
    meter = power_meter(tmp_path)
    assert meter.watch(lambda: TWO_SECONDS).watts is None
    assert meter.source.startswith("the kernel exposes no power")


def test_counters_that_may_not_be_read_give_no_watts(tmp_path: Path):
    """As for users other than root: the file is there, and reading it is refused. A folder in its place refuses too."""
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").mkdir(parents=True)
    meter = power_meter(tmp_path)
    assert meter.watch(lambda: TWO_SECONDS).watts is None
    assert "1 energy counters and 0 sensors, of which this user may read 0 and 0" in meter.source
