"""What the doctor finds out, from literals: nodes, actors and facts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedknow_ray.experiment.checkup import (
    Check,
    check_clocks,
    check_disk,
    check_fleet,
    check_nodes,
    check_open_files,
    check_server,
    check_shared_memory,
    check_versions,
    exit_status,
    worst,
)
from fedknow_ray.runtime.node_facts import NodeFacts
from fedknow_ray.runtime.placement import ActorSpec, NodeOffer, find_homeless

GB = 10**9
VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.14.1", "fedknow-ray": "0.1.0"}
GOOD = NodeFacts(
    host="a",
    versions=VERSIONS,
    shm_bytes=8 * GB,
    shm_free_bytes=8 * GB,
    folder="/tmp/ray",
    disk_bytes=100 * GB,
    disk_free_bytes=50 * GB,
    open_files=65536,
)
NANOS = [ActorSpec("nano", (0,), GB), ActorSpec("nano", (1,), GB), ActorSpec("nano", (2,), GB)]


def node(units: float, memory_bytes: float = 10 * GB, cpus: float = 2, **labels: str) -> NodeOffer:
    resources = {"device:nano": units} if units else {}
    return NodeOffer("n", cpus, memory_bytes, resources, {f"fedknow.io/{key}": value for key, value in labels.items()})


def fleet(nodes: list[NodeOffer], address: str | None = "10.0.0.1:6379") -> Check:
    (check,) = check_fleet(NANOS, find_homeless(NANOS, nodes), nodes, address)
    return check


def test_a_fleet_that_fits_is_told_with_what_it_needs_and_what_is_free():
    assert fleet([node(2), node(2)]) == Check(
        "fleet nano",
        "ok",
        "3 clients in 3 actors of 1.00 GB; free: 4 of device:nano on 2 nodes with 20.0 GB",
        of_fleet=True,
    )


def test_where_a_resource_is_missing_the_command_adds_just_that():
    check = fleet([node(1), node(0)])
    assert check.status == "fail"
    assert check.found == (
        "3 clients in 3 actors of 1.00 GB; free: 1 of device:nano on 1 node with 10.0 GB; 2 actors without a node"
    )
    assert check.todo == (
        "with the cluster's token in the environment: ray start --address=10.0.0.1:6379 "
        "--resources='{\"device:nano\": 2}' --labels=fedknow.io/device=nano"
    )
    assert "free: no device:nano; 3 actors" in fleet([node(0)]).found


def test_what_nodes_without_the_label_offer_does_not_count_where_others_have_it():
    """As Ray is told: labelled nodes only, if there are any."""
    check = fleet([node(1, device="nano"), node(5)])
    assert check.status == "fail"
    assert '{"device:nano": 2}' in check.todo
    assert check.todo.endswith("the 5 on nodes without the label fedknow.io/device=nano do not count")


def test_where_memory_is_short_it_is_said_so():
    check = fleet([node(3, memory_bytes=2.5 * GB)])
    assert "1 actor without a node" in check.found
    assert check.todo.startswith("memory is short: an actor asks for 1.00 GB")
    assert "placement.clients_per_actor=auto" in check.todo


def test_a_node_without_processors_holds_nobody():
    assert fleet([node(3, cpus=0)]).todo == "give the nodes that offer it processors: ray start --num-cpus=N"


def test_on_this_machine_no_command_joins_a_cluster():
    assert fleet([node(1)], address=None).todo == "start a Ray with what is missing, and give --address"


def test_the_server_wants_memory_as_well():
    assert check_server([node(0, 10**6), node(0, GB)]).status == "ok"
    assert check_server([node(0, 10**6)]).status == "fail"
    assert check_server([]).status == "fail"


def versions(**other: str) -> list[Check]:
    named = {key.replace("_", "-"): value for key, value in other.items()}
    return check_versions(VERSIONS, {"a": GOOD, "b": replace(GOOD, versions={**VERSIONS, **named})})


@pytest.mark.parametrize(
    ("other", "status"),
    [
        ({}, "ok"),
        ({"python": "3.11.9"}, "warn"),
        ({"python": "3.12.7"}, "fail"),
        ({"ray": "2.60.1"}, "fail"),
        ({"torch": "2.13.0"}, "fail"),
        ({"fedknow_ray": "none"}, "fail"),
    ],
)
def test_versions_are_compared_with_the_drivers(other: dict[str, str], status: str):
    found = versions(**other)
    assert [check.name for check in found] == [
        f"version of {name}" for name in ("python", "ray", "fedknow-ray", "torch")
    ]
    assert worst(found) == status


def test_the_node_with_another_version_is_named():
    (ray,) = (check for check in versions(ray="2.59.0") if check.status != "ok")
    assert ray == Check("version of ray", "fail", "2.60.0 here; b: 2.59.0", "install ray 2.60.0 there")


def test_nodes_that_do_not_answer_are_named_with_what_to_do():
    assert check_nodes({}, 3).status == "ok"
    silent = check_nodes({"b": "gave no answer within 60 s"}, 2)
    assert (silent.status, silent.found) == ("fail", "2 answered; b: gave no answer within 60 s")
    assert "hang" in silent.todo
    assert (
        check_nodes({"b": "ModuleNotFoundError: No module named 'fedknow_ray'"}, 2).todo == "install fedknow-ray there"
    )


def test_a_containers_shared_memory_is_small():
    check = check_shared_memory({"a": GOOD, "b": replace(GOOD, shm_bytes=64 * 2**20)})
    assert (check.status, check.found) == ("warn", "b: 67.1 MB")
    assert check_shared_memory({"a": GOOD}).found == "8.00 GB or more"


@pytest.mark.parametrize(("free_bytes", "status"), [(50 * GB, "ok"), (5 * GB, "ok"), (4.9 * GB, "fail"), (0, "fail")])
def test_ray_makes_no_objects_on_a_disk_that_is_over_95_percent_full(free_bytes: float, status: str):
    assert check_disk({"a": replace(GOOD, disk_free_bytes=int(free_bytes))}).status == status


def test_a_small_disk_is_short_before_it_is_full():
    small = replace(GOOD, disk_bytes=4 * GB, disk_free_bytes=GB)
    assert check_disk({"a": small}).found == "a: 1.00 GB free, 75% in use, in /tmp/ray"
    assert check_disk({"a": small}).status == "warn"


@pytest.mark.parametrize(("limit", "status"), [(None, "ok"), (4096, "ok"), (4095, "warn"), (1023, "fail")])
def test_open_files_have_two_limits(limit: int | None, status: str):
    assert check_open_files({"a": replace(GOOD, open_files=limit)}).status == status


def test_a_clock_is_off_only_where_the_round_trip_does_not_explain_it():
    assert check_clocks({"a": (1.4, 0.5), "b": (-0.2, 0.1)}) == Check("clocks", "ok", "1.90 s apart at most")
    off = check_clocks({"a": (0.0, 0.1), "b": (-3.0, 0.25)})
    assert (off.status, off.found) == ("warn", "b: -3.00 s, give or take 0.25")


def test_a_long_list_is_cut():
    there = {f"n{number}": replace(GOOD, open_files=10) for number in range(6)}
    assert check_open_files(there).found.endswith("n3: 10; and 2 nodes more")


def test_the_exit_status_says_whether_it_is_the_fleet():
    bad, homeless = Check("x", "fail", ""), Check("y", "fail", "", of_fleet=True)
    assert exit_status([Check("x", "warn", "")]) == 0
    assert exit_status([bad]) == 2
    assert exit_status([bad, homeless]) == 3
    assert worst([]) == "ok"
