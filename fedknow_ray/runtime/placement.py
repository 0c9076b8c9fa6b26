"""Which clients share an actor, what each actor asks of its node, and whether the nodes can give it. Pure logic.

One client an actor unless the config says otherwise; `auto` packs clients of one device kind, as few an actor as fit
into the nodes' memory. An actor asks for one unit of its device's custom resource a client ("device:jetson-nano": 1),
memory, and a small share of a processor: how many visits run at once is the dispatcher's affair, not Ray's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedknow_ray.errors import PlacementError
from fedknow_ray.units import format_bytes

#: A process with torch held 346 MB in one measurement; what a visit holds and its clients' states come on top.
ACTOR_BASE_BYTES = 400 * 2**20
#: The server's actor, which imports no torch.
SERVER_MEMORY_BYTES = 400 * 2**20
#: Ray counts processors in ten-thousandths; a thousandth lets 1,000 actors share one.
CPU_UNITS = 10_000
ACTOR_CPUS = 0.001
DEVICE_LABEL = "fedknow.io/device"
DEVICE_RESOURCE = "device:{}"


def server_memory_bytes(visit_bytes: int, *, serves: bool) -> int:
    """Return what the server's actor asks for.

    Where a method *serves* it is a process with torch as well, with a network, its gradients and one batch: no more
    than a visit holds, *visit_bytes*.
    """
    return SERVER_MEMORY_BYTES + (ACTOR_BASE_BYTES + visit_bytes if serves else 0)


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """One client actor to be: its clients, all of one device kind, and the memory that it asks for."""

    device: str
    client_ids: tuple[int, ...]
    memory_bytes: int

    @property
    def resources(self) -> dict[str, float]:
        """The custom resources that it asks for."""
        return {DEVICE_RESOURCE.format(self.device): float(len(self.client_ids))}


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """What one node has free: processors, memory, custom resources, and its labels."""

    node_id: str
    cpus: float
    memory_bytes: float
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def plan_actors(
    devices: Sequence[str],
    *,
    clients_per_actor: int | str,
    client_bytes: int,
    memory_per_actor: int | None,
    fits: Callable[[Sequence[ActorSpec]], bool],
    visit_bytes: int = 0,
) -> list[ActorSpec]:
    """Return the actors for a fleet: *devices* one a client, *client_bytes* the state of one client.

    *visit_bytes* is the most that one visit holds; an actor makes one at a time. *clients_per_actor* a number is kept
    as it is; "auto" takes the least number whose actors *fits* says that the nodes can hold.
    """
    base_bytes = ACTOR_BASE_BYTES + visit_bytes
    if clients_per_actor != "auto":
        return _pack(devices, int(clients_per_actor), base_bytes, client_bytes, memory_per_actor)
    most = max(Counter(devices).values())
    for share in range(1, most + 1):
        actors = _pack(devices, share, base_bytes, client_bytes, memory_per_actor)
        if fits(actors):
            return actors
    return _pack(devices, most, base_bytes, client_bytes, memory_per_actor)


def _pack(
    devices: Sequence[str], share: int, base_bytes: int, client_bytes: int, memory_per_actor: int | None
) -> list[ActorSpec]:
    actors = []
    for device in dict.fromkeys(devices):
        clients = [client_id for client_id, kind in enumerate(devices) if kind == device]
        # equal shares: 10 clients at most 4 an actor become 4 + 3 + 3, so that no actor is the last to finish
        groups = math.ceil(len(clients) / share)
        for group in range(groups):
            members = tuple(clients[len(clients) * group // groups : len(clients) * (group + 1) // groups])
            memory = memory_per_actor or base_bytes + len(members) * client_bytes
            actors.append(ActorSpec(device, members, memory))
    return sorted(actors, key=lambda actor: actor.client_ids)


def check_fits(actors: Sequence[ActorSpec], nodes: Sequence[NodeOffer], server_bytes: int = 0) -> None:
    """Refuse a fleet that the nodes cannot hold, before anything is started.

    Raises:
        PlacementError: with a table of what each kind of device needs and what the nodes offer.
    """
    homeless = find_homeless(actors, nodes, server_bytes)
    if homeless:
        raise PlacementError(describe_shortage(actors, homeless, nodes))


def find_homeless(actors: Sequence[ActorSpec], nodes: Sequence[NodeOffer], server_bytes: int = 0) -> list[ActorSpec]:
    """Return the actors that no node has room for.

    The server is put first, where there is most memory; then each actor on the first node with room, the largest first.
    Where any node is labelled for a device, the actors of that device go to such nodes only, as Ray is told.
    """
    rooms = [_Room(node, _cpu_units(node.cpus), node.memory_bytes, dict(node.resources)) for node in nodes]
    if rooms:
        max(rooms, key=lambda room: room.memory_bytes).memory_bytes -= server_bytes
    labelled = {node.labels.get(DEVICE_LABEL) for node in nodes}
    homeless = []
    for actor in sorted(actors, key=lambda actor: -actor.memory_bytes):
        own = [room for room in rooms if room.node.labels.get(DEVICE_LABEL) == actor.device]
        if not any(room.take(actor) for room in (own if actor.device in labelled else rooms)):
            homeless.append(actor)
    return homeless


@dataclass(slots=True)
class _Room:
    """What is left of a node; processors in Ray's units, since thousandths do not add up to one as floats."""

    node: NodeOffer
    cpu_units: int
    memory_bytes: float
    resources: dict[str, float]

    def take(self, actor: ActorSpec) -> bool:
        """Put an actor here if there is room; return whether there was."""
        units = _cpu_units(ACTOR_CPUS)
        enough = all(self.resources.get(name, 0.0) >= amount for name, amount in actor.resources.items())
        if not enough or self.cpu_units < units or self.memory_bytes < actor.memory_bytes:
            return False
        for name, amount in actor.resources.items():
            self.resources[name] -= amount
        self.cpu_units -= units
        self.memory_bytes -= actor.memory_bytes
        return True


def _cpu_units(cpus: float) -> int:
    return round(cpus * CPU_UNITS)


def describe_shortage(actors: Sequence[ActorSpec], homeless: Sequence[ActorSpec], nodes: Sequence[NodeOffer]) -> str:
    """Return a table of what each kind of device needs and what the nodes offer, and what to do about it."""
    lost = Counter(actor.device for actor in homeless)
    lines = [f"the fleet cannot be placed: {len(homeless)} of {len(actors)} client actors find no node"]
    lines.append(f"  {'device':<22}{'clients':>8}{'actors':>8}{'memory':>12}{'offered':>9}{'without a place':>17}")
    for device in dict.fromkeys(actor.device for actor in actors):
        own = [actor for actor in actors if actor.device == device]
        offered = sum(node.resources.get(DEVICE_RESOURCE.format(device), 0.0) for node in nodes)
        clients = sum(len(actor.client_ids) for actor in own)
        memory = format_bytes(sum(actor.memory_bytes for actor in own))
        lines.append(f"  {device:<22}{clients:>8}{len(own):>8}{memory:>12}{offered:>9.0f}{lost[device]:>17}")
    total = format_bytes(int(sum(node.memory_bytes for node in nodes)))
    cpus = sum(node.cpus for node in nodes)
    lines.append(f"  {len(nodes)} node(s) offer {cpus:g} processors and {total} of memory in all")
    lines.append(
        "  start nodes with the missing resources (ray start --resources '{\"device:NAME\": N}'), take clients"
    )
    lines.append("  off the fleet, or set placement.clients_per_actor to a larger number or to auto")
    return "\n".join(lines)
