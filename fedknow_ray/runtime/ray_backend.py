"""The Ray backend: one actor a client (or a few), a server actor, and references between them.

The broadcast is put once a round and passed by reference; updates go from client to server by reference. The driver
sees reports and scores only. A cluster that cannot hold the fleet is refused before an actor exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from fedknow_ray.errors import UserError, WorkerError
from fedknow_ray.federation.aggregation import leaves_of, total_of
from fedknow_ray.federation.executor import MergeOrder, Saved
from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.federation.worker import Assembly
from fedknow_ray.results.schema import PlacementRow
from fedknow_ray.runtime.dispatcher import Dispatcher, Job
from fedknow_ray.runtime.placement import (
    ACTOR_CPUS,
    DEVICE_LABEL,
    ActorSpec,
    NodeOffer,
    check_fits,
    find_homeless,
    plan_actors,
)
from fedknow_ray.runtime.ray_client import ClientActor
from fedknow_ray.runtime.ray_server import ServerActor
from fedknow_ray.runtime.ray_session import node_offers
from fedknow_ray.scenario.images import Dataset
from fedknow_ray.transport.payload import Buffer

#: An actor with torch takes 2 to 3 processor seconds to start; 1,000 of them on two cores still make it.
START_TIMEOUT_S = 1800.0
#: No visit on a host takes an hour; one that does is lost.
VISIT_TIMEOUT_S = 3600.0
SERVER_MEMORY_BYTES = 400 * 2**20


@dataclass(slots=True, eq=False)
class _Block:
    """One leaf of updates while its visits are under way: whose they are, and which have not started."""

    merge_id: int
    index: int
    orders: tuple[VisitOrder, ...]
    coefficients: tuple[float, ...]
    missing: set[VisitOrder]


@dataclass(slots=True, eq=False)
class _OpenMerge:
    """A merge that the server has begun: its number there, and the calls that it waits for."""

    merge_id: int
    folds: list[Any]


class RayExecutor:
    """Makes visits in client actors and averages their updates in the server actor."""

    def __init__(self, assembly: Assembly, specs: Sequence[ActorSpec], nodes: Sequence[NodeOffer]) -> None:
        self._assembly, self._specs = assembly, specs
        self._actor_of = {c: index for index, spec in enumerate(specs) for c in spec.client_ids}
        self._federated = assembly.method.federated
        self._compressor = assembly.compressor()
        self._labelled = {node.labels.get(DEVICE_LABEL) for node in nodes}
        self._updates: dict[VisitOrder, Any] = {}
        self._bases: dict[VisitOrder, Any] = {}
        self._blocks: dict[VisitOrder, _Block] = {}
        self._open: dict[MergeOrder, _OpenMerge] = {}
        self._merges = 0
        self._actors: list[Any] = []
        self._server: Any = None

    def start(self, dataset: Dataset, start: Buffer, broadcast: Buffer, nodes: Sequence[NodeOffer]) -> None:
        """Create the actors and wait until all of them are ready."""
        assembly_ref, dataset_ref, start_ref = ray.put(self._assembly), ray.put(dataset), ray.put(start)
        self._broadcast = ray.put(broadcast)
        server = ray.remote(ServerActor).options(num_cpus=ACTOR_CPUS, memory=SERVER_MEMORY_BYTES)
        self._server = server.remote(self._compressor)
        self._actors = [
            self._options(spec).remote(assembly_ref, dataset_ref, start_ref, spec.client_ids) for spec in self._specs
        ]
        self._where: list[dict[str, Any]] = self._get(
            [actor.where.remote() for actor in self._actors], START_TIMEOUT_S, "start"
        )
        node_of = {index: str(where["node_id"]) for index, where in enumerate(self._where)}
        threads = self._assembly.config.training.threads
        slots = {node.node_id: max(1, int(node.cpus) // threads) for node in nodes}
        # a node that joined after `nodes` was read may hold an actor all the same
        slots = {node_id: slots.get(node_id, 1) for node_id in node_of.values()}
        self._dispatcher: Dispatcher[Any] = Dispatcher(node_of, slots, self._wait)

    def stop(self) -> None:
        """End the actors; on a cluster that is not ours they would stay until the driver leaves it."""
        for actor in (*self._actors, self._server):
            if actor is not None:
                ray.kill(actor)

    def _options(self, spec: ActorSpec) -> Any:
        selector = {DEVICE_LABEL: spec.device} if spec.device in self._labelled else None
        return ray.remote(ClientActor).options(
            num_cpus=ACTOR_CPUS, memory=spec.memory_bytes, resources=spec.resources, label_selector=selector
        )

    def dispatch(self, orders: Sequence[VisitOrder], merges: Sequence[MergeOrder] = ()) -> None:
        """Queue visits; the sums of the merges go on leaf by leaf, as the visits start."""
        for merge in merges:
            if merge not in self._open:
                self._begin(merge)
        self._dispatcher.add(
            *(Job(order, self._actor_of[order.client_id], self._starter(order, self._broadcast)) for order in orders)
        )

    def report(self, order: VisitOrder) -> VisitReport:
        """Wait for one visit."""
        ref = self._dispatcher.result(order)
        report: VisitReport = self._get(ref, VISIT_TIMEOUT_S, f"{order.kind} of client {order.client_id}")
        return report

    def merge(self, merge: MergeOrder) -> None:
        """Have the server make the next broadcast; nobody waits for it before the next visits do."""
        if merge not in self._open:
            self._begin(merge)
            for order in merge.orders:
                self._fold_when_complete(order)
        known = self._open.pop(merge)
        for index, leaf in enumerate(leaves_of(merge.coefficients, merge.keep, from_base=merge.from_base)):
            if leaf.of != "update":
                bases = [self._bases[merge.orders[place]] for place in leaf.places] if leaf.of == "base" else None
                payloads = [self._broadcast] if bases is None else bases
                known.folds.append(self._server.fold.remote(known.merge_id, index, leaf.coefficients, *payloads))
        self._get(known.folds, VISIT_TIMEOUT_S, "aggregation")
        self._broadcast = self._server.commit.remote(
            known.merge_id, total_of(merge.coefficients, merge.keep, from_base=merge.from_base)
        )
        for order in merge.orders:
            self._bases.pop(order, None)

    def score(self, client_ids: Sequence[int], learnt_tasks: int, *, with_global: bool) -> Iterator[Score]:
        """Score all clients where they live, and yield in client order."""
        shared = self._broadcast if with_global else None
        for client_id in client_ids:
            actor = self._actors[self._actor_of[client_id]]

            def start(actor: Any = actor, client_id: int = client_id) -> Any:
                return actor.score.remote(client_id, learnt_tasks, shared)

            self._dispatcher.add(Job(("score", client_id), self._actor_of[client_id], start))
        for client_id in client_ids:
            ref = self._dispatcher.result(("score", client_id))
            yield from self._get(ref, VISIT_TIMEOUT_S, f"scores of client {client_id}")

    def global_parameters_sha256(self) -> str:
        """Return the digest of the present broadcast, computed by the server."""
        digest: str = self._get(self._server.digest.remote(self._broadcast), VISIT_TIMEOUT_S, "digest")
        return digest

    def global_model(self) -> Buffer:
        """Fetch the present broadcast."""
        payload: Buffer = self._get(self._broadcast, VISIT_TIMEOUT_S, "the global model")
        return payload

    def save(self) -> Saved:
        """Fetch the broadcast, and the states of one actor after the other: the store holds one actor's at a time."""
        states: dict[int, bytes] = {}
        for actor, spec in zip(self._actors, self._specs, strict=True):
            states |= self._get(actor.states.remote(), VISIT_TIMEOUT_S, f"saving of clients {list(spec.client_ids)}")
        return Saved(self.global_model(), states)

    def restore(self, saved: Saved) -> None:
        """Send each actor its clients' states, one actor after the other, and put the broadcast."""
        for actor, spec in zip(self._actors, self._specs, strict=True):
            states = {client_id: saved.states[client_id] for client_id in spec.client_ids}
            self._get(actor.adopt.remote(states), VISIT_TIMEOUT_S, f"restoring of clients {list(spec.client_ids)}")
        self._broadcast = ray.put(saved.broadcast)

    def placement(self) -> list[PlacementRow]:
        """Return one row a client: its actor, node and process as the actor itself saw them."""
        devices = self._assembly.config.devices
        return [
            PlacementRow(client_id=client_id, device=devices[client_id], **self._where[self._actor_of[client_id]])
            for client_id in sorted(self._actor_of)
        ]

    def _begin(self, merge: MergeOrder) -> None:
        merge_id, self._merges = self._merges, self._merges + 1
        leaves = leaves_of(merge.coefficients, merge.keep, from_base=merge.from_base)
        self._open[merge] = _OpenMerge(merge_id, [self._server.begin.remote(merge_id, len(leaves))])
        for index, leaf in enumerate(leaves):
            if leaf.of == "update":
                orders = tuple(merge.orders[place] for place in leaf.places)
                block = _Block(merge_id, index, orders, leaf.coefficients, set(orders))
                self._blocks.update(dict.fromkeys(orders, block))

    def _starter(self, order: VisitOrder, broadcast: Any) -> Any:
        actor = self._actors[self._actor_of[order.client_id]]

        def start() -> Any:
            report, update = actor.visit.options(num_returns=2).remote(order, broadcast)
            if order.kind is VisitKind.TRAIN and self._federated:
                self._updates[order], self._bases[order] = update, broadcast
                self._fold_when_complete(order)
            return report

        return start

    def _fold_when_complete(self, order: VisitOrder) -> None:
        """Send a leaf to the server as soon as all its visits are started: Ray holds the call until they are done."""
        block = self._blocks.pop(order, None)
        if block is None:
            return
        block.missing.discard(order)
        if not block.missing:
            updates = [self._updates.pop(member) for member in block.orders]
            # by reference: differences are added to their broadcasts where the server is
            differences = self._compressor is not None and self._compressor.feeds_back
            bases = [self._bases[member] for member in block.orders] if differences else []
            fold = self._server.fold_updates.remote(block.merge_id, block.index, block.coefficients, *updates, *bases)
            next(m for m in self._open.values() if m.merge_id == block.merge_id).folds.append(fold)

    @staticmethod
    def _wait(refs: list[Any]) -> list[Any]:
        ready, _ = ray.wait(refs, num_returns=1, timeout=VISIT_TIMEOUT_S)
        if not ready:
            raise WorkerError(f"{len(refs)} visits gave no answer within {VISIT_TIMEOUT_S:.0f} s")
        return list(ready)

    @staticmethod
    def _get(refs: Any, timeout_s: float, what: str) -> Any:
        try:
            return ray.get(refs, timeout=timeout_s)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from error
            raise WorkerError(f"{what} failed in its actor:\n{error}") from error
        except GetTimeoutError as error:
            raise WorkerError(f"{what} gave no answer within {timeout_s:.0f} s") from error
        except RayActorError as error:
            raise WorkerError(f"{what}: its actor or node died: {error}") from error
        except RayError as error:
            raise WorkerError(f"{what}: {type(error).__name__}: {error}") from error


@contextmanager
def ray_executor(
    assembly: Assembly, dataset: Dataset, start: Buffer, broadcast: Buffer, *, client_bytes: int, visit_bytes: int
) -> Iterator[RayExecutor]:
    """Yield an executor on the Ray that this process is connected to; its actors end with the block.

    Raises:
        PlacementError: if the nodes cannot hold the fleet.
    """
    nodes = node_offers()
    placement = assembly.config.placement
    specs = plan_actors(
        assembly.config.devices,
        clients_per_actor=placement.clients_per_actor,
        client_bytes=client_bytes,
        visit_bytes=visit_bytes,
        memory_per_actor=placement.memory_per_actor,
        fits=lambda actors: not find_homeless(actors, nodes, SERVER_MEMORY_BYTES),
    )
    check_fits(specs, nodes, SERVER_MEMORY_BYTES)
    executor = RayExecutor(assembly, specs, nodes)
    try:
        executor.start(dataset, start, broadcast, nodes)
        yield executor
    finally:
        executor.stop()
