"""Fitting a profile to timings: a synthetic machine is recovered, and timings that cannot be are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.simulation.calibration import CalibrationError, Fit, TimedStep, fit, prediction_error, slow_down
from fedknow_ray.simulation.cost import compute_s
from fedknow_ray.simulation.device import Device, DeviceError
from fedknow_ray.simulation.work import Work, WorkItem

MACHINE = Device(
    name="machine",
    title="A machine",
    accelerator="cpu",
    memory_bytes=None,
    sustained_flops_per_s=1000.0,
    memory_bandwidth_bytes_per_s=100.0,
    idle_w=None,
    busy_w=None,
    step_overhead_s=0.25,
    utilisation={"dense_cnn": 1.0, "small_cnn": 0.5, "depthwise": 0.2},
)


def step_work(flops: int, moved_bytes: int, optimizer_bytes: int) -> Work:
    return Work((WorkItem("train", 1, flops, moved_bytes), WorkItem("optimize", 1, 0, optimizer_bytes)))


WORKS = {
    "reference": ("dense_cnn", step_work(100_000, 1_000, 100)),
    "usual": ("small_cnn", step_work(10_000, 1_000, 50)),
    "tiny": ("small_cnn", step_work(10, 1, 1)),
    "other": ("depthwise", step_work(2_000, 100, 20)),
}


def timed(name: str, machine: Device = MACHINE) -> TimedStep:
    kind, work = WORKS[name]
    return TimedStep(name, kind, work, compute_s(work, machine, kind))


def fitted(machine: Device = MACHINE, **steps: TimedStep) -> Fit:
    given = {name: timed(name, machine) for name in WORKS} | steps
    return fit(
        reference=given["reference"],
        usual=given["usual"],
        tiny=given["tiny"],
        others=[given["other"]],
        memory_bandwidth_bytes_per_s=machine.require("memory_bandwidth_bytes_per_s"),
    )


def as_device(found: Fit) -> Device:
    return replace(
        MACHINE,
        sustained_flops_per_s=found.sustained_flops_per_s,
        memory_bandwidth_bytes_per_s=found.memory_bandwidth_bytes_per_s,
        step_overhead_s=found.step_overhead_s,
        utilisation=found.utilisation,
    )


def test_a_synthetic_machine_is_recovered():
    """The reference takes 100 s + 1 s + 2 x 0.25 s; so the fit has to take the optimizer and the overhead away."""
    assert timed("reference").seconds == 101.5
    assert timed("tiny").seconds == pytest.approx(10 / 500 + 0.01 + 0.5)
    found = fitted()
    assert found.sustained_flops_per_s == pytest.approx(1000)
    assert found.step_overhead_s == pytest.approx(0.25)
    assert found.utilisation == pytest.approx(MACHINE.utilisation)
    assert found.memory_bandwidth_bytes_per_s == 100


@given(
    rate=st.floats(1e9, 1e13),
    bandwidth=st.floats(1e12, 1e13),
    overhead_s=st.floats(1e-6, 1e-2),
    small=st.floats(0.05, 1.5),
)
def test_any_machine_that_arithmetic_binds_is_recovered(rate: float, bandwidth: float, overhead_s: float, small: float):
    machine = replace(
        MACHINE,
        sustained_flops_per_s=rate,
        memory_bandwidth_bytes_per_s=bandwidth,
        step_overhead_s=overhead_s,
        utilisation={"dense_cnn": 1.0, "small_cnn": small, "depthwise": 0.2},
    )
    big = {
        name: TimedStep(name, kind, work, compute_s(work, machine, kind))
        for name, kind, work in [
            ("reference", "dense_cnn", step_work(10**12, 10**6, 10**6)),
            ("usual", "small_cnn", step_work(10**11, 10**6, 10**6)),
            ("tiny", "small_cnn", step_work(10**4, 1, 10)),
            ("other", "depthwise", step_work(10**11, 10**6, 10**6)),
        ]
    }
    found = fitted(machine, **big)
    assert found.sustained_flops_per_s == pytest.approx(rate, rel=1e-6)
    assert found.utilisation["small_cnn"] == pytest.approx(small, rel=1e-6)
    assert found.step_overhead_s == pytest.approx(overhead_s, rel=1e-3)


def test_a_network_that_memory_binds_gets_the_rate_that_its_time_says():
    """2,000 FLOPs that wait 50 s for 5,000 bytes run at 40 a second, and the model gives the step its time again."""
    work = step_work(2_000, 5_000, 20)
    bound = TimedStep("bound", "depthwise", work, compute_s(work, MACHINE, "depthwise"))
    found = fitted(other=bound)
    assert found.utilisation["depthwise"] == pytest.approx(0.04)
    assert prediction_error(bound, as_device(found)) == pytest.approx(0)


def test_the_fitted_steps_are_predicted_without_error():
    device = as_device(fitted())
    assert [prediction_error(timed(name), device) for name in WORKS] == pytest.approx([0] * len(WORKS), abs=1e-9)


def test_the_error_is_positive_where_the_model_is_too_slow():
    """The model says 101.5 s."""
    reference = timed("reference")
    assert prediction_error(replace(reference, seconds=203.0), MACHINE) == pytest.approx(-0.5)
    assert prediction_error(replace(reference, seconds=50.75), MACHINE) == pytest.approx(1.0)


def test_a_tiny_step_that_takes_no_longer_than_its_arithmetic_has_no_overhead():
    found = fitted(tiny=replace(timed("tiny"), seconds=0.01))
    assert found.step_overhead_s == 0
    assert found.utilisation["small_cnn"] == pytest.approx(10_000 / 20.5 / found.sustained_flops_per_s)


def test_timings_that_contradict_each_other_are_refused():
    """Two overheads of 15 s do not fit into a step of 10.7 s of another kind."""
    with pytest.raises(CalibrationError, match=r"a step of other took 10\.7 s, and memory traffic and overhead alone"):
        fitted(tiny=replace(timed("tiny"), seconds=30.0), usual=replace(timed("usual"), seconds=60.0))


def test_usual_and_tiny_are_of_one_kind_and_differ():
    with pytest.raises(ValueError, match="must be of one kind, got small_cnn and dense_cnn"):
        fitted(tiny=replace(timed("tiny"), kind="dense_cnn"))
    with pytest.raises(ValueError, match="the same work"):
        fitted(tiny=replace(timed("usual"), network="tiny"))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_takes_a_positive_time(seconds: float):
    with pytest.raises(ValueError, match="must take a positive time"):
        replace(timed("usual"), seconds=seconds)


def test_a_step_has_arithmetic():
    with pytest.raises(ValueError, match="has no flops"):
        TimedStep("none", "small_cnn", Work((WorkItem("train", 1, 0, 5),)), 1.0)


def test_the_slow_down_is_the_ratio_of_the_rates_of_the_kind():
    """The host reaches 500 a second on small networks, the board 200 x 0.25 = 50."""
    board = replace(MACHINE, sustained_flops_per_s=200.0, utilisation={"small_cnn": 0.25})
    assert slow_down(MACHINE, board, "small_cnn") == pytest.approx(10)
    assert slow_down(board, MACHINE, "small_cnn") == pytest.approx(0.1)
    assert slow_down(MACHINE, MACHINE, "depthwise") == 1


def test_processor_seconds_are_summed_over_the_hosts_threads():
    """Ten seconds on 4 threads are 40 processor seconds; a board of the same rate needs ten."""
    assert 40 * slow_down(MACHINE, MACHINE, "small_cnn", host_threads=4) == pytest.approx(10)
    with pytest.raises(ValueError, match="host_threads must be at least 1, got 0"):
        slow_down(MACHINE, MACHINE, "small_cnn", host_threads=0)


def test_a_slow_down_is_not_guessed():
    with pytest.raises(DeviceError, match="has no sustained_flops_per_s"):
        slow_down(MACHINE, replace(MACHINE, sustained_flops_per_s=None), "small_cnn")
    with pytest.raises(DeviceError, match="cannot price a network of kind 'smal_cnn'"):
        slow_down(MACHINE, MACHINE, "smal_cnn")
