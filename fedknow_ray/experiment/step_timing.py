"""Timing of training steps: the very steps that a visit makes, with the work that a method counts for them.

The networks take turns, a block of steps each, and every network's seconds are the median over its blocks: a load that
comes and goes on the machine then meets all of them alike. With one thread they are processor seconds, which other
programs lengthen only by what they take of caches and memory; with several they are the seconds that passed, since
threads wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from fedknow_ray.config.model import AdamOptimizer, TrainingConfig
from fedknow_ray.experiment.calibration_networks import Workload
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.learner import Batch, Learner, Normalisation, cross_entropy_rule
from fedknow_ray.models.footprint import measure_footprint
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.runtime.timing import HostTime, timed
from fedknow_ray.seeding import derive_seed, stream, torch_stream
from fedknow_ray.simulation.calibration import TimedStep

CLASSES = 10
_SEED = 0


@dataclass(frozen=True, slots=True)
class StepTiming:
    """A network's step, and its time in each block; of the *seconds* that count, `step` has the median."""

    workload: Workload
    step: TimedStep
    blocks: tuple[HostTime, ...]
    seconds: tuple[float, ...]


class StepBench:
    """A network with one batch of random images, on which it makes training steps (Adam, cross entropy, float32)."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        side, n = workload.side, workload.batch_size
        # a rate so low that no weight grows out of range, however many steps are timed
        training = TrainingConfig(batch_size=n, optimizer=AdamOptimizer(lr=1e-6))
        with torch_stream(derive_seed(_SEED, "calibration.weights")):
            network = FlatNetwork(workload.spec, height=side, width=side, channels=3, rows=CLASSES)
        footprint = measure_footprint(workload.spec, height=side, width=side, channels=3)
        normalisation = Normalisation.of((0.5,) * 3, (0.25,) * 3)
        self._learner = Learner(network, training, StepCosts(footprint, training), normalisation)
        self._learner.network.features.train()
        images = stream(_SEED, "calibration.images").integers(0, 256, (n, side, side, 3), dtype=np.uint8)
        labels = torch.arange(n) % CLASSES
        self._batch = Batch(np.arange(n), normalisation(images).permute(0, 3, 1, 2), labels)
        # the first step also finds its kernels; what it counted is the work of every step
        self._step()
        self.work = self._learner.log.work()
        self._expected_s = timed(self._step).wall_s

    def block(self, seconds: float) -> HostTime:
        """Make steps for about so long, one at least, and return the seconds of one step."""
        steps = max(1, round(seconds / self._expected_s))
        took = timed(lambda: self._steps(steps))
        self._expected_s = took.wall_s / steps
        return HostTime(took.wall_s / steps, took.cpu_s / steps)

    def _steps(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        cross_entropy_rule(self._learner, self._batch)
        self._learner.optimize()


def time_steps(
    workloads: Sequence[Workload],
    seconds: float,
    threads: int,
    around: Callable[[Workload, Callable[[], HostTime]], HostTime] = lambda _, block: block(),
) -> list[StepTiming]:
    """Return the timing of each network's step, within about *seconds* in all.

    *threads* are those that torch has been set to. A network gets two blocks of one step at least, however long that
    takes. *around* makes each block, and may watch something meanwhile. Dropout draws from a stream of its own.
    """
    rounds = min(7, max(2, int(seconds // 8)))
    with torch_stream(derive_seed(_SEED, "calibration.dropout")):
        benches = [StepBench(workload) for workload in workloads]
        share_s = seconds / (rounds * len(benches))
        blocks: list[list[HostTime]] = [[] for _ in benches]
        for _ in range(rounds):
            for bench, mine in zip(benches, blocks, strict=True):
                mine.append(around(bench.workload, lambda bench=bench: bench.block(share_s)))  # type: ignore[misc]
    return [_timing(bench, mine, threads) for bench, mine in zip(benches, blocks, strict=True)]


def _timing(bench: StepBench, blocks: Sequence[HostTime], threads: int) -> StepTiming:
    seconds = tuple(undisturbed_s(block, threads) for block in blocks)
    step = TimedStep(bench.workload.spec.name, bench.workload.spec.kind, bench.work, median(seconds))
    return StepTiming(bench.workload, step, tuple(blocks), seconds)


def undisturbed_s(took: HostTime, threads: int) -> float:
    """Return the seconds that count: of the processor with one thread, those that passed with several."""
    return took.cpu_s if threads == 1 else took.wall_s
