"""Whom chaos strikes, and how: only where a visit is in flight, as the titles that Ray gives its processes say."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from chaos_places import Driver, EmulatedCluster, Place
from kin import Kin, title

VISITING = "ray::ClientActor.visit"
SERVER = "ray::ServerActor"
#: How long the server is watched for a moment at which it works.
WATCH_S = 5.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to strike at."""

    place: Place
    driver: Driver
    kin: Kin
    rng: random.Random


@dataclass(frozen=True, slots=True)
class Hit:
    """One that went home: what was struck, the process, and what was at work there."""

    kind: str
    pid: int
    at_work: str


def strike(kind: str, scene: Scene) -> Hit | None:
    """Strike a victim of a kind; None if there is none that holds a visit at this moment."""
    return STRIKES[kind](scene)


def _client_actor(scene: Scene) -> Hit | None:
    visiting = scene.kin.titled(VISITING)
    return _kill_at_work("client_actor", scene.rng.choice(visiting), VISITING) if visiting else None


def _server_actor(scene: Scene) -> Hit | None:
    """While some visit is in flight."""
    servers = scene.kin.titled(SERVER)
    if not servers or not scene.kin.titled(VISITING):
        return None
    return _kill_at_work("server_actor", servers[0], SERVER)


def _server_at_work(scene: Scene) -> Hit | None:
    """While it looks at an update or adds some up: milliseconds, so that it has to be watched."""
    servers, end_s = scene.kin.titled(SERVER), time.monotonic() + WATCH_S
    while servers and time.monotonic() < end_s:
        if title(servers[0]).startswith(SERVER + "."):
            return _kill_at_work("server_at_work", servers[0], SERVER + ".")
        time.sleep(0.0005)
    return None


def _kill_at_work(kind: str, pid: int, start: str) -> Hit | None:
    """Stop a process, look whether it is at work still, and only then kill it."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        held = title(pid)
        if held.startswith(start):
            os.kill(pid, signal.SIGKILL)
            return Hit(kind, pid, held)
        os.kill(pid, signal.SIGCONT)
    return None


def _worker_node(scene: Scene) -> Hit | None:
    return _node("worker_node", signal.SIGKILL, scene)


def _raylet_hang(scene: Scene) -> Hit | None:
    return _node("raylet_hang", signal.SIGSTOP, scene)


def _node(kind: str, sign: signal.Signals, scene: Scene) -> Hit | None:
    """Strike a node on which an actor makes a visit, and have another one join."""
    cluster, visiting = scene.place, scene.kin.titled(VISITING)
    if not visiting or not isinstance(cluster, EmulatedCluster):
        return None
    actor = scene.rng.choice(visiting)
    node = cluster.node_of(actor)
    if node is None or not (held := title(actor)).startswith(VISITING):
        return None
    pid = cluster.strike(node, sign)
    cluster.nodes.append(cluster.add())
    return Hit(kind, pid, held)


def _driver(scene: Scene) -> Hit | None:
    if not (visiting := scene.kin.titled(VISITING)) or not scene.driver.runs:
        return None
    held = title(scene.rng.choice(visiting))
    if not held.startswith(VISITING):
        return None
    scene.driver.kill()
    return Hit("driver", scene.driver.process.pid, held)


def _head(scene: Scene) -> Hit | None:
    cluster = scene.place
    if not (visiting := scene.kin.titled(VISITING)) or not isinstance(cluster, EmulatedCluster):
        return None
    held = title(scene.rng.choice(visiting))
    if not held.startswith(VISITING):
        return None
    return Hit("head", cluster.strike_head(), held)


STRIKES: dict[str, Callable[[Scene], Hit | None]] = {
    "client_actor": _client_actor,
    "server_actor": _server_actor,
    "server_at_work": _server_at_work,
    "worker_node": _worker_node,
    "raylet_hang": _raylet_hang,
    "driver": _driver,
    "head": _head,
}
#: Those that a run does not outlive: it is left, and goes on by `resume`.
ENDS_THE_RUN = frozenset(("driver", "head"))
#: Those that need nodes of their own.
NEEDS_A_CLUSTER = frozenset(("worker_node", "raylet_hang", "head"))
