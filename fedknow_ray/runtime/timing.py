"""Host time, of a visit and of what calibration times: wall and processor seconds, apart from the virtual clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.federation.worker import ClientWorker
from fedknow_ray.transport.payload import Buffer


def now_s() -> float:
    """Return seconds since some moment: for deadlines, and how long something took."""
    return time.monotonic()


def wall_clock_s() -> float:
    """Return the time of day as this machine has it, in seconds since 1970: to compare it with another machine's."""
    return time.time()


def pause(seconds: float) -> None:
    """Do nothing for so long."""
    time.sleep(seconds)


def timed_visit(worker: ClientWorker, order: VisitOrder, broadcast: Buffer) -> tuple[VisitReport, Buffer | None]:
    """Make a visit and return its report with the host seconds that it took, and the update."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    report, update = worker.visit(order, broadcast)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return replace(report, host_wall_s=wall_s, host_cpu_s=cpu_s), update


class HostTime(NamedTuple):
    """Seconds that passed, and those that the processors of this process worked, summed over its threads."""

    wall_s: float
    cpu_s: float


def timed(action: Callable[[], object]) -> HostTime:
    """Do something and return the host seconds that it took."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    action()
    return HostTime(time.perf_counter() - wall_s, time.process_time() - cpu_s)
