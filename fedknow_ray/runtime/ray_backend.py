"""The Ray backend: one actor a client (or a few), a server actor, and references between them.

The broadcast is put once a round and passed by reference; updates go from client to server by reference. The driver
sees reports and scores, and once a round what a checkpoint takes. A cluster that cannot hold the fleet is refused
before an actor exists.

Lost actors are made good by `runtime.client_link` and `runtime.server_link`. What they cannot make good raises
`WorkerLost`, and the run goes back to its checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import ray

from fedknow_ray.errors import WorkerLost
from fedknow_ray.federation.aggregation import leaves_of, total_of
from fedknow_ray.federation.executor import MergeOrder, Saved, SavedVisit
from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.federation.worker import Assembly
from fedknow_ray.results.schema import PlacementRow
from fedknow_ray.runtime.care import Care, Sizes
from fedknow_ray.runtime.client_link import FETCH_TIMEOUT_S, ClientLink
from fedknow_ray.runtime.client_pool import ClientPool
from fedknow_ray.runtime.losses import Losses
from fedknow_ray.runtime.placement import check_fits, find_homeless, plan_actors, server_memory_bytes
from fedknow_ray.runtime.ray_calls import get
from fedknow_ray.runtime.ray_session import node_offers
from fedknow_ray.runtime.server_link import LeafCall, ServerLink
from fedknow_ray.scenario.images import Dataset
from fedknow_ray.transport.payload import Buffer


class RayExecutor:
    """Makes visits in client actors and averages their updates in the server actor.

    *server_bytes* the server's actor asks for; *care* None: a lost actor ends the run.
    """

    def __init__(
        self, assembly: Assembly, pool: ClientPool, broadcast: Buffer, server_bytes: int, care: Care | None
    ) -> None:
        recovery, compressor = assembly.config.recovery, assembly.compressor()
        losses = Losses(recovery.losses_in_a_row, care.lost if care else lambda loss: None)
        self._federated = assembly.method.federated
        self._differences = compressor is not None and compressor.feeds_back
        self._clients = ClientLink(pool, recovery, losses, care)
        self._server = ServerLink(
            compressor,
            assembly.door(broadcast),
            losses,
            replaces=care is not None,
            wait_s=recovery.wait_for_node_s,
            memory_bytes=server_bytes,
            serves=assembly.method.serves,
        )
        self._serves = assembly.method.serves
        self._broadcast = ray.put(broadcast)

    def start(self, dataset: Dataset, start: Buffer) -> None:
        """Create the actors and wait until all of them are ready."""
        self._clients.start(dataset, start)
        if self._serves:
            self._server.serve_from(*self._clients.references())
        self._server.wait_until_ready()

    def stop(self) -> None:
        """End the actors; on a cluster that is not ours they would stay until the driver leaves it."""
        self._clients.stop()
        self._server.stop()
        self._broadcast = None

    def placement(self) -> list[PlacementRow]:
        """Return one row a client: its actor, node and process as the actor itself saw them."""
        return self._clients.placement()

    def dispatch(self, orders: Sequence[VisitOrder]) -> None:
        """Queue visits from the present broadcast."""
        self._clients.dispatch(orders, self._broadcast)

    def report(self, order: VisitOrder) -> VisitReport:
        """Wait for one visit, and have the server look at its update."""
        sends, visits = order.kind is VisitKind.TRAIN and self._federated, self._clients.visits
        while True:
            report = self._clients.report(order)
            try:
                refusal = self._server.refusal(visits[order].update, visits[order].base) if sends else None
            except WorkerLost as loss:
                self._clients.make_again([order], loss)
            else:
                break
        visits.reported(order, merged=refusal is not None or not sends)
        return replace(report, refusal=refusal)

    def forget(self, orders: Collection[VisitOrder] | None = None) -> None:
        """Let go of updates."""
        self._clients.visits.merged(orders)

    def merge(self, merge: MergeOrder) -> None:
        """Have the server make the next broadcast."""
        total = total_of(merge.coefficients, merge.keep, from_base=merge.from_base)
        while True:
            self._clients.wait_for_updates(merge.orders)
            try:
                self._broadcast = self._server.merge(self._leaves(merge), total, merge.tasks_seen)
            except WorkerLost as loss:
                self._clients.make_again(merge.orders, loss)
            else:
                break
        self._clients.visits.merged(merge.orders)

    def score(self, client_ids: Sequence[int], learnt_tasks: int, *, with_global: bool) -> Iterator[Score]:
        """Score clients where they live, and yield in their order."""
        yield from self._clients.score(client_ids, learnt_tasks, self._broadcast if with_global else None)

    def global_parameters_sha256(self) -> str:
        """Return the digest of the present broadcast, computed by the server."""
        return self._server.digest(self._broadcast)

    def global_model(self) -> Buffer:
        """Fetch the present broadcast."""
        payload: Buffer = get(self._broadcast, FETCH_TIMEOUT_S, "the global model")
        return payload

    def save(self, *, changes: bool = False) -> Saved:
        """Fetch the broadcast, clients' states, and the visits that have gone into no merge."""
        clients = self._clients
        states = clients.changed_states() if changes else clients.all_states()
        visits = tuple(
            SavedVisit(order, get(visit.base, FETCH_TIMEOUT_S, "a broadcast"), clients.update(order))
            for order, visit in clients.visits.under_way()
        )
        if changes:
            clients.visits.saved()
        return Saved(self.global_model(), states, visits)

    def restore(self, saved: Saved) -> None:
        """Give all clients their states, and have the visits under way made again; lost actors are made anew first."""
        self._clients.adopt(saved.states)
        self._server.revive()
        self._broadcast = ray.put(saved.broadcast)
        # visits of a round start from one broadcast: it is put once
        bases = {id(visit.base): ray.put(visit.base) for visit in saved.visits}
        for visit in saved.visits:
            if visit.update is None:
                self._clients.dispatch([visit.order], bases[id(visit.base)])
            else:
                self._clients.visits.waits_for_merge(visit.order, bases[id(visit.base)], ray.put(visit.update))

    def _leaves(self, merge: MergeOrder) -> list[LeafCall]:
        leaves, visits = [], [self._clients.visits[order] for order in merge.orders]
        for leaf in leaves_of(merge.coefficients, merge.keep, from_base=merge.from_base):
            own = [visits[place] for place in leaf.places] if leaf.of != "present" else []
            bases = [visit.base for visit in own]
            if leaf.of == "update":
                # by reference: differences are added to their broadcasts where the server is
                payloads = [*(visit.update for visit in own), *(bases if self._differences else [])]
            else:
                payloads = bases or [self._broadcast]
            leaves.append(LeafCall(leaf.of == "update", leaf.coefficients, payloads))
        return leaves


@contextmanager
def ray_executor(
    assembly: Assembly, dataset: Dataset, start: Buffer, broadcast: Buffer, sizes: Sizes, care: Care | None = None
) -> Iterator[RayExecutor]:
    """Yield an executor on the Ray that this process is connected to; its actors end with the block.

    Raises:
        PlacementError: if the nodes cannot hold the fleet.
    """
    nodes = node_offers()
    placement = assembly.config.placement
    server_bytes = server_memory_bytes(sizes.visit_bytes, serves=assembly.method.serves)
    specs = plan_actors(
        assembly.config.devices,
        clients_per_actor=placement.clients_per_actor,
        client_bytes=sizes.client_bytes,
        visit_bytes=sizes.visit_bytes,
        memory_per_actor=placement.memory_per_actor,
        fits=lambda actors: not find_homeless(actors, nodes, server_bytes),
    )
    check_fits(specs, nodes, server_bytes)
    pool = ClientPool(assembly, specs, nodes, care.waiting if care else lambda text: None)
    executor = RayExecutor(assembly, pool, broadcast, server_bytes, care)
    try:
        executor.start(dataset, start)
        yield executor
    finally:
        executor.stop()
