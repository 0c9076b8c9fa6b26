"""What the kernel says of this machine: memory that is free, the size of the caches, the processor's name, power.

A number that it does not say is None, with the reason where it goes into a profile. *root* is "/" but for tests.
"""

from __future__ import annotations

import platform
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from fedknow_ray.runtime.timing import HostTime

ROOT = Path("/")
_SAMPLE_S = 0.1
#: Drivers whose sensor has the draw of a graphics card, which training on the processor does not use.
_OTHER_PARTS = frozenset({"amdgpu", "radeon", "nouveau", "i915", "xe"})


def processor_name(root: Path = ROOT) -> str:
    """Return the processor's name as /proc/cpuinfo has it, or the machine's architecture."""
    text = _text(root / "proc/cpuinfo") or ""
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def largest_cache_bytes(root: Path = ROOT) -> int:
    """Return the size of the largest cache of the first processor; 0 where the kernel does not say."""
    sizes = [_text(path) for path in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20, "": 1}
    found = [re.fullmatch(r"(\d+)([KM]?)", size) for size in sizes if size]
    return max((int(match[1]) * units[match[2]] for match in found if match), default=0)


def available_memory_bytes(root: Path = ROOT) -> int | None:
    """Return the memory that one more process can have: MemAvailable, or what a control group leaves if that is less.

    None where the kernel does not say.
    """
    match = re.search(r"^MemAvailable:\s*(\d+) kB$", _text(root / "proc/meminfo") or "", flags=re.MULTILINE)
    if match is None:
        return None
    return min([int(match[1]) * 1024, *_group_rooms(root)])


def _group_rooms(root: Path) -> list[int]:
    """Return what the control groups (version 2) that this process is in, one inside the other, still leave."""
    match = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup") or "", flags=re.MULTILINE)
    top = root / "sys/fs/cgroup"
    own = top if match is None else top / match[1]
    groups = [group for group in (own, *own.parents) if group == top or top in group.parents]
    rooms = []
    for group in groups:
        limit, used = _text(group / "memory.max"), _text(group / "memory.current")
        if limit and limit.isdecimal() and used and used.isdecimal():
            rooms.append(max(0, int(limit) - int(used)))
    return rooms


class Watched(NamedTuple):
    """What an action took, and the mean watts meanwhile; None where they could not be read."""

    took: HostTime
    watts: float | None


class PowerMeter(Protocol):
    """Reads the machine's draw while something is done."""

    source: str

    def watch(self, action: Callable[[], HostTime]) -> Watched:
        """Do something, and return what it took and the mean watts meanwhile."""
        ...


class NoMeter:
    """A machine whose kernel exposes no power that this user may read."""

    def __init__(self, reason: str) -> None:
        self.source = reason

    def watch(self, action: Callable[[], HostTime]) -> Watched:
        """Do it; the watts are None."""
        return Watched(action(), None)


class EnergyMeter:
    """Counters of energy (powercap, microjoules) before and after, one a processor package."""

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        names = ", ".join(_text(zone / "name") or zone.name for zone in zones)
        self.source = f"powercap energy counters of {names}; processor packages, not the whole machine"

    def watch(self, action: Callable[[], HostTime]) -> Watched:
        """Do something, and return the energy meanwhile by its seconds."""
        before = [_number(zone / "energy_uj") for zone in self._zones]
        took = action()
        joules = 0.0
        for zone, start in zip(self._zones, before, strict=True):
            end = _number(zone / "energy_uj")
            if start is None or end is None:
                return Watched(took, None)
            # the counter starts again from 0 when it is full
            joules += (
                end - start if end >= start else end - start + (_number(zone / "max_energy_range_uj") or 0)
            ) / 1e6
        return Watched(took, joules / took.wall_s)


class SensorMeter:
    """A power sensor (hwmon, microwatts), read ten times a second."""

    def __init__(self, sensor: Path) -> None:
        self._sensor = sensor
        self.source = f"hwmon sensor {sensor.name} of {_text(sensor.parent / 'name') or sensor.parent.name}, 10 Hz"

    def watch(self, action: Callable[[], HostTime]) -> Watched:
        """Do something, and return the mean of the sensor's readings meanwhile."""
        readings: list[float] = []
        done = threading.Event()

        def sample() -> None:
            while True:
                reading = _number(self._sensor)
                if reading is not None:
                    readings.append(reading / 1e6)
                if done.wait(_SAMPLE_S):
                    return

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            took = action()
        finally:
            done.set()
            sampler.join()
        return Watched(took, sum(readings) / len(readings) if readings else None)


def power_meter(root: Path = ROOT) -> PowerMeter:
    """Return what power can be read with here: a sensor of the machine's draw, else the processors' energy counters."""
    sensors = [
        *sorted((root / "sys/class/hwmon").glob("hwmon*/power*_average")),
        *sorted((root / "sys/class/hwmon").glob("hwmon*/power*_input")),
    ]
    sensors = [sensor for sensor in sensors if _text(sensor.parent / "name") not in _OTHER_PARTS]
    readable = [sensor for sensor in sensors if _number(sensor) is not None]
    if len(readable) == 1:
        return SensorMeter(readable[0])
    zones = [
        zone
        for zone in sorted((root / "sys/class/powercap").glob("*-rapl:*"))
        if re.fullmatch(r"[a-z]+-rapl:\d+", zone.name)
    ]
    counted = [zone for zone in zones if _number(zone / "energy_uj") is not None]
    if counted and len(counted) == len(zones):
        return EnergyMeter(zones)
    if zones or sensors:
        return NoMeter(
            f"power is not read: {len(zones)} energy counters and {len(sensors)} sensors, of which this user may read "
            f"{len(counted)} and {len(readable)}; one sensor, or all counters, would do"
        )
    return NoMeter("the kernel exposes no power: neither /sys/class/powercap nor a power sensor in /sys/class/hwmon")


def _text(path: Path) -> str | None:
    """Return what a file of the kernel says, or None where it is not there or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text is not None and re.fullmatch(r"\d+", text) else None
