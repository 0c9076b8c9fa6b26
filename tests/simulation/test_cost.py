"""The cost model: hand-computed literals, the laws of time and energy, and refusing to guess."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.simulation.cost import StepTime, compute_s, energy_j, step_time
from fedknow_ray.simulation.device import NETWORK_KINDS, Device, DeviceError
from fedknow_ray.simulation.device_library import DeviceLibrary
from fedknow_ray.simulation.work import Work, WorkItem

BOARD = Device(
    name="board",
    title="A board",
    accelerator="gpu",
    memory_bytes=1000,
    sustained_flops_per_s=100.0,
    memory_bandwidth_bytes_per_s=10.0,
    idle_w=2.0,
    busy_w=5.0,
    step_overhead_s=None,
    storage_bandwidth_bytes_per_s=5.0,
    utilisation={"dense_cnn": 1.0, "small_cnn": 0.5},
)

sizes = st.integers(0, 10**13)
items = st.builds(WorkItem, st.sampled_from(["train", "prune"]), st.integers(0, 500), sizes, sizes, sizes)
works = st.lists(items, max_size=6).map(lambda many: Work(tuple(many)))
shipped = st.sampled_from(DeviceLibrary().names()).map(DeviceLibrary().get)
kinds = st.sampled_from(NETWORK_KINDS)
seconds = st.floats(0, 1e6)


def test_arithmetic_sets_the_time_of_a_step_with_little_traffic():
    """200 FLOPs at 100 / s against 10 bytes at 10 / s: 2 s, three times."""
    assert compute_s(Work((WorkItem("train", 3, 200, 10),)), BOARD, "dense_cnn") == 6.0


def test_memory_traffic_sets_the_time_of_a_step_with_little_arithmetic():
    assert compute_s(Work((WorkItem("prune", 2, 100, 40),)), BOARD, "dense_cnn") == 8.0


def test_storage_sets_the_time_of_a_step_that_reads_more_than_it_does():
    """20 bytes at 5 / s against 10 bytes of memory traffic at 10 / s: 4 s, twice."""
    assert compute_s(Work((WorkItem("store", 2, 0, 10, 20),)), BOARD, "dense_cnn") == 8.0


@pytest.mark.parametrize(
    ("sizes", "bound"),
    [((200, 10, 5), "arithmetic"), ((100, 40, 5), "memory"), ((100, 40, 50), "storage"), ((0, 0, 0), "arithmetic")],
)
def test_a_step_is_bound_by_what_takes_longest(sizes, bound):
    assert step_time(WorkItem("x", 1, *sizes), BOARD, "dense_cnn").bound == bound


def test_a_step_has_all_its_parts():
    board = replace(BOARD, step_overhead_s=0.25)
    assert step_time(WorkItem("x", 7, 200, 10, 5), board, "dense_cnn") == StepTime(2.0, 1.0, 1.0, 0.25)
    assert step_time(WorkItem("x", 7, 200, 10, 5), board, "dense_cnn").seconds == 2.25


def test_the_roofline_is_taken_step_by_step_not_over_the_whole():
    """2 s of arithmetic and 4 s of traffic in separate steps do not overlap."""
    work = Work((WorkItem("train", 1, 200, 0), WorkItem("prune", 1, 0, 40)))
    assert compute_s(work, BOARD, "dense_cnn") == 6.0


def test_half_the_utilisation_doubles_the_arithmetic_only():
    work = Work((WorkItem("train", 1, 200, 0), WorkItem("prune", 1, 0, 40)))
    assert compute_s(work, BOARD, "small_cnn") == 8.0


def test_overhead_is_added_to_every_step():
    device = replace(BOARD, step_overhead_s=0.5)
    assert compute_s(Work((WorkItem("train", 4, 100, 0),)), device, "dense_cnn") == 6.0


def test_no_work_takes_no_time():
    assert compute_s(Work.none(), BOARD, "dense_cnn") == 0.0


@pytest.mark.parametrize(
    "key", ["sustained_flops_per_s", "memory_bandwidth_bytes_per_s", "storage_bandwidth_bytes_per_s"]
)
def test_a_time_that_cannot_be_estimated_is_an_error(key):
    with pytest.raises(DeviceError, match=f"device 'board' has no {key}"):
        compute_s(Work((WorkItem("train", 1, 1, 1, 1),)), replace(BOARD, **{key: None}), "dense_cnn")


def test_a_kind_of_network_that_the_profile_lacks_is_an_error():
    with pytest.raises(DeviceError, match=r"has no utilisation\.depthwise"):
        compute_s(Work((WorkItem("train", 1, 1, 1),)), BOARD, "depthwise")


def test_a_rate_that_the_work_does_not_need_may_be_unknown():
    device = replace(BOARD, memory_bandwidth_bytes_per_s=None, storage_bandwidth_bytes_per_s=None)
    assert compute_s(Work((WorkItem("train", 1, 100, 0),)), device, "dense_cnn") == 1.0


@given(works, shipped, kinds)
def test_doubling_every_rate_and_halving_the_overhead_halves_the_time(work, device, kind):
    faster = replace(
        device,
        sustained_flops_per_s=2 * device.sustained_flops_per_s,
        memory_bandwidth_bytes_per_s=2 * device.memory_bandwidth_bytes_per_s,
        storage_bandwidth_bytes_per_s=2 * device.storage_bandwidth_bytes_per_s,
        step_overhead_s=device.step_overhead_s / 2,
    )
    assert compute_s(work, faster, kind) == compute_s(work, device, kind) / 2


@given(works, shipped, kinds, st.floats(0.01, 1), st.floats(0.01, 1), st.floats(1, 10))
def test_a_slower_device_is_never_faster(work, device, kind, rate, bandwidth, overhead):
    slower = replace(
        device,
        sustained_flops_per_s=rate * device.sustained_flops_per_s,
        memory_bandwidth_bytes_per_s=bandwidth * device.memory_bandwidth_bytes_per_s,
        storage_bandwidth_bytes_per_s=bandwidth * device.storage_bandwidth_bytes_per_s,
        step_overhead_s=overhead * device.step_overhead_s,
    )
    assert compute_s(work, slower, kind) >= compute_s(work, device, kind)


@given(works, works, shipped, kinds)
def test_the_time_of_a_sum_is_the_sum_of_the_times(left, right, device, kind):
    apart_s = compute_s(left, device, kind) + compute_s(right, device, kind)
    assert compute_s(left + right, device, kind) == pytest.approx(apart_s)


def test_energy_is_power_times_time_of_both_states():
    assert energy_j(BOARD, compute_s=3.0, idle_s=10.0) == 35.0


@given(st.lists(st.tuples(seconds, seconds), max_size=8))
def test_energy_is_the_sum_over_phases(phases):
    total_j = energy_j(BOARD, compute_s=sum(busy for busy, _ in phases), idle_s=sum(idle for _, idle in phases))
    assert total_j == pytest.approx(sum(energy_j(BOARD, compute_s=busy, idle_s=idle) for busy, idle in phases))


@pytest.mark.parametrize("key", ["idle_w", "busy_w"])
def test_energy_is_unknown_where_a_wattage_is(key):
    assert energy_j(replace(BOARD, **{key: None}), compute_s=1.0, idle_s=1.0) is None


def test_a_negative_duration_is_refused_with_its_value():
    with pytest.raises(ValueError, match=r"idle_s=-1\.0"):
        energy_j(BOARD, compute_s=1.0, idle_s=-1.0)


def test_one_round_of_the_papers_first_cifar_task_takes_a_nano_about_four_seconds():
    """8 epochs of 240 samples at 245 MFLOP each: 4 s at the rate of large convolutions, 8 s at that of cnn6; and 48
    times 2.1 ms."""
    visit = Work((WorkItem("train", 48, 40 * 245_000_000, 0),))
    nano = DeviceLibrary().get("jetson-nano")
    assert compute_s(visit, nano, "dense_cnn") == pytest.approx(4.0904 + 0.1008, abs=1e-4)
    assert compute_s(visit, nano, "small_cnn") == pytest.approx(8.1809 + 0.1008, abs=1e-4)


def test_a_raspberry_pi_is_seven_times_slower_than_a_nano_on_large_convolutions():
    work = Work((WorkItem("train", 1, 10**12, 0),))
    pi_s, nano_s = (
        compute_s(work, DeviceLibrary().get(name), "dense_cnn") for name in ("raspberry-pi-4-4gb", "jetson-nano")
    )
    assert pi_s / nano_s == pytest.approx(7.19, abs=0.01)
