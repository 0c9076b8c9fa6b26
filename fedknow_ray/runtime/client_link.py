"""The driver's side of the client actors: visits, scores and states are asked for, and lost actors are made good.

An actor that is lost is made anew. Its clients get their states of the last checkpoint back and make the visits again
that they have made since: the same states, broadcasts and orders give the same bits. What cannot be made again so, an
update whose client has been saved after it, raises `WorkerLost`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray

from fedknow_ray.config.model import RecoveryConfig
from fedknow_ray.errors import WorkerLost
from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.results.schema import PlacementRow
from fedknow_ray.runtime.care import Care
from fedknow_ray.runtime.client_pool import ClientPool
from fedknow_ray.runtime.dispatcher import Dispatcher, Job
from fedknow_ray.runtime.losses import Loss, Losses
from fedknow_ray.runtime.ray_calls import get, is_there
from fedknow_ray.runtime.timing import now_s
from fedknow_ray.runtime.visit_book import VisitBook
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


class ClientLink:
    """Asks client actors; *care* None: a lost one ends the run. `visits` are those that may still be needed."""

    def __init__(self, pool: ClientPool, recovery: RecoveryConfig, losses: Losses, care: Care | None) -> None:
        self._pool, self._recovery, self._losses, self._care = pool, recovery, losses, care
        self.visits = VisitBook(saves=care is not None)
        self._scoring: dict[int, Job[Any]] = {}
        self._longest_s = 0.0

    def start(self, dataset: Dataset, start: Buffer) -> None:
        """Create the actors and wait until all of them are ready."""
        for number, loss in self._pool.start(dataset, start).items():
            began_s = now_s()
            self._revive(number, loss)
            self._losses.tell(
                Loss("client_actor", str(loss), self._pool.specs[number].client_ids, wait_s=now_s() - began_s)
            )
        numbers = range(len(self._pool.specs))
        node_of = {number: self._pool.node_of(number) for number in numbers}
        slots = {node_of[number]: self._pool.slots_of(number) for number in numbers}
        self._dispatcher: Dispatcher[Any] = Dispatcher(node_of, slots, self._wait)

    def references(self) -> tuple[Any, Any]:
        """Return references to the assembly and the data set, once the actors are there."""
        return self._pool.references()

    def stop(self) -> None:
        """End the actors."""
        self._pool.stop()
        # the references in it
        self.visits.clear()

    def placement(self) -> list[PlacementRow]:
        """Return one row a client: its actor, node and process as the actor itself saw them."""
        return self._pool.placement()

    # Visits and scores.

    def dispatch(self, orders: Sequence[VisitOrder], base: Any) -> None:
        """Queue visits from a broadcast."""
        for order in orders:
            self.visits.dispatched(order, base)
        self._dispatcher.add(*map(self._job, orders))

    def report(self, order: VisitOrder) -> VisitReport:
        """Wait for one visit; an actor that is lost makes it again."""
        number, what = self._pool.number_of[order.client_id], f"{order.kind} of client {order.client_id}"
        while True:
            try:
                report: VisitReport = get(self._dispatcher.result(order), VISIT_TIMEOUT_S, what)
            except WorkerLost as loss:
                self._replace(number, loss)
            else:
                break
        self._losses.survived(number)
        self._longest_s = max(self._longest_s, report.host_wall_s)
        return report

    def score(self, client_ids: Sequence[int], learnt_tasks: int, shared: Any) -> Iterator[Score]:
        """Score clients where they live, and yield in their order; *shared* the broadcast, None to leave it out."""
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

    def _job(self, order: VisitOrder, wanted: bool = True) -> Job[Any]:
        number = self._pool.number_of[order.client_id]

        def start() -> Any:
            visit, keeps = self.visits[order], self._care is not None
            call = self._pool.actor(number).visit.options(num_returns=3 if keeps else 2)
            report, visit.update, *state = call.remote(order, visit.base, keeps)
            visit.state = state[0] if state else None
            return report

        return Job(order if wanted else ("again", order), number, start, wanted)

    # Updates.

    def wait_for_updates(self, orders: Sequence[VisitOrder]) -> None:
        """Wait for the updates of visits that have reported: an actor that was lost may have to make them again."""
        for order in orders:
            if self.visits[order].update is None:
                self._dispatcher.settle(self._pool.number_of[order.client_id])

    def update(self, order: VisitOrder) -> Buffer | None:
        """Fetch the update of a visit that has reported and waits for its merge."""
        while self.visits[order].reported:
            try:
                ref, what = self.visits[order].update, f"the update of client {order.client_id}"
                update: Buffer = get(ref, FETCH_TIMEOUT_S, what)
            except WorkerLost as loss:
                self.make_again([order], loss)
            else:
                return update
        return None

    def make_again(self, orders: Sequence[VisitOrder], loss: WorkerLost) -> None:
        """Have the updates made again that are gone with their nodes.

        Raises:
            WorkerLost: if none is gone, or one cannot be made again since its client has been saved after it.
        """
        gone = [order for order in orders if not is_there(self.visits[order].update, FETCH_TIMEOUT_S)]
        if not gone or any(self.visits[order].saved for order in gone):
            raise loss
        for number in dict.fromkeys(self._pool.number_of[order.client_id] for order in gone):
            self._replace(number, loss)
            self._dispatcher.settle(number)

    # States.

    def changed_states(self) -> dict[int, bytes]:
        """Return the states of the clients that have reported since they were last saved."""
        states: dict[int, bytes] = {}
        while True:
            last = self.visits.last_unsaved()
            wanted = next((client_id for client_id in last if client_id not in states), None)
            if wanted is None:
                return states
            try:
                states[wanted] = get(last[wanted].state, VISIT_TIMEOUT_S, f"the state of client {wanted}")
            except WorkerLost as loss:
                self._replace(self._pool.number_of[wanted], loss)
                self._dispatcher.settle(self._pool.number_of[wanted])

    def all_states(self) -> dict[int, bytes]:
        """Return all states, one actor after the other: the store holds one actor's at a time.

        Raises:
            ValueError: if a visit is under way, after which a state might already be.
        """
        if not all(visit.reported for _, visit in self.visits.under_way()):
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

    def adopt(self, states: Mapping[int, bytes]) -> None:
        """Give all clients their states, and forget all visits; lost actors are made anew first."""
        self._dispatcher.drop()
        self.visits.clear()
        self._scoring.clear()
        for number, spec in enumerate(self._pool.specs):
            self._adopt(number, {c: states[c] for c in spec.client_ids if c in states})

    # Losses.

    def _replace(self, number: int, loss: WorkerLost) -> None:
        """Make a client actor anew, and have it do what it has done since its clients were last saved.

        Raises:
            WorkerLost: if nothing was saved, since nothing is to be.
            WorkerError: if the actor has been lost too often in a row.
            PlacementError: if no node has room for it.
        """
        clients, began_s = self._pool.specs[number].client_ids, now_s()
        care = self._revive(number, loss)
        self._dispatcher.move(number, self._pool.node_of(number), self._pool.slots_of(number))
        self._adopt(number, care.states(clients))
        own = self.visits.to_make_again(clients)
        again = sum(visit.update is not None for _, visit in own)
        for _, visit in own:
            visit.update = visit.state = None
        self._dispatcher.add(*(self._job(order, wanted=not visit.reported) for order, visit in own))
        self._dispatcher.add(*(job for job in self._scoring.values() if job.actor == number))
        self._losses.tell(Loss("client_actor", str(loss), clients, again, now_s() - began_s))

    def _revive(self, number: int, loss: WorkerLost) -> Care:
        """Have another actor in the place of one that is lost; it knows nothing yet.

        One that is lost again as it starts is a loss like any other.
        """
        if self._care is None:
            raise loss
        while True:
            self._losses.refuse_too_many(number, self._pool.specs[number].client_ids, loss)
            try:
                self._pool.replace(number, self._recovery.wait_for_node_s)
            except WorkerLost as again:
                loss = again
            else:
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
