"""Which clients share an actor, and whether nodes can hold them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.errors import PlacementError
from fedknow_ray.runtime.placement import (
    ACTOR_BASE_BYTES,
    ActorSpec,
    NodeOffer,
    check_fits,
    find_homeless,
    plan_actors,
    server_memory_bytes,
)

MIB = 2**20
devices = st.lists(st.sampled_from(["nano", "tx2", "pi"]), min_size=1, max_size=40)


def plan(
    fleet: list[str], clients_per_actor: int | str = 1, *, memory: int | None = None, available: float = 1e15
) -> list[ActorSpec]:
    return plan_actors(
        fleet,
        clients_per_actor=clients_per_actor,
        client_bytes=10 * MIB,
        memory_per_actor=memory,
        fits=lambda actors: sum(actor.memory_bytes for actor in actors) <= available,
    )


@given(devices, st.sampled_from([1, 2, 3, 7, "auto"]), st.integers(1, 10**11))
def test_every_client_lives_in_one_actor_of_its_kind(fleet: list[str], share: int | str, available: int):
    actors = plan(fleet, share, available=available)
    assert sorted(c for actor in actors for c in actor.client_ids) == list(range(len(fleet)))
    for actor in actors:
        assert {fleet[c] for c in actor.client_ids} == {actor.device}
        assert list(actor.client_ids) == sorted(actor.client_ids)


@given(devices, st.integers(1, 9))
def test_a_number_of_clients_an_actor_is_kept(fleet: list[str], share: int):
    """As few actors as that allows, in shares that differ by one at most."""
    actors = plan(fleet, share)
    for device, count in Counter(fleet).items():
        sizes = [len(actor.client_ids) for actor in actors if actor.device == device]
        assert max(sizes) <= share
        assert len(sizes) == -(-count // share)
        assert max(sizes) - min(sizes) <= 1


@given(devices)
def test_auto_is_one_to_one_where_that_fits(fleet: list[str]):
    needed = len(fleet) * (ACTOR_BASE_BYTES + 10 * MIB)
    assert plan(fleet, "auto", available=needed) == plan(fleet, 1)


@given(devices, st.integers(1, 40))
def test_auto_packs_no_more_than_it_has_to(fleet: list[str], actors_that_fit: int):
    available = actors_that_fit * ACTOR_BASE_BYTES + len(fleet) * 10 * MIB
    actors = plan(fleet, "auto", available=available)
    share = max(len(actor.client_ids) for actor in actors)
    if sum(actor.memory_bytes for actor in actors) > available:
        assert len(actors) == len(set(fleet)), "nothing fits: the least that can be"
    elif share > 1:
        assert sum(actor.memory_bytes for actor in plan(fleet, share - 1)) > available


def test_shares_are_equal_rather_than_full():
    """10 clients at most 4 an actor: 3, 3 and 4."""
    assert sorted(len(actor.client_ids) for actor in plan(["nano"] * 10, 4)) == [3, 3, 4]


def test_memory_is_a_base_and_each_clients_own():
    assert [actor.memory_bytes for actor in plan(["nano"] * 3, 3)] == [(400 + 30) * MIB]


def test_a_given_memory_is_asked_for_as_it_is():
    assert [actor.memory_bytes for actor in plan(["nano"] * 3, 2, memory=5)] == [5, 5]


def test_actors_come_in_the_order_of_their_clients():
    assert [actor.client_ids for actor in plan(["pi", "nano", "pi", "nano"], 2)] == [(0, 2), (1, 3)]


def test_an_actor_asks_for_one_unit_of_its_device_a_client():
    assert plan(["pi", "pi"], 2)[0].resources == {"device:pi": 2.0}


def node(name: str, *, cpus: float = 4, memory: float = 8 * 2**30, **offers: float) -> NodeOffer:
    return NodeOffer(name, cpus, memory, {f"device:{device}": count for device, count in offers.items()})


def test_a_fleet_that_fits_is_let_through():
    check_fits(plan(["nano", "nano", "pi"]), [node("a", nano=1, pi=1), node("b", nano=1)])


def test_a_thousand_actors_share_a_processor():
    check_fits(plan(["nano"] * 1000, memory=1), [node("a", cpus=1, nano=1000)])


def test_offers_are_left_as_they_were():
    offer = node("a", nano=2)
    check_fits(plan(["nano", "nano"]), [offer])
    assert offer.resources == {"device:nano": 2}


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [node("a", nano=1)],
        [node("a", nano=2, memory=500 * MIB)],
        [node("a", nano=2, cpus=0.0015)],
        [node("a", pi=2)],
    ],
    ids=["no node", "too few", "too little memory", "too few processors", "another device"],
)
def test_a_fleet_that_does_not_fit_is_refused(nodes: list[NodeOffer]):
    with pytest.raises(PlacementError, match="the fleet cannot be placed"):
        check_fits(plan(["nano", "nano"]), nodes)


def test_a_packed_actor_needs_all_its_units_on_one_node():
    with pytest.raises(PlacementError):
        check_fits(plan(["nano", "nano"], 2), [node("a", nano=1), node("b", nano=1)])


def test_the_shortage_names_what_each_device_needs_and_what_is_offered():
    fleet = ["jetson-nano"] * 3 + ["raspberry-pi-4-4gb"]
    offers = {"device:jetson-nano": 1.0}
    with pytest.raises(PlacementError) as caught:
        check_fits(plan(fleet, memory=500 * MIB), [NodeOffer("a", 2.0, 4.0 * 2**30, offers)])
    lines = str(caught.value).splitlines()
    assert lines[0] == "the fleet cannot be placed: 3 of 4 client actors find no node"
    assert [line.split() for line in lines[2:4]] == [
        ["jetson-nano", "3", "3", "1.57", "GB", "1", "2"],
        ["raspberry-pi-4-4gb", "1", "1", "524", "MB", "0", "1"],
    ]
    assert "1 node(s) offer 2 processors and 4.29 GB of memory in all" in lines[4]
    assert "ray start --resources" in str(caught.value)
    assert "placement.clients_per_actor" in str(caught.value)
    assert caught.value.exit_status == 3


@given(devices, st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=4))
def test_the_refusal_counts_actors_beyond_what_is_offered(fleet: list[str], counts: list[tuple[int, int, int]]):
    """One to one, with memory to spare, the custom resources alone decide."""
    nodes = [node(str(i), memory=1e15, cpus=64, nano=n, tx2=t, pi=p) for i, (n, t, p) in enumerate(counts)]
    offered = Counter({name: sum(c[i] for c in counts) for i, name in enumerate(("nano", "tx2", "pi"))})
    missing = sum((Counter(fleet) - offered).values())
    if not missing:
        check_fits(plan(fleet), nodes)
        return
    with pytest.raises(PlacementError, match=f"{missing} of {len(fleet)} client actors find no node"):
        check_fits(plan(fleet), nodes)


def test_the_server_takes_its_room_first():
    """Two actors of 400 MiB on a node of 1,000 MiB, unless a server of 300 MiB is there as well."""
    actors = [ActorSpec("nano", (client,), 400 * MIB) for client in range(2)]
    nodes = [NodeOffer("n", 2.0, 1000 * MIB, {"device:nano": 2.0})]
    check_fits(actors, nodes)
    with pytest.raises(PlacementError, match="1 of 2 client actors find no node"):
        check_fits(actors, nodes, server_bytes=300 * MIB)


def test_a_labelled_device_goes_to_its_labelled_nodes_only():
    """The unlabelled node has room, but Ray is told to use the labelled one, which is full."""
    resources = {"device:nano": 2.0}
    labelled = NodeOffer("a", 2.0, 100 * MIB, resources, {"fedknow.io/device": "nano"})
    roomy = NodeOffer("b", 2.0, 9000 * MIB, resources)
    actors = [ActorSpec("nano", (0,), 400 * MIB)]
    check_fits(actors, [roomy])
    with pytest.raises(PlacementError):
        check_fits(actors, [labelled, roomy])


def test_auto_packs_until_the_nodes_can_hold_it_and_not_only_their_sum():
    """Two nodes of 1,000 MiB hold two actors of 600 MiB but not three, although 1,800 MiB are less than 2,000."""
    nodes = [NodeOffer(name, 2.0, 1000 * MIB, {"device:nano": 4.0}) for name in "ab"]
    actors = plan_actors(
        ["nano"] * 3,
        clients_per_actor="auto",
        client_bytes=0,
        visit_bytes=200 * MIB,
        memory_per_actor=None,
        fits=lambda actors: not find_homeless(actors, nodes),
    )
    assert [len(actor.client_ids) for actor in actors] == [1, 2]


def test_a_server_that_serves_asks_for_torch_and_a_visit_more():
    assert server_memory_bytes(7, serves=False) == 400 * 2**20
    assert server_memory_bytes(7, serves=True) == 800 * 2**20 + 7
