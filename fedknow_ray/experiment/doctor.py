"""`fedknow-ray doctor`: does this fleet fit this cluster, and is the cluster fit for a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import UserError
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
)
from fedknow_ray.experiment.fitting import fleet_sizes
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.runtime.care import Sizes
from fedknow_ray.runtime.node_facts import versions_here
from fedknow_ray.runtime.placement import ActorSpec, NodeOffer, find_homeless, plan_actors, server_memory_bytes

if TYPE_CHECKING:
    from fedknow_ray.runtime.probing import NodeProbe


def examine(
    config: RunConfig | None,
    *,
    address: str | None = None,
    insecure: bool = False,
    wait_s: float = 0.0,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Check]:
    """Return what is found of a cluster, or of this machine where *address* is None, for a fleet if one is given.

    A cluster that cannot be joined, or may not, is a check that fails. Nodes may take *wait_s* to join until the fleet
    fits; *tell* is told that they are waited for.

    Raises:
        UserError: if the data are missing that say how much memory the fleet takes.
    """
    from fedknow_ray.runtime.ray_session import joined_ray, own_ray

    sizes = None if config is None else fleet_sizes(config)
    session: Callable[[], AbstractContextManager[None]] = (
        (lambda: own_ray(config.devices if config else (), len(os.sched_getaffinity(0))))
        if address is None
        else (lambda: joined_ray(address, insecure=insecure))
    )
    with ExitStack() as stack:
        try:
            stack.enter_context(session())
        except UserError as error:
            found, _, todo = str(error).partition("\n")
            return [Check("connection", "fail", found, todo.strip())]
        return [_admitted(address, insecure=insecure), *_connected(config, sizes, address, wait_s, tell)]


def _admitted(address: str | None, *, insecure: bool) -> Check:
    if address is None:
        return Check("authentication", "ok", "a Ray of our own asks for a token, on 127.0.0.1 alone")
    if not insecure:
        return Check("authentication", "ok", f"the cluster at {address} asks for a token, and takes ours")
    return Check(
        "authentication",
        "warn",
        "not looked at, as --insecure says",
        "start the cluster with RAY_AUTH_MODE=token and a RAY_AUTH_TOKEN, unless the network keeps others out",
    )


def _connected(
    config: RunConfig | None, sizes: Sizes | None, address: str | None, wait_s: float, tell: Callable[[str], None]
) -> list[Check]:
    # imports ray, which reads its environment when it is imported: the session comes first
    from fedknow_ray.runtime.probing import cluster_address, probe_nodes, wait_for_nodes

    if config is None or sizes is None:
        return check_machines(probe_nodes())

    server_bytes = _server_bytes(config, sizes)

    def fits(offers: Sequence[NodeOffer]) -> bool:
        actors = fleet_actors(config, sizes, offers)
        return not find_homeless(actors, offers, server_bytes)

    offers = wait_for_nodes(fits, wait_s, tell)
    actors = fleet_actors(config, sizes, offers)
    homeless = find_homeless(actors, offers, server_bytes)
    fleet = check_fleet(actors, homeless, offers, None if address is None else cluster_address())
    return [*fleet, check_server(offers, server_bytes), *check_machines(probe_nodes())]


def fleet_actors(config: RunConfig, sizes: Sizes, nodes: Sequence[NodeOffer]) -> list[ActorSpec]:
    """Return the actors that a run of a config would make on some nodes."""
    return plan_actors(
        config.devices,
        clients_per_actor=config.placement.clients_per_actor,
        client_bytes=sizes.client_bytes,
        visit_bytes=sizes.visit_bytes,
        memory_per_actor=config.placement.memory_per_actor,
        fits=lambda actors: not find_homeless(actors, nodes, _server_bytes(config, sizes)),
    )


def _server_bytes(config: RunConfig, sizes: Sizes) -> int:
    return server_memory_bytes(sizes.visit_bytes, serves=METHODS.get(config.method.name).serves)


def check_machines(probes: Sequence[NodeProbe]) -> list[Check]:
    """Return what is found of the nodes themselves."""
    names = {probe.node_id: f"{probe.address} ({probe.node_id[:6]})" for probe in probes}
    there = {names[probe.node_id]: probe.facts for probe in probes if probe.facts is not None}
    errors = {names[probe.node_id]: probe.error for probe in probes if probe.error is not None}
    skews = {names[probe.node_id]: (probe.skew_s, probe.skew_bound_s) for probe in probes if probe.facts is not None}
    return [
        check_nodes(errors, len(there)),
        *check_versions(versions_here(), there),
        check_shared_memory(there),
        check_disk(there),
        check_open_files(there),
        check_clocks(skews),
    ]
