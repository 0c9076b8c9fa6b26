"""From work to seconds and joules: a roofline for each step.

    compute_s = sum over items of count * ( max( flops / (r * u[kind]),  moved_bytes / b,  stored_bytes / s )  +  o )
    energy_j  = busy_w * compute_s + idle_w * idle_s

r is the device's sustained training rate, u[kind] the share of it that this kind of network reaches, b its memory
bandwidth, s that of its storage and o its overhead per step, which is left out where the profile does not know it. The
roofline is that of Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4),
2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.work import Work, WorkItem

Bound = Literal["arithmetic", "memory", "storage"]


@dataclass(frozen=True, slots=True)
class StepTime:
    """The seconds of one step in their parts: the longest of the first three, and the overhead."""

    arithmetic_s: float
    memory_s: float
    storage_s: float
    overhead_s: float

    @property
    def seconds(self) -> float:
        """What one step takes."""
        return max(self.arithmetic_s, self.memory_s, self.storage_s) + self.overhead_s

    @property
    def bound(self) -> Bound:
        """What sets the time; of equals the first."""
        bounds: dict[Bound, float] = {
            "arithmetic": self.arithmetic_s,
            "memory": self.memory_s,
            "storage": self.storage_s,
        }
        return max(bounds, key=lambda bound: bounds[bound])


def compute_s(work: Work, device: Device, kind: str) -> float:
    """Return the seconds that the device needs for the work of a network of this kind.

    Items are summed in their order, so equal work gives equal bits. No work takes 0 s.

    Raises:
        DeviceError: if the profile lacks a number that the work needs; a time is never guessed.
    """
    return sum((item.count * step_time(item, device, kind).seconds for item in work.items), start=0.0)


def step_time(item: WorkItem, device: Device, kind: str) -> StepTime:
    """Return how long *one* step of the item takes on the device, and what of.

    Raises:
        DeviceError: if the profile lacks a number that the step needs.
    """
    arithmetic_s = memory_s = storage_s = 0.0
    if item.flops:
        arithmetic_s = item.flops / (device.require("sustained_flops_per_s") * device.require(f"utilisation.{kind}"))
    if item.moved_bytes:
        memory_s = item.moved_bytes / device.require("memory_bandwidth_bytes_per_s")
    if item.stored_bytes:
        storage_s = item.stored_bytes / device.require("storage_bandwidth_bytes_per_s")
    return StepTime(arithmetic_s, memory_s, storage_s, device.step_overhead_s or 0.0)


def energy_j(device: Device, *, compute_s: float, idle_s: float) -> float | None:
    """Return the joules of a visit, None where the profile does not know both wattages.

    idle_s is the time in which the board is on and does not compute: download, upload and waiting. The radio's own
    power is not in it.

    Raises:
        ValueError: if a duration is negative.
    """
    if compute_s < 0 or idle_s < 0:
        raise ValueError(f"durations must not be negative, got compute_s={compute_s}, idle_s={idle_s}")
    if device.busy_w is None or device.idle_w is None:
        return None
    return device.busy_w * compute_s + device.idle_w * idle_s
