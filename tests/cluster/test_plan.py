"""Which nodes a fleet needs: groups by hand, and the law that what is planned holds the fleet."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.cluster.plan import NodeGroup, cluster_name, plan_cluster
from fedknow_ray.config.model import FleetEntry, MethodConfig, PlacementConfig, RunConfig
from fedknow_ray.errors import UserError
from fedknow_ray.experiment.run import read_config
from fedknow_ray.methods.flcn import FlcnSettings
from fedknow_ray.runtime.care import Sizes
from fedknow_ray.runtime.placement import NodeOffer, find_homeless, plan_actors

MIB = 2**20
ROOT = Path(__file__).parents[2]
QUICKSTART = read_config(ROOT / "configs" / "quickstart.yaml")
SERVER = 400 * MIB


def with_fleet(fleet: dict[str, int], **placement: Any) -> RunConfig:
    entries = tuple(FleetEntry(device=device, count=count) for device, count in fleet.items())
    return QUICKSTART.model_copy(update={"fleet": entries, "placement": PlacementConfig(**placement)})


def test_a_kind_is_on_one_node_with_room_for_an_actor_a_client_and_the_server():
    """Each actor asks for 400 MiB, 100 of the visit and 10 of its client."""
    plan = plan_cluster(with_fleet({"nano": 3, "tx2": 8}), "a run", Sizes(10 * MIB, 100 * MIB))
    assert plan.name == "a-run"
    assert plan.groups == (
        NodeGroup("nano", nodes=1, clients=3, cpus=3, actor_bytes=1530 * MIB),
        NodeGroup("tx2", nodes=1, clients=8, cpus=4, actor_bytes=4080 * MIB),
    )
    nano = plan.groups[0]
    assert nano.memory_bytes == 1930 * MIB
    assert nano.host_bytes == (1930 + 512 + 768) * MIB
    assert nano.resources == {"device:nano": 3}
    assert nano.labels == {"fedknow.io/device": "nano"}
    assert plan.clients == "1 node of 3 nano, 1 node of 8 tx2"


def test_a_server_that_serves_has_room_for_torch_and_a_visit_on_each_node():
    config = with_fleet({"nano": 3})
    serving = config.model_copy(update={"method": MethodConfig(name="flcn", hyper=FlcnSettings())})
    plain, more = (plan_cluster(c, "x", Sizes(10 * MIB, 100 * MIB)).groups[0].memory_bytes for c in (config, serving))
    assert more - plain == 500 * MIB


def test_nodes_take_equal_shares_of_what_may_be_on_one():
    """10 clients, at most 4 a node: three nodes with room for 4, and not 4 + 4 + 2."""
    (group,) = plan_cluster(with_fleet({"nano": 10}), "x", Sizes(0, 0), clients_per_node=4).groups
    assert (group.nodes, group.clients, group.actor_bytes) == (3, 4, 1600 * MIB)


def test_an_actor_of_several_clients_stays_on_one_node():
    """10 clients by 4 are actors of 4 + 3 + 3; with 8 a node that is two actors on a node, of 7 clients at most."""
    config = with_fleet({"nano": 10}, clients_per_actor=4)
    (group,) = plan_cluster(config, "x", Sizes(MIB, 0), clients_per_node=8).groups
    assert (group.nodes, group.clients, group.actor_bytes) == (2, 7, (404 + 403) * MIB)
    with pytest.raises(UserError, match=r"--clients-per-node is 3, and an actor of nano has 4 clients"):
        plan_cluster(config, "x", Sizes(MIB, 0), clients_per_node=3)


def test_what_the_config_gives_an_actor_is_what_it_gets():
    (group,) = plan_cluster(with_fleet({"nano": 2}, memory_per_actor=MIB), "x", Sizes(0, 0), cpus_per_node=7).groups
    assert (group.actor_bytes, group.cpus) == (2 * MIB, 7)


@pytest.mark.parametrize("option", ["clients_per_node", "cpus_per_node"])
def test_numbers_below_one_are_refused(option: str):
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} must be 1 or more, got 0"):
        plan_cluster(QUICKSTART, "x", Sizes(0, 0), **{option: 0})


@pytest.mark.parametrize("device", ["nano 2", "nano'", "-nano", "nano_", "a" * 64, "$(reboot)", "ñ"])
def test_a_device_that_is_no_label_is_refused(device: str):
    """It would end up in shell commands and manifests."""
    with pytest.raises(UserError, match="cannot be the label of a node"):
        plan_cluster(with_fleet({device: 1}), "x", Sizes(0, 0))


def test_names_are_what_every_kind_of_cluster_takes():
    assert cluster_name("Ünder_the Sea.v2") == "nder-the-sea-v2"
    assert cluster_name("x" * 29 + "-y") == "x" * 29
    assert cluster_name("é") == "fleet"


@given(
    fleet=st.dictionaries(st.sampled_from(["nano", "tx2", "nx"]), st.integers(1, 30), min_size=1),
    per_actor=st.one_of(st.integers(1, 5), st.just("auto")),
    per_node=st.one_of(st.none(), st.integers(5, 12)),
    client_bytes=st.integers(0, 10**8),
)
def test_the_planned_nodes_hold_the_fleet(
    fleet: dict[str, int], per_actor: int | str, per_node: int | None, client_bytes: int
):
    """By the very check that a run makes, the server included, whether or not the head is there."""
    config = with_fleet(fleet, clients_per_actor=per_actor)
    plan = plan_cluster(config, "x", Sizes(client_bytes, 10**8), clients_per_node=per_node)
    nodes = [
        NodeOffer(f"{number}", group.cpus, group.memory_bytes, {k: float(v) for k, v in group.resources.items()},
                  group.labels)
        for number, group in enumerate(plan.kinds)
    ]  # fmt: skip
    actors = plan_actors(
        config.devices,
        clients_per_actor=per_actor,
        client_bytes=client_bytes,
        visit_bytes=10**8,
        memory_per_actor=None,
        fits=lambda actors: not find_homeless(actors, nodes, SERVER),
    )
    assert find_homeless(actors, nodes, SERVER) == []
    # and no larger than they need be
    one_less = [replace(node, memory_bytes=node.memory_bytes - SERVER - 2 * MIB) for node in nodes]
    if per_actor == 1 and len(nodes) == len(fleet):
        assert find_homeless(actors, one_less, 0) != []


def test_planning_and_rendering_load_neither_ray_nor_torch():
    code = "import sys; import fedknow_ray.cluster.render; print(*sorted({'ray', 'torch', 'numpy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
