"""Calibration: measures the machine that it runs on, for a device file of it.

    storage -> matrices -> memory -> power at rest -> training steps -> fit

`experiment.calibration_report` makes the file, and says how far its predictions of networks that the fit has not seen
are off. Nothing is written here but the temporary files that time the storage.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from fedknow_ray.errors import UserError
from fedknow_ray.experiment.calibration_networks import Role, Workload, workloads
from fedknow_ray.experiment.host_kernel import (
    PowerMeter,
    available_memory_bytes,
    largest_cache_bytes,
    power_meter,
    processor_name,
)
from fedknow_ray.experiment.host_speed import Bandwidth, Storage, matmul_flops_per_s, memory_bandwidth, storage
from fedknow_ray.experiment.step_timing import StepTiming, time_steps
from fedknow_ray.runtime.timing import HostTime, timed
from fedknow_ray.simulation.calibration import Fit, fit

#: Shares of the seconds; the steps get the rest.
_MATMUL_SHARE, _MEMORY_SHARE, _IDLE_SHARE = 0.05, 0.1, 0.05


@dataclass(frozen=True, slots=True)
class HostReadings:
    """What was measured beside the training steps; None where it cannot be read here."""

    processor: str
    memory_bytes: int | None
    matmul_flops_per_s: float
    bandwidth: Bandwidth
    storage: Storage
    idle_w: float | None
    busy_w: float | None
    power_source: str
    """Where the watts are from, or why there are none."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that was measured, and the fit to it."""

    threads: int
    torch_version: str
    host: HostReadings
    timings: tuple[StepTiming, ...]
    fit: Fit

    @property
    def cpu_share(self) -> float:
        """Share of its threads' time in which the process worked; well below 1 where other programs were busy."""
        blocks = [block for timing in self.timings for block in timing.blocks]
        return sum(block.cpu_s for block in blocks) / sum(block.wall_s for block in blocks) / self.threads


def measure(
    folder: Path,
    *,
    threads: int,
    seconds: float,
    tell: Callable[[str], None],
    networks: Sequence[Workload] | None = None,
) -> Calibration:
    """Measure this machine for about *seconds* and return what follows; *folder* is where the storage is measured.

    The least that is measured takes longer than a few seconds: every network makes four steps.

    Raises:
        UserError: if there are fewer cores than *threads*, or the folder cannot be written to.
        CalibrationError: if no profile follows from the timings.
    """
    cores = len(os.sched_getaffinity(0))
    if threads > cores:
        raise UserError(f"--threads {threads} is more than this process has cores ({cores})")
    memory_bytes = available_memory_bytes()
    meter = power_meter()
    with _torch_threads(threads):
        tell("storage")
        files = storage(folder)
        tell("matrices and memory")
        matmul = matmul_flops_per_s(_MATMUL_SHARE * seconds, threads)
        bandwidth = memory_bandwidth(
            _MEMORY_SHARE * seconds, threads, cache_bytes=largest_cache_bytes(), available_bytes=memory_bytes
        )
        idle_w = meter.watch(lambda: _rest(_IDLE_SHARE * seconds)).watts
        tell("training steps")
        left_s = (1 - _MATMUL_SHARE - _MEMORY_SHARE - _IDLE_SHARE) * seconds
        timings, busy_w = _watched_steps(networks or workloads(), left_s, threads, meter)
    host = HostReadings(processor_name(), memory_bytes, matmul, bandwidth, files, idle_w, busy_w, meter.source)
    found = _fit(timings, bandwidth.copy_bytes_per_s)
    return Calibration(threads, torch.__version__, host, tuple(timings), found)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rest(seconds: float) -> HostTime:
    """Do nothing for a while."""
    return timed(lambda: threading.Event().wait(seconds))


def _watched_steps(
    networks: Sequence[Workload], seconds: float, threads: int, meter: PowerMeter
) -> tuple[list[StepTiming], float | None]:
    """Return the timings, and the mean watts while the reference network was trained."""
    watts: list[float | None] = []

    def watch(workload: Workload, block: Callable[[], HostTime]) -> HostTime:
        if workload.role != "reference":
            return block()
        watched = meter.watch(block)
        watts.append(watched.watts)
        return watched.took

    timings = time_steps(networks, seconds, threads, watch)
    known = [value for value in watts if value is not None]
    return timings, fmean(known) if known and len(known) == len(watts) else None


def _fit(timings: Sequence[StepTiming], bandwidth_bytes_per_s: float) -> Fit:
    def of(role: Role) -> list[StepTiming]:
        return [timing for timing in timings if timing.workload.role == role]

    [reference], [usual], [tiny] = of("reference"), of("usual"), of("tiny")
    return fit(
        reference=reference.step,
        usual=usual.step,
        tiny=tiny.step,
        others=[timing.step for timing in of("other")],
        memory_bandwidth_bytes_per_s=bandwidth_bytes_per_s,
    )
