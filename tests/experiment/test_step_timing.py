"""Calibration times the steps that visits make: their work is that of the price list, and its networks take turns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedknow_ray.experiment.calibration_networks import Workload, workloads
from fedknow_ray.experiment.step_timing import CLASSES, StepBench, time_steps, undisturbed_s
from fedknow_ray.models.footprint import measure_footprint
from fedknow_ray.runtime.timing import HostTime
from fedknow_ray.simulation.device import NETWORK_KINDS

#: The networks on images so small that a step takes milliseconds.
ROLES = {
    workload.role: replace(workload, side=min(workload.side, 16), batch_size=2)
    for workload in workloads()
    if workload.role != "reference"
}


def test_a_step_counts_the_work_of_a_training_step():
    """cnn6 at 16 x 16: forward and backward of two images with ten head rows, and Adam's seven passes."""
    usual = ROLES["usual"]
    f = measure_footprint(usual.spec, height=16, width=16, channels=3)
    train, optimize = StepBench(usual).work.items
    assert (train.phase, train.count) == ("train", 1)
    assert train.flops == 2 * (f.forward_flops + f.backward_flops) + 6 * 2 * f.F * CLASSES
    assert (optimize.phase, optimize.flops) == ("optimize", 0)
    assert optimize.moved_bytes == 7 * 4 * (f.P + CLASSES * (f.F + 1))


def test_networks_take_turns_and_leave_torchs_generator_alone():
    order: list[str] = []

    def watch(workload: Workload, block):
        order.append(workload.role)
        return block()

    pair = [ROLES["usual"], ROLES["tiny"]]
    state = torch.get_rng_state()
    usual, tiny = time_steps(pair, 0.001, 1, watch)
    assert order == ["usual", "tiny"] * 2
    assert torch.equal(torch.get_rng_state(), state)
    assert (usual.workload, tiny.workload) == tuple(pair)
    assert usual.step.work.flops > tiny.step.work.flops > 0
    assert len(usual.blocks) == len(usual.seconds) == 2
    assert min(usual.seconds) <= usual.step.seconds <= max(usual.seconds)


@pytest.mark.parametrize(("threads", "counts"), [(1, 0.5), (2, 2.0)])
def test_with_one_thread_processor_seconds_count(threads: int, counts: float):
    assert undisturbed_s(HostTime(wall_s=2.0, cpu_s=0.5), threads) == counts


def test_there_is_a_network_of_every_kind_and_two_are_held_out():
    found = workloads()
    assert {workload.spec.kind for workload in found} == set(NETWORK_KINDS)
    assert [workload.role for workload in found].count("held_out") == 2


def test_the_reference_is_what_the_rate_of_a_device_is_defined_by():
    """ResNet-18 at 224 x 224: 1.82 GMAC forward, three times that a step less the first layer's image gradient."""
    (reference,) = (workload for workload in workloads() if workload.role == "reference")
    assert (reference.spec.name, reference.side, reference.spec.kind) == ("resnet18", 224, "dense_cnn")
    f = measure_footprint(reference.spec, height=224, width=224, channels=3)
    assert f.forward_flops == pytest.approx(2 * 1.82e9, rel=0.01)
    assert f.P == 11_176_512
