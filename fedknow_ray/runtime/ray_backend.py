"""The Ray backend: one actor a client (or a few), a server actor, and references between them.

The broadcast is put once a round and passed by reference; updates go from client to server by reference. The driver
sees reports and scores, and once a round what a checkpoint takes. A cluster that cannot hold the fleet is refused
before an actor exists.

An actor that is lost is made anew. Its clients get their states of the last checkpoint back and make the visits again
that they have made since: the same states, broadcasts and orders give the same bits. What cannot be made again so (an
update whose client has been saved after it, a broadcast) raises `WorkerLost`, and the run goes back to its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray

from fedknow_ray.errors import WorkerLost
from fedknow_ray.federation.aggregation import leaves_of, total_of
from fedknow_ray.federation.executor import MergeOrder, Saved, SavedVisit
from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.federation.worker import Assembly
from fedknow_ray.results.schema import PlacementRow
from fedknow_ray.runtime.care import Care, Sizes
from fedknow_ray.runtime.client_pool import ClientPool
from fedknow_ray.runtime.dispatcher import Dispatcher, Job
from fedknow_ray.runtime.losses import Loss, Losses
from fedknow_ray.runtime.placement import check_fits, find_homeless, plan_actors
from fedknow_ray.runtime.ray_calls import get, is_there
from fedknow_ray.runtime.ray_session import node_offers
from fedknow_ray.runtime.server_link import SERVER_MEMORY_BYTES, LeafCall, ServerLink
from fedknow_ray.scenario.images import Dataset
from fedknow_ray.transport.payload import Buffer

#: No visit on a host takes an hour; one that does is lost.
VISIT_TIMEOUT_S = 3600.0
#: How long an update that is made may take to reach this node.
FETCH_TIMEOUT_S = 60.0
#: How often visits under way are looked at for one that hangs.
LOOK_S = 5.0
#: A visit is taken for hung after this many times the longest one so far, but not before `HUNG_AFTER_S`.
HUNG_FACTOR, HUNG_AFTER_S = 20.0, 120.0


@dataclass(slots=True, eq=False)
class _Visit:
    """A visit that was dispatched: where it starts from, and where what it leaves is once it has been started.

    *reported*: its report was taken. *saved*: its client was saved after it. *merged*: nobody needs its update now.
    """

    base: Any
    update: Any = None
    state: Any = None
    reported: bool = False
    saved: bool = False
    merged: bool = False


class RayExecutor:
    """Makes visits in client actors and averages their updates in the server actor.

    *care* None: a lost actor ends the run.
    """

    def __init__(self, assembly: Assembly, pool: ClientPool, broadcast: Buffer, care: Care | None) -> None:
        self._assembly, self._pool, self._care = assembly, pool, care
        self._recovery = assembly.config.recovery
        self._federated = assembly.method.federated
        self._compressor = assembly.compressor()
        self._losses = Losses(self._recovery.losses_in_a_row, care.lost if care else lambda loss: None)
        self._server = ServerLink(
            self._compressor,
            assembly.door(broadcast),
            self._losses,
            replaces=care is not None,
            wait_s=self._recovery.wait_for_node_s,
        )
        self._broadcast = ray.put(broadcast)
        self._visits: dict[VisitOrder, _Visit] = {}
        self._scoring: dict[int, Job[Any]] = {}
        self._longest_s = 0.0

    def start(self, dataset: Dataset, start: Buffer) -> None:
        """Create the actors and wait until all of them are ready."""
        for number, loss in self._pool.start(dataset, start).items():
            self._revive(number, loss)
        self._server.wait_until_ready()
        numbers = range(len(self._pool.specs))
        node_of = {number: self._pool.node_of(number) for number in numbers}
        slots = {node_of[number]: self._pool.slots_of(number) for number in numbers}
        self._dispatcher: Dispatcher[Any] = Dispatcher(node_of, slots, self._wait)

    def stop(self) -> None:
        """End the actors."""
        self._pool.stop()
        self._server.stop()

    def placement(self) -> list[PlacementRow]:
        """Return one row a client: its actor, node and process as the actor itself saw them."""
        return self._pool.placement()

    # Visits.

    def dispatch(self, orders: Sequence[VisitOrder]) -> None:
        """Queue visits from the present broadcast."""
        self._visits.update((order, _Visit(self._broadcast)) for order in orders)
        self._dispatcher.add(*map(self._job, orders))

    def report(self, order: VisitOrder) -> VisitReport:
        """Wait for one visit, and have the server look at its update."""
        number, what = self._pool.number_of[order.client_id], f"{order.kind} of client {order.client_id}"
        while True:
            try:
                report: VisitReport = get(self._dispatcher.result(order), VISIT_TIMEOUT_S, what)
                refusal = self._refusal(order)
            except WorkerLost as loss:
                self._replace(number, loss)
            else:
                break
        self._losses.survived(number)
        self._longest_s = max(self._longest_s, report.host_wall_s)
        visit = self._visits[order]
        visit.reported, visit.merged = True, refusal is not None or not self._sends(order)
        self._let_go()
        return replace(report, refusal=refusal)

    def forget(self, orders: Collection[VisitOrder] | None = None) -> None:
        """Let go of updates."""
        for order in self._visits if orders is None else orders:
            if order in self._visits:
                self._visits[order].merged = True
        self._let_go()

    def _job(self, order: VisitOrder, wanted: bool = True) -> Job[Any]:
        number = self._pool.number_of[order.client_id]

        def start() -> Any:
            visit, keeps = self._visits[order], self._care is not None
            call = self._pool.actor(number).visit.options(num_returns=3 if keeps else 2)
            report, visit.update, *state = call.remote(order, visit.base, keeps)
            visit.state = state[0] if state else None
            return report

        return Job(order if wanted else ("again", order), number, start, wanted)

    def _sends(self, order: VisitOrder) -> bool:
        return order.kind is VisitKind.TRAIN and self._federated

    def _refusal(self, order: VisitOrder) -> str | None:
        """Return why the server does not take an update; None where it does, or there is none."""
        if not self._sends(order):
            return None
        visit = self._visits[order]
        return self._server.refusal(visit.update, visit.base)

    def _let_go(self) -> None:
        """Forget the visits that nobody needs any more: neither their update, nor to make them again."""
        keeps = self._care is not None
        done = [o for o, v in self._visits.items() if v.reported and v.merged and (v.saved or not keeps)]
        for order in done:
            del self._visits[order]

    # Merges.

    def merge(self, merge: MergeOrder) -> None:
        """Have the server make the next broadcast."""
        total = total_of(merge.coefficients, merge.keep, from_base=merge.from_base)
        while True:
            try:
                self._broadcast = self._server.merge(self._leaves(merge), total)
            except WorkerLost as loss:
                self._make_again(merge.orders, loss)
            else:
                break
        for order in merge.orders:
            self._visits[order].merged = True
        self._let_go()

    def _leaves(self, merge: MergeOrder) -> list[LeafCall]:
        """Return the leaves of a merge; an actor that was lost may still have to make an update again."""
        for order in merge.orders:
            if self._visits[order].update is None:
                self._dispatcher.settle(self._pool.number_of[order.client_id])
        differences = self._compressor is not None and self._compressor.feeds_back
        leaves = []
        for leaf in leaves_of(merge.coefficients, merge.keep, from_base=merge.from_base):
            own = [self._visits[merge.orders[place]] for place in leaf.places] if leaf.of != "present" else []
            bases = [visit.base for visit in own]
            if leaf.of == "update":
                # by reference: differences are added to their broadcasts where the server is
                payloads = [*(visit.update for visit in own), *(bases if differences else [])]
            else:
                payloads = bases or [self._broadcast]
            leaves.append(LeafCall(leaf.of == "update", leaf.coefficients, payloads))
        return leaves

    def _make_again(self, orders: Sequence[VisitOrder], loss: WorkerLost) -> None:
        """Have the updates made again that are gone with their nodes.

        Raises:
            WorkerLost: if none is gone, or one cannot be made again since its client has been saved after it.
        """
        gone = [order for order in orders if not is_there(self._visits[order].update, FETCH_TIMEOUT_S)]
        if not gone or any(self._visits[order].saved for order in gone):
            raise loss
        for number in dict.fromkeys(self._pool.number_of[order.client_id] for order in gone):
            self._replace(number, loss)
            self._dispatcher.settle(number)

    # Scores and digests.

    def score(self, client_ids: Sequence[int], learnt_tasks: int, *, with_global: bool) -> Iterator[Score]:
        """Score clients where they live, and yield in their order."""
        shared = self._broadcast if with_global else None
        for client_id in client_ids:

            def start(client_id: int = client_id) -> Any:
                return self._pool.of_client(client_id).score.remote(client_id, learnt_tasks, shared)

            self._scoring[client_id] = Job(("score", client_id), self._pool.number_of[client_id], start)
        self._dispatcher.add(*self._scoring.values())
        for client_id in client_ids:
            yield from self._scores(client_id)

    def _scores(self, client_id: int) -> list[Score]:
        while True:
            try:
                ref = self._dispatcher.result(("score", client_id))
                scores: list[Score] = get(ref, VISIT_TIMEOUT_S, f"scores of client {client_id}")
            except WorkerLost as loss:
                self._replace(self._pool.number_of[client_id], loss)
            else:
                del self._scoring[client_id]
                return scores

    def global_parameters_sha256(self) -> str:
        """Return the digest of the present broadcast, computed by the server."""
        return self._server.digest(self._broadcast)

    def global_model(self) -> Buffer:
        """Fetch the present broadcast."""
        payload: Buffer = get(self._broadcast, VISIT_TIMEOUT_S, "the global model")
        return payload

    # Saving.

    def save(self, *, changes: bool = False) -> Saved:
        """Fetch the broadcast, clients' states, and the visits that have gone into no merge."""
        states = self._changed_states() if changes else self._all_states()
        visits = tuple(
            SavedVisit(order, get(visit.base, FETCH_TIMEOUT_S, "a broadcast"), self._update(order, visit))
            for order, visit in self._visits.items()
            if not (visit.reported and visit.merged)
        )
        if changes:
            for visit in self._visits.values():
                if visit.reported:
                    visit.saved, visit.state = True, None
            self._let_go()
        return Saved(self.global_model(), states, visits)

    def restore(self, saved: Saved) -> None:
        """Give all clients their states, and have the visits under way made again; lost actors are made anew first."""
        self._dispatcher.drop()
        self._visits.clear()
        self._scoring.clear()
        for number, spec in enumerate(self._pool.specs):
            self._adopt(number, {c: saved.states[c] for c in spec.client_ids if c in saved.states})
        self._server.revive()
        self._broadcast = ray.put(saved.broadcast)
        # visits of a round start from one broadcast: it is put once
        bases = {id(visit.base): ray.put(visit.base) for visit in saved.visits}
        for visit in saved.visits:
            update = None if visit.update is None else ray.put(visit.update)
            reported = update is not None
            self._visits[visit.order] = _Visit(bases[id(visit.base)], update, reported=reported, saved=reported)
        self._dispatcher.add(*(self._job(visit.order) for visit in saved.visits if visit.update is None))

    def _update(self, order: VisitOrder, visit: _Visit) -> Buffer | None:
        """Fetch the update of a visit that has reported and waits for its merge."""
        while visit.reported:
            try:
                update: Buffer = get(visit.update, FETCH_TIMEOUT_S, f"the update of client {order.client_id}")
            except WorkerLost as loss:
                self._make_again([order], loss)
            else:
                return update
        return None

    def _changed_states(self) -> dict[int, bytes]:
        """Return the states of the clients that have reported since they were last saved."""
        states: dict[int, bytes] = {}
        while True:
            last = {o.client_id: v for o, v in self._visits.items() if v.reported and not v.saved}
            wanted = next((client_id for client_id in last if client_id not in states), None)
            if wanted is None:
                return states
            try:
                states[wanted] = get(last[wanted].state, VISIT_TIMEOUT_S, f"the state of client {wanted}")
            except WorkerLost as loss:
                self._replace(self._pool.number_of[wanted], loss)
                self._dispatcher.settle(self._pool.number_of[wanted])

    def _all_states(self) -> dict[int, bytes]:
        """Return all states, one actor after the other: the store holds one actor's at a time.

        Raises:
            ValueError: if a visit is under way, after which a state might already be.
        """
        if not all(visit.reported for visit in self._visits.values()):
            raise ValueError("all states can be saved only while no visit is under way")
        states: dict[int, bytes] = {}
        for number, spec in enumerate(self._pool.specs):
            while True:
                ref = self._pool.actor(number).states.remote()
                try:
                    states |= get(ref, VISIT_TIMEOUT_S, f"saving of clients {list(spec.client_ids)}")
                except WorkerLost as loss:
                    self._replace(number, loss)
                else:
                    break
        return states

    # Losses.

    def _replace(self, number: int, loss: WorkerLost) -> None:
        """Make a client actor anew, and have it do what it has done since its clients were last saved.

        Raises:
            WorkerLost: if nothing was saved, since nothing is to be.
            WorkerError: if the actor has been lost too often in a row.
            PlacementError: if no node has room for it.
        """
        clients, began_s = self._pool.specs[number].client_ids, time.monotonic()
        care = self._revive(number, loss)
        self._dispatcher.move(number, self._pool.node_of(number), self._pool.slots_of(number))
        self._adopt(number, care.states(clients))
        own = [(o, v) for o, v in self._visits.items() if o.client_id in clients and not v.saved]
        again = sum(visit.update is not None for _, visit in own)
        for _, visit in own:
            visit.update = visit.state = None
        self._dispatcher.add(*(self._job(order, wanted=not visit.reported) for order, visit in own))
        self._dispatcher.add(*(job for job in self._scoring.values() if job.actor == number))
        self._losses.tell(Loss("client_actor", str(loss), clients, again, time.monotonic() - began_s))

    def _revive(self, number: int, loss: WorkerLost) -> Care:
        """Have another actor in the place of one that is lost; it knows nothing yet."""
        if self._care is None:
            raise loss
        self._losses.refuse_too_many(number, self._pool.specs[number].client_ids, loss)
        self._pool.replace(number, self._recovery.wait_for_node_s)
        return self._care

    def _adopt(self, number: int, states: Mapping[int, bytes]) -> None:
        """Give the clients of an actor their states, in place of any that they have; of a lost one in a new actor."""
        clients = self._pool.specs[number].client_ids
        while True:
            adopted = self._pool.actor(number).adopt.remote(dict(states))
            try:
                get(adopted, self._hung_after_s, f"restoring of clients {list(clients)}")
            except WorkerLost as loss:
                self._revive(number, loss)
                self._dispatcher.move(number, self._pool.node_of(number), self._pool.slots_of(number))
                self._losses.tell(Loss("client_actor", str(loss), clients))
            else:
                return

    @property
    def _hung_after_s(self) -> float:
        """Host seconds after which a visit is taken for hung; before there is any to compare with, an hour."""
        if self._recovery.hung_after_s is not None:
            return self._recovery.hung_after_s
        return max(HUNG_AFTER_S, HUNG_FACTOR * self._longest_s) if self._longest_s else VISIT_TIMEOUT_S

    def _wait(self, refs: list[Any]) -> list[Any]:
        """Wait until one of some references is ready; actors that hang are ended, which makes theirs ready."""
        while True:
            ready, _ = ray.wait(refs, num_returns=1, timeout=LOOK_S)
            if ready:
                return list(ready)
            for number in self._dispatcher.overdue(self._hung_after_s):
                self._pool.kill(number)


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
    specs = plan_actors(
        assembly.config.devices,
        clients_per_actor=placement.clients_per_actor,
        client_bytes=sizes.client_bytes,
        visit_bytes=sizes.visit_bytes,
        memory_per_actor=placement.memory_per_actor,
        fits=lambda actors: not find_homeless(actors, nodes, SERVER_MEMORY_BYTES),
    )
    check_fits(specs, nodes, SERVER_MEMORY_BYTES)
    pool = ClientPool(assembly, specs, nodes, care.waiting if care else lambda text: None)
    executor = RayExecutor(assembly, pool, broadcast, care)
    try:
        executor.start(dataset, start)
        yield executor
    finally:
        executor.stop()
