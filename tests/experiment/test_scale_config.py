"""The points of a grid: their fleets, their configs, and all faults at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import TEXT, write_config

from fedknow_ray.config.model import PAPER_FLEET, FleetEntry
from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.run import read_config
from fedknow_ray.experiment.scale_config import Axes, PointId, names_clients, read_points, scaled_fleet


def faults(path: Path, *args: object, **more: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_points(path, *args, **more)  # type: ignore[arg-type]
    return [str(fault) for fault in caught.value.faults]


def test_fleet_keeps_its_proportions_and_what_its_entries_say():
    fleet = (FleetEntry(device="a", count=2, joins_at_s=5), FleetEntry(device="b", count=1))
    assert scaled_fleet(fleet, 6) == [{"device": "a", "count": 4, "joins_at_s": 5.0}, {"device": "b", "count": 2}]


def test_kinds_that_get_no_client_are_left_out():
    assert [(entry["device"], entry["count"]) for entry in scaled_fleet(PAPER_FLEET, 3)] == [
        ("jetson-nano", 1),
        ("jetson-tx2", 1),
        ("jetson-xavier-nx", 1),
    ]
    assert [entry["count"] for entry in scaled_fleet(PAPER_FLEET, 2)] == [1, 1]


def test_points_are_the_config_with_other_clients_tasks_and_fleet(tmp_path: Path):
    axes, points = read_points(write_config(tmp_path), "6, 3", "4,2", ["fedknow", "fedavg"], ["seed=7"])
    assert axes == Axes((3, 6), (2, 4))
    assert list(points)[:3] == [PointId("fedknow", 3, 2), PointId("fedknow", 3, 4), PointId("fedknow", 6, 2)]
    assert len(points) == 8
    config = points[PointId("fedavg", 6, 4)]
    assert (config.scenario.clients, config.scenario.tasks, config.seed, config.method.name) == (6, 4, 7, "fedavg")
    assert [(entry.device, entry.count) for entry in config.fleet] == [("jetson-nano", 4), ("raspberry-pi-4-4gb", 2)]


def test_point_of_the_configs_own_size_is_the_config(tmp_path: Path):
    path = write_config(tmp_path)
    assert read_points(path, "3", "2")[1] == {PointId("fedavg", 3, 2): read_config(path)}


def test_what_is_set_of_the_fleet_is_set_before_it_is_scaled(tmp_path: Path):
    """With one client the second entry is gone; the option still means the config's own."""
    path = write_config(tmp_path)
    _, points = read_points(path, "1,6", "2", sets=["fleet.1.device=jetson-tx2", "fleet.0.latency_s=1"])
    small, large = points.values()
    assert [(entry.device, entry.count, entry.latency_s) for entry in small.fleet] == [("jetson-nano", 1, 1.0)]
    assert [(entry.device, entry.latency_s) for entry in large.fleet] == [("jetson-nano", 1.0), ("jetson-tx2", None)]


def test_set_of_a_method_goes_to_the_method_that_has_it(tmp_path: Path):
    _, points = read_points(write_config(tmp_path), "3", "2", ["fedavg", "fedknow"], ["method.retained_fraction=0.5"])
    assert [points[PointId(name, 3, 2)].method.name for name in ("fedavg", "fedknow")] == ["fedavg", "fedknow"]
    assert points[PointId("fedknow", 3, 2)].method.hyper.model_dump()["retained_fraction"] == 0.5


def test_configs_own_number_of_tasks_need_not_be_possible(tmp_path: Path):
    path = write_config(tmp_path, TEXT.replace("tasks: 2", "tasks: 99"))
    assert list(read_points(path, "3", "2")[1]) == [PointId("fedavg", 3, 2)]


@pytest.mark.parametrize(
    ("clients", "tasks", "told"),
    [
        ("3,x", "2", "--clients 3,x: must be whole numbers from 1 up, as in 10,20,50; got 'x'"),
        ("3,", "2", "--clients 3,: must be whole numbers from 1 up, as in 10,20,50; got ''"),
        ("3", "0,2", "--tasks 0,2: must be whole numbers from 1 up, as in 10,20,50; got '0'"),
        ("3", "2,4,2", "--tasks 2,4,2: names 2 twice; leave one out"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path: Path, clients: str, tasks: str, told: str):
    assert faults(write_config(tmp_path), clients, tasks) == [told]


def test_all_faults_of_the_options_are_told_at_once(tmp_path: Path):
    told = faults(write_config(tmp_path), "no", "1,1", ["fedavgg"], ["scenario.tasks=3"])
    assert [line.split(":")[0] for line in told] == [
        "--clients no",
        "--tasks 1,1",
        "--set scenario.tasks=3",
        "--methods fedavgg",
    ]
    assert told[2] == "--set scenario.tasks=3: scenario.tasks: belongs to another option: --tasks"


def test_all_faults_of_all_points_are_told_once_under_the_options_that_were_given(tmp_path: Path):
    """Digits has 10 classes, and 0.7 of so few clients is at least one: only the tasks are wrong."""
    assert faults(write_config(tmp_path), "3,6", "2,6,7", ["fedavg", "fedknow"]) == [
        f"--tasks {tasks}: scenario.tasks: {tasks} tasks x 2 classes_per_task need {2 * tasks} classes, but digits has "
        "10; lower one of them"
        for tasks in (6, 7)
    ]


def test_fault_of_some_points_alone_is_found(tmp_path: Path):
    (told,) = faults(write_config(tmp_path), "1,3", "2", sets=["training.client_fraction=0.2"])
    assert "0.2 of 1 clients is none" in told


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("policy: {cohorts: [[0, 1], [1, 2]]}", "policy.cohorts"),
        ("outages: [{from_s: 0, to_s: 9, fraction: 0.5}, {from_s: 0, to_s: 9, clients: [0]}]", "outages.1.clients"),
        ("failures: {schedule: [{client: 0, task: 0, round: 0, at: 0.5}]}", "failures.schedule"),
        (
            "failures: {bad_updates: [{client: 0, task: 0, round: 0, sends: nan}]}",
            "failures.bad_updates",
        ),
        ("availability: {name: duty_cycle, period_s: 9, on_s: 5, offset_s: [0, 1, 2]}", "availability.offset_s"),
    ],
)
def test_config_that_names_clients_is_for_its_own_number_of_them(tmp_path: Path, more: str, key: str):
    path = write_config(tmp_path, f"{TEXT}{more}\n")
    assert [named for named, _ in names_clients(read_config(path))] == [key]
    assert len(read_points(path, "3", "2,3")[1]) == 2
    told = faults(path, "3,6", "2,3")
    assert f"--clients 6: {key}: names clients by their ids, which are those of the config's own 3 clients" in told[0]


def test_missing_file_is_told_once(tmp_path: Path):
    assert len(faults(tmp_path / "no.yaml", "3", "2", ["fedavg", "fedknow"])) == 1


def test_sequences_of_their_own_length_are_refused(tmp_path: Path):
    told = "says how many tasks a client learns one after the other, whatever --tasks says"
    listed = faults(write_config(tmp_path), "3", "2", sets=["scenario.task_order=[0, 1, 0]"])
    assert listed == [f"--tasks 2: scenario.task_order: {told}; same or shuffled has as many as there are"]
    traced = faults(write_config(tmp_path), "3", "2", sets=["task_arrival={trace: a.csv}"])
    assert traced == [f"--tasks 2: task_arrival.trace: {told}; every_s is for any number"]
