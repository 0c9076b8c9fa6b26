"""Asks each living node of the Ray that this process is connected to about itself, and what its clock says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedknow_ray.errors import WorkerError
from fedknow_ray.runtime.node_facts import NodeFacts, facts_here
from fedknow_ray.runtime.placement import NodeOffer
from fedknow_ray.runtime.ray_calls import get
from fedknow_ray.runtime.ray_session import node_offers
from fedknow_ray.runtime.timing import now_s, pause, wall_clock_s

#: A node that has just started needs seconds for its first worker process, a busy one more.
ANSWER_TIMEOUT_S = 60.0
#: The shortest of so many round trips says most of a clock.
CLOCK_ASKED = 3
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class NodeProbe:
    """What a node answered; *facts* None: why not is in *error*.

    Its clock is ahead of this machine's by *skew_s*, give or take *skew_bound_s*, half of the round trip.
    """

    node_id: str
    address: str
    facts: NodeFacts | None = None
    error: str | None = None
    skew_s: float = 0.0
    skew_bound_s: float = 0.0


def probe_nodes() -> list[NodeProbe]:
    """Return the answer of each living node, all asked at once, within a minute."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [(node["NodeID"], node["NodeManagerAddress"], _on(_facts, node["NodeID"]).remote()) for node in nodes]
    deadline_s = now_s() + ANSWER_TIMEOUT_S
    return [_answer(node_id, address, ref, deadline_s) for node_id, address, ref in asked]


def wait_for_nodes(
    suffices: Callable[[Sequence[NodeOffer]], bool], wait_s: float, tell: Callable[[str], None]
) -> list[NodeOffer]:
    """Return what the nodes offer as soon as it suffices, or after so many seconds whatever it is.

    *tell* is told what is waited for, if anything is.
    """
    deadline_s, told = now_s() + wait_s, False
    while not suffices(offers := node_offers()) and now_s() < deadline_s:
        if not told:
            tell(f"waiting for nodes with room for the fleet, {wait_s:.0f} s at most")
        told = True
        pause(_LOOK_EVERY_S)
    return offers


def cluster_address() -> str:
    """Return the HOST:PORT that another node joins this cluster by."""
    return str(ray.get_runtime_context().gcs_address)


def _answer(node_id: str, address: str, ref: Any, deadline_s: float) -> NodeProbe:
    what = f"the node {address}, asked about itself,"
    try:
        facts: NodeFacts = get(ref, max(1.0, deadline_s - now_s()), what)
        skew_s, bound_s = min((_ask_clock(node_id, what) for _ in range(CLOCK_ASKED)), key=lambda pair: pair[1])
    except WorkerError as error:
        return NodeProbe(node_id, address, error=str(error))
    return NodeProbe(node_id, address, facts, skew_s=skew_s, skew_bound_s=bound_s)


def _ask_clock(node_id: str, what: str) -> tuple[float, float]:
    before_s = wall_clock_s()
    there_s: float = get(_on(_clock, node_id).remote(), ANSWER_TIMEOUT_S, what)
    after_s = wall_clock_s()
    return there_s - (before_s + after_s) / 2, (after_s - before_s) / 2


def _on(function: Callable[[], Any], node_id: str) -> Any:
    # not soft: a node that goes meanwhile is told at once
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=here)


def _facts() -> NodeFacts:
    from ray._private import worker

    node: Any = worker._global_node
    return facts_here(node.get_session_dir_path())


def _clock() -> float:
    return wall_clock_s()
