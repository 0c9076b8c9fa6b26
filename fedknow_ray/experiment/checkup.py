"""What `fedknow-ray doctor` finds out, from what was seen: pure logic.

A check says what was found and, where it is not ok, what to do. *fail* is what a run would fail of, or end in other
bits; *warn* what may slow it down or what it may run out of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fedknow_ray.runtime.node_facts import NodeFacts
from fedknow_ray.runtime.placement import DEVICE_LABEL, DEVICE_RESOURCE, SERVER_MEMORY_BYTES, ActorSpec, NodeOffer
from fedknow_ray.units import format_bytes

Status: TypeAlias = Literal["ok", "warn", "fail"]

#: Ray makes no more objects on a disk that is fuller (`local_fs_capacity_threshold` of 2.60).
FULLEST_DISK = 0.95
#: Estimated: Ray's logs, and what it moves out of memory, of a run of hours.
WANTED_DISK_BYTES = 2 * 10**9
#: What Ray itself wants before it warns of connections that fail (2.60, `ulimit` of `ray start`), and what is too few
#: for the actors of a small fleet: one holds 42 files, and its raylet some for each.
WANTED_OPEN_FILES, FEWEST_OPEN_FILES = 4096, 1024
#: A smaller /dev/shm, such as a container's 64 MB, makes Ray keep its objects on the disk.
WANTED_SHM_BYTES = 512 * 2**20
#: Nothing in a run's bits depends on a clock; times of day in its events and logs do.
LARGEST_SKEW_S = 1.0
#: In how many parts a version must be the driver's for a run to start at all.
PARTS = {"python": 2, "ray": 3, "fedknow-ray": 3, "torch": 3}
_RANK: dict[Status, int] = {"ok": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; *todo* is empty where it is ok. *of_fleet*: it says whether the fleet fits."""

    name: str
    status: Status
    found: str
    todo: str = ""
    of_fleet: bool = False


def exit_status(checks: Iterable[Check]) -> int:
    """Return 0 if nothing fails, 3 if the fleet does not fit, else 2."""
    failed = [check for check in checks if check.status == "fail"]
    if not failed:
        return 0
    return 3 if any(check.of_fleet for check in failed) else 2


def check_fleet(
    actors: Sequence[ActorSpec], homeless: Sequence[ActorSpec], nodes: Sequence[NodeOffer], address: str | None
) -> list[Check]:
    """Return a check for each kind of device: what its clients need, what nodes offer, what is missing.

    *homeless* are the actors that no node has room for; *address* None is a Ray of our own on this machine.
    """
    return [
        _check_device(
            device,
            [actor for actor in actors if actor.device == device],
            sum(actor.device == device for actor in homeless),
            nodes,
            address,
        )
        for device in dict.fromkeys(actor.device for actor in actors)
    ]


def check_server(nodes: Sequence[NodeOffer], server_bytes: int = SERVER_MEMORY_BYTES) -> Check:
    """Return whether a node has the memory that the server's actor asks for."""
    needs = f"1 actor of {format_bytes(server_bytes)}"
    most_bytes = max((node.memory_bytes for node in nodes), default=0)
    found = f"{needs}; free: {format_bytes(most_bytes)} on one node"
    if most_bytes >= server_bytes:
        return Check("fleet server", "ok", found, of_fleet=True)
    return Check(
        "fleet server", "fail", found, "add a node with more memory, or start one with --memory", of_fleet=True
    )


def _check_device(
    device: str, actors: Sequence[ActorSpec], homeless: int, nodes: Sequence[NodeOffer], address: str | None
) -> Check:
    name, resource = f"fleet {device}", DEVICE_RESOURCE.format(device)
    clients = sum(len(actor.client_ids) for actor in actors)
    needs = f"{_many(clients, 'client')} in {_many(len(actors), 'actor')} of {format_bytes(actors[0].memory_bytes)}"
    labelled = [node for node in nodes if node.labels.get(DEVICE_LABEL) == device]
    offering = [node for node in labelled or nodes if node.resources.get(resource, 0.0) > 0]
    units = sum(node.resources[resource] for node in offering)
    memory = format_bytes(sum(node.memory_bytes for node in offering))
    offers = (
        f"{units:g} of {resource} on {_many(len(offering), 'node')} with {memory}" if offering else f"no {resource}"
    )
    if not homeless:
        return Check(name, "ok", f"{needs}; free: {offers}", of_fleet=True)
    found = f"{needs}; free: {offers}; {_many(homeless, 'actor')} without a node"
    missing = clients - int(units)
    if missing > 0:
        if address is None:
            # a Ray of our own offers as many as there are clients
            todo = "start a Ray with what is missing, and give --address"
        else:
            todo = f"with the cluster's token in the environment: {start_command(device, missing, address)}"
        elsewhere = sum(node.resources.get(resource, 0.0) for node in nodes) - units
        if elsewhere > 0:
            todo += f"; the {elsewhere:g} on nodes without the label {DEVICE_LABEL}={device} do not count"
    elif all(node.cpus <= 0 for node in offering):
        todo = "give the nodes that offer it processors: ray start --num-cpus=N"
    else:
        largest = max(actor.memory_bytes for actor in actors)
        todo = (
            f"memory is short: an actor asks for {format_bytes(largest)}. Add a node with more, share actors "
            "(--set placement.clients_per_actor=auto), or give them less (--set placement.memory_per_actor=SIZE)"
        )
    return Check(name, "fail", found, todo, of_fleet=True)


def start_command(device: str, clients: int, address: str) -> str:
    """Return the command that adds a node for so many clients of a kind of device, where the token is."""
    resources = json.dumps({DEVICE_RESOURCE.format(device): clients})
    return f"ray start --address={address} --resources='{resources}' --labels={DEVICE_LABEL}={device}"


def check_versions(here: Mapping[str, str], there: Mapping[str, NodeFacts]) -> list[Check]:
    """Return a check for Python and each package: the driver's version *here* against that of each node."""
    return [_check_version(name, here[name], {node: facts.versions for node, facts in there.items()}) for name in PARTS]


def _check_version(name: str, here: str, there: Mapping[str, Mapping[str, str]]) -> Check:
    others = {node: versions.get(name, "none") for node, versions in there.items()}
    others = {node: version for node, version in others.items() if version != here}
    if not others:
        return Check(f"version of {name}", "ok", f"{here}, on {_many(len(there), 'node')} as well")
    found = f"{here} here; {_listed(others)}"
    needed = PARTS[name]
    alike = all(version.split(".")[:needed] == here.split(".")[:needed] for version in others.values())
    if name == "torch":
        # sums may be taken in another order, and then a run ends in other bits
        return Check(f"version of {name}", "fail", found, f"install torch {here} there: other versions, other bits")
    if alike:
        return Check(f"version of {name}", "warn", found, f"Ray wants them alike; install {name} {here} there")
    return Check(f"version of {name}", "fail", found, f"install {name} {here} there")


def check_nodes(errors: Mapping[str, str], answered: int) -> Check:
    """Return whether all nodes have answered; *errors* is why some have not."""
    if not errors:
        return Check("nodes", "ok", f"{answered} answered")
    missing = " ".join(errors.values())
    todo = (
        "install fedknow-ray there"
        if "No module named 'fedknow_ray" in missing
        else "see Ray's logs on these nodes, and take them off the cluster if they hang"
    )
    return Check("nodes", "fail", f"{answered} answered; {_listed(errors)}", todo)


def check_shared_memory(there: Mapping[str, NodeFacts]) -> Check:
    """Return whether each node's /dev/shm has room for Ray's objects."""
    small = {node: format_bytes(facts.shm_bytes) for node, facts in there.items() if facts.shm_bytes < WANTED_SHM_BYTES}
    if not small:
        least = min((facts.shm_bytes for facts in there.values()), default=0)
        return Check("/dev/shm", "ok", f"{format_bytes(least)} or more")
    todo = (
        f"give it {format_bytes(WANTED_SHM_BYTES)} or more (docker run --shm-size=1g; an emptyDir of medium Memory in "
        "Kubernetes): Ray keeps its objects on the disk otherwise, which is slower"
    )
    return Check("/dev/shm", "warn", _listed(small), todo)


def check_disk(there: Mapping[str, NodeFacts]) -> Check:
    """Return whether the disk of Ray's folder has room, node by node."""
    full = {node: _disk(facts) for node, facts in there.items() if _used(facts) > FULLEST_DISK}
    if full:
        todo = "free space there, or start Ray with --temp-dir on another disk: Ray makes no objects on a full one"
        return Check("disk", "fail", _listed(full), todo)
    short = {node: _disk(facts) for node, facts in there.items() if facts.disk_free_bytes < WANTED_DISK_BYTES}
    if short:
        return Check("disk", "warn", _listed(short), f"free {format_bytes(WANTED_DISK_BYTES)} there for a long run")
    least = min((facts.disk_free_bytes for facts in there.values()), default=0)
    return Check("disk", "ok", f"{format_bytes(least)} or more free in Ray's folders")


def _used(facts: NodeFacts) -> float:
    return 1 - facts.disk_free_bytes / facts.disk_bytes if facts.disk_bytes else 0.0


def _disk(facts: NodeFacts) -> str:
    return f"{format_bytes(facts.disk_free_bytes)} free, {_used(facts):.0%} in use, in {facts.folder}"


def check_open_files(there: Mapping[str, NodeFacts]) -> Check:
    """Return whether processes may open enough files, sockets among them."""
    limits = {node: facts.open_files for node, facts in there.items() if facts.open_files is not None}
    few = {node: str(limit) for node, limit in limits.items() if limit < WANTED_OPEN_FILES}
    if not few:
        return Check("open files", "ok", f"{min(limits.values())} or more" if limits else "no limit")
    status: Status = "fail" if any(limits[node] < FEWEST_OPEN_FILES for node in few) else "warn"
    return Check("open files", status, _listed(few), f"ulimit -n {WANTED_OPEN_FILES} or more before `ray start` there")


def check_clocks(skews: Mapping[str, tuple[float, float]]) -> Check:
    """Return whether clocks agree: (seconds ahead of this machine's, how far off that may be) of each node."""
    off = {
        node: f"{skew_s:+.2f} s, give or take {bound_s:.2f}"
        for node, (skew_s, bound_s) in skews.items()
        if abs(skew_s) - bound_s > LARGEST_SKEW_S
    }
    if off:
        todo = "set the clocks there by NTP: times in events and logs are of each machine's own"
        return Check("clocks", "warn", _listed(off), todo)
    most = max((abs(skew_s) + bound_s for skew_s, bound_s in skews.values()), default=0.0)
    return Check("clocks", "ok", f"{most:.2f} s apart at most")


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def worst(checks: Iterable[Check]) -> Status:
    """Return the worst status of some checks."""
    return max((check.status for check in checks), key=_RANK.__getitem__, default="ok")


def _listed(values: Mapping[str, str], most: int = 4) -> str:
    shown = [f"{node}: {value}" for node, value in values.items()]
    return "; ".join(shown[:most]) + (f"; and {_many(len(shown) - most, 'node')} more" if len(shown) > most else "")
