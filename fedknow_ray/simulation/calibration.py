"""What a machine's own timings say of it: from timed training steps to the numbers of a device profile.

The cost model (`simulation.cost`) says of a step with flops F in one item, bytes R moved by items without flops, and n
items in all

    seconds = F / (r u) + R / b + n o          r u the rate of this kind of network, b the bandwidth, o the overhead

so the step of a usual network and one with hardly any arithmetic give two equations for 1 / (r u) and o. Every other
kind of network then has its rate from one step. A step that is bound by memory has the low rate that its time says.
Pure: the timings are taken elsewhere (`experiment.calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedknow_ray.errors import UserError
from fedknow_ray.simulation.cost import compute_s
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.work import Work


class CalibrationError(UserError):
    """Timings from which no profile follows."""


@dataclass(frozen=True, slots=True)
class TimedStep:
    """One training step of a network: its work as methods count it, and the seconds that it took here.

    *kind* is the kind of network, of `simulation.device.NETWORK_KINDS`.

    Raises:
        ValueError: if the work has no flops, or the seconds are not positive and finite.
    """

    network: str
    kind: str
    work: Work
    seconds: float

    def __post_init__(self) -> None:
        if not self.work.flops:
            raise ValueError(f"a step of {self.network} has no flops, so no rate follows from it")
        if not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise ValueError(f"a step of {self.network} must take a positive time, got {self.seconds} s")


@dataclass(frozen=True, slots=True)
class Fit:
    """The numbers of a profile that follow from timed steps."""

    sustained_flops_per_s: float
    memory_bandwidth_bytes_per_s: float
    step_overhead_s: float
    utilisation: dict[str, float]
    """Kind of network -> its rate relative to `sustained_flops_per_s`; 1 for the reference's."""


def fit(
    *,
    reference: TimedStep,
    usual: TimedStep,
    tiny: TimedStep,
    others: Sequence[TimedStep] = (),
    memory_bandwidth_bytes_per_s: float,
) -> Fit:
    """Return the numbers with which the cost model gives these steps their seconds.

    *reference* is the network that `sustained_flops_per_s` is defined by; *usual* and *tiny* are of one kind, tiny with
    hardly any arithmetic; *others* are of further kinds, one step each. Where tiny took less time than its arithmetic
    would, the overhead is 0.

    Raises:
        CalibrationError: if a step's time leaves nothing for its arithmetic, as when the machine was busy with
            something else while another step was timed.
        ValueError: if usual and tiny are of different kinds, or are the same work.
    """
    if usual.kind != tiny.kind:
        raise ValueError(f"{usual.network} and {tiny.network} must be of one kind, got {usual.kind} and {tiny.kind}")
    bandwidth = memory_bandwidth_bytes_per_s
    overhead_s = max(0.0, _overhead_s(usual, tiny, bandwidth))
    rates = {step.kind: _rate(step, bandwidth, overhead_s) for step in (reference, usual, *others)}
    sustained = rates[reference.kind]
    return Fit(
        sustained_flops_per_s=sustained,
        memory_bandwidth_bytes_per_s=bandwidth,
        step_overhead_s=overhead_s,
        utilisation={kind: rate / sustained for kind, rate in rates.items()},
    )


def prediction_error(step: TimedStep, device: Device) -> float:
    """Return how far the cost model is off: (predicted - measured) / measured, so 0.1 is 10 % too slow.

    Raises:
        DeviceError: if the profile lacks a number that the work needs.
    """
    return compute_s(step.work, device, step.kind) / step.seconds - 1


def slow_down(host: Device, device: Device, kind: str, *, host_threads: int = 1) -> float:
    """Return the seconds that a device needs for one processor second of the host, for a network of this kind.

    *host* is the calibrated profile of the machine that trains, *host_threads* the threads that it was calibrated with
    and trains with: processor seconds are summed over threads, all of which are taken to be busy. Below 1 the device is
    the faster one.

        seconds on the device = host_cpu_s * slow_down          slow_down = (host rate / host_threads) / device rate

    Raises:
        DeviceError: if one of the profiles lacks a rate for this kind.
        ValueError: if host_threads is below 1.
    """
    if host_threads < 1:
        raise ValueError(f"host_threads must be at least 1, got {host_threads}")
    return _rate_of(host, kind) / host_threads / _rate_of(device, kind)


def _rate_of(device: Device, kind: str) -> float:
    return device.require("sustained_flops_per_s") * device.require(f"utilisation.{kind}")


def _overhead_s(usual: TimedStep, tiny: TimedStep, bandwidth: float) -> float:
    """Solve the two equations of the module's text for o."""
    (flops_u, steps_u, left_u), (flops_t, steps_t, left_t) = (_equation(step, bandwidth) for step in (usual, tiny))
    determinant = flops_u * steps_t - flops_t * steps_u
    if determinant == 0:
        raise ValueError(f"{usual.network} and {tiny.network} are the same work, so no overhead follows from them")
    return (flops_u * left_t - flops_t * left_u) / determinant


def _rate(step: TimedStep, bandwidth: float, overhead_s: float) -> float:
    flops, steps, left_s = _equation(step, bandwidth)
    arithmetic_s = left_s - steps * overhead_s
    if arithmetic_s <= 0:
        raise CalibrationError(
            f"the timings do not fit together: a step of {step.network} took {step.seconds:.3g} s, and memory traffic "
            f"and overhead alone would take {step.seconds - arithmetic_s:.3g} s; calibrate again on a machine that "
            "does nothing else, or with a larger --seconds"
        )
    return flops / arithmetic_s


def _equation(step: TimedStep, bandwidth: float) -> tuple[int, int, float]:
    """Return (F, n, seconds - R / b) of a step."""
    moved_bytes = sum(item.count * item.moved_bytes for item in step.work.items if not item.flops)
    items = sum(item.count for item in step.work.items)
    return step.work.flops, items, step.seconds - moved_bytes / bandwidth
