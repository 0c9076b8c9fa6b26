"""Which nodes a fleet needs: a group of nodes for each kind of device, and a head without clients.

An actor takes its clients' device resource and memory on one node (`runtime.placement`), so a node has room for so many
whole actors. Each node has room for the server's actor besides: the placement puts it where there is most memory, and
another takes its place where it is lost.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import UserError
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.runtime.care import Sizes
from fedknow_ray.runtime.placement import (
    DEVICE_LABEL,
    DEVICE_RESOURCE,
    SERVER_MEMORY_BYTES,
    ActorSpec,
    plan_actors,
    server_memory_bytes,
)

MIB = 2**20
#: More processors than this make no node of few clients faster; a machine with more can be given more.
MOST_DEFAULT_CPUS = 4
#: Estimated: CIFAR-100 takes 184 MB, once a node, and an update of cnn6 5 MB. Ray writes to the disk what has no room.
OBJECT_STORE_BYTES = 512 * MIB
#: A node's own processes held 420 to 560 MB where they were measured (Ray 2.60, with and without a dashboard).
RAY_PROCESSES_BYTES = 768 * MIB
#: Estimated: the process that carries a run through holds torch, the data set and the rows.
DRIVER_BYTES = 1024 * MIB

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes for the clients of one kind of device, all alike: *clients* and *actor_bytes* are the most that one holds.

    *cpus* is how many visits of one thread it makes at once.
    """

    device: str
    nodes: int
    clients: int
    cpus: int
    actor_bytes: int

    @property
    def resources(self) -> dict[str, int]:
        """The custom resources of a node."""
        return {DEVICE_RESOURCE.format(self.device): self.clients}

    @property
    def labels(self) -> dict[str, str]:
        """The labels of a node."""
        return {DEVICE_LABEL: self.device}

    @property
    def memory_bytes(self) -> int:
        """What Ray may hand out on a node: for its actors, and for the server's."""
        return self.actor_bytes + SERVER_MEMORY_BYTES

    @property
    def host_bytes(self) -> int:
        """What the machine or the container of a node needs in all."""
        return self.memory_bytes + OBJECT_STORE_BYTES + RAY_PROCESSES_BYTES


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """The nodes for the fleet of one config; *name* is the config's, as a name that every kind of cluster takes."""

    name: str
    groups: tuple[NodeGroup, ...]

    @property
    def kinds(self) -> tuple[NodeGroup, ...]:
        """The group of each worker node, one after the other."""
        return tuple(group for group in self.groups for _ in range(group.nodes))

    @property
    def clients(self) -> str:
        """The fleet in words: on how many nodes so many clients of each kind are."""
        return ", ".join(
            f"{group.nodes} node{'s' if group.nodes > 1 else ''} of {group.clients} {group.device}"
            for group in self.groups
        )


#: The head has no processor for clients, so that none of their visits slows it down.
HEAD_MEMORY_BYTES = SERVER_MEMORY_BYTES
HEAD_HOST_BYTES = HEAD_MEMORY_BYTES + DRIVER_BYTES + OBJECT_STORE_BYTES + RAY_PROCESSES_BYTES


def plan_cluster(
    config: RunConfig,
    name: str,
    sizes: Sizes,
    *,
    clients_per_node: int | None = None,
    cpus_per_node: int | None = None,
) -> ClusterPlan:
    """Return the nodes for the fleet of a config called *name*, whose clients and visits have the given sizes.

    *clients_per_node* None: one node for each kind of device. *cpus_per_node* None: one visit at once for each client
    of a node, four at most. With `placement.clients_per_actor: auto` there is room for an actor a client.

    Raises:
        UserError: if a device's name is no label that a node can have, or one of the numbers is too small.
    """
    for option, value in (("--clients-per-node", clients_per_node), ("--cpus-per-node", cpus_per_node)):
        if value is not None and value < 1:
            raise UserError(f"{option} must be 1 or more, got {value}")
    placement = config.placement
    actors = plan_actors(
        config.devices,
        clients_per_actor=1 if placement.clients_per_actor == "auto" else placement.clients_per_actor,
        client_bytes=sizes.client_bytes,
        visit_bytes=sizes.visit_bytes,
        memory_per_actor=placement.memory_per_actor,
        fits=lambda actors: True,
    )
    # the server's actor may be on any node
    serves = METHODS.get(config.method.name).serves
    serving_bytes = server_memory_bytes(sizes.visit_bytes, serves=serves) - SERVER_MEMORY_BYTES
    groups = []
    for device in dict.fromkeys(config.devices):
        _check_label(device)
        own = [actor for actor in actors if actor.device == device]
        groups.append(_group(device, own, clients_per_node, cpus_per_node, config.training.threads, serving_bytes))
    return ClusterPlan(name=cluster_name(name), groups=tuple(groups))


def _group(
    device: str,
    actors: list[ActorSpec],
    clients_per_node: int | None,
    cpus: int | None,
    threads: int,
    serving_bytes: int,
) -> NodeGroup:
    largest = max(len(actor.client_ids) for actor in actors)
    if clients_per_node is not None and clients_per_node < largest:
        raise UserError(
            f"--clients-per-node is {clients_per_node}, and an actor of {device} has {largest} clients "
            "(placement.clients_per_actor): give a larger number, or put fewer clients into an actor"
        )
    most = len(actors) if clients_per_node is None else clients_per_node // largest
    nodes = math.ceil(len(actors) / most)
    # equal shares, and room for any so many of the actors, since Ray chooses which
    share = math.ceil(len(actors) / nodes)
    clients = sum(sorted((len(actor.client_ids) for actor in actors), reverse=True)[:share])
    actor_bytes = sum(sorted((actor.memory_bytes for actor in actors), reverse=True)[:share])
    # whole MiB, which every kind of file can say
    actor_bytes = math.ceil((actor_bytes + serving_bytes) / MIB) * MIB
    return NodeGroup(device, nodes, clients, cpus or threads * min(share, MOST_DEFAULT_CPUS), actor_bytes)


def _check_label(device: str) -> None:
    if _LABEL_VALUE.fullmatch(device) is None:
        raise UserError(
            f"the device name {device!r} cannot be the label of a node: it may have 63 letters, digits, '-', '_' and "
            "'.', and must begin and end with a letter or digit; call the device something else"
        )


def cluster_name(text: str) -> str:
    """Return a name for a cluster that Kubernetes, Slurm and a file system take: a-z, 0-9 and -, at most 30.

    >>> cluster_name("My run_2"), cluster_name("2024"), cluster_name("--")
    ('my-run-2', 'fleet-2024', 'fleet')
    """
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not plain or not plain[0].isalpha():
        plain = f"fleet-{plain}".rstrip("-")
    return plain[:30].rstrip("-")
