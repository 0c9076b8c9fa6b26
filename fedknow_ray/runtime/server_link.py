"""The driver's side of the server actor: it is asked, and made anew where it is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fedknow_ray.errors import WorkerLost
from fedknow_ray.federation.door import Door
from fedknow_ray.runtime.losses import Loss, Losses
from fedknow_ray.runtime.placement import SERVER_MEMORY_BYTES
from fedknow_ray.runtime.ray_calls import get, is_there
from fedknow_ray.runtime.ray_server import ServerActor
from fedknow_ray.runtime.timing import now_s
from fedknow_ray.transport.compression import Compressor

#: How long it may take to say that it is alive; it has no call in hand that lasts for seconds.
ALIVE_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 600.0


class LeafCall(NamedTuple):
    """One leaf of a merge, with the references to what goes into it."""

    of_updates: bool
    coefficients: tuple[float, ...]
    payloads: Sequence[Any]


class ServerLink:
    """Asks the server actor; a lost one is replaced, unless *replaces* is False.

    One that *serves* is made when `serve_from` says from what.
    """

    def __init__(
        self,
        compressor: Compressor | None,
        door: Door,
        losses: Losses,
        *,
        replaces: bool,
        wait_s: float,
        memory_bytes: int = SERVER_MEMORY_BYTES,
        serves: bool = False,
    ) -> None:
        self._losses, self._replaces, self._wait_s = losses, replaces, wait_s
        self._arguments: tuple[Any, ...] = (compressor, door)
        self._memory_bytes = memory_bytes
        self._actor: Any = None if serves else self._create()

    def serve_from(self, assembly: Any, dataset: Any) -> None:
        """Make the actor of a method with a server part, from references to what it needs of the run."""
        self._arguments = (*self._arguments, assembly, dataset)
        self._actor = self._create()

    def wait_until_ready(self) -> None:
        """Wait until the actor has started."""
        self._ask_again(lambda: get(self._actor.ready.remote(), self._wait_s, "the start of the server"))

    def stop(self) -> None:
        """End the actor."""
        if self._actor is not None:
            ray.kill(self._actor)
        # what is held of Ray when it is shut down stays open in this process
        self._actor, self._arguments = None, ()

    def refusal(self, update: Any, base: Any) -> str | None:
        """Return why the server does not take an update; None where it does."""
        refusal: str | None = self._ask(lambda actor: actor.refusal.remote(update, base), "the server's door")
        return refusal

    def digest(self, broadcast: Any) -> str:
        """Return the digest of a broadcast."""
        digest: str = self._ask(lambda actor: actor.digest.remote(broadcast), "the digest of the global model")
        return digest

    def merge(self, leaves: Sequence[LeafCall], total: float, tasks_seen: int) -> Any:
        """Return the reference to the next broadcast, which is on this node then: the server's own may die."""
        return self._ask_again(lambda: self._merge(leaves, total, tasks_seen))

    def revive(self) -> None:
        """Have a living actor, whatever became of the present one."""
        if not self.lives():
            self._replace(WorkerLost("the server's actor does not answer"))

    def lives(self) -> bool:
        """Return whether the actor answers."""
        return is_there(self._actor.ready.remote(), ALIVE_TIMEOUT_S)

    def _merge(self, leaves: Sequence[LeafCall], total: float, tasks_seen: int) -> Any:
        actor = self._actor
        calls = [actor.begin.remote(len(leaves))]
        for index, leaf in enumerate(leaves):
            fold = actor.fold_updates if leaf.of_updates else actor.fold
            calls.append(fold.remote(index, leaf.coefficients, *leaf.payloads))
        get(calls, ANSWER_TIMEOUT_S, "aggregation")
        broadcast = actor.commit.remote(total, tasks_seen)
        get(broadcast, ANSWER_TIMEOUT_S, "aggregation")
        return broadcast

    def _ask(self, call: Callable[[Any], Any], what: str) -> Any:
        return self._ask_again(lambda: get(call(self._actor), ANSWER_TIMEOUT_S, what))

    def _ask_again(self, act: Callable[[], Any]) -> Any:
        """Return an answer, of another actor where this one is lost.

        Raises:
            WorkerLost: if the actor lives, so that it is something else that is gone; or if it is not to be replaced.
            WorkerError: if it has been lost too often in a row.
        """
        while True:
            try:
                answer = act()
            except WorkerLost as loss:
                if self.lives():
                    raise
                self._replace(loss)
            else:
                self._losses.survived("server")
                return answer

    def _create(self) -> Any:
        # on this node where there is room: then it lives as long as the node of this process
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = ray.remote(ServerActor).options(num_cpus=0, memory=self._memory_bytes, scheduling_strategy=here)
        return options.remote(*self._arguments)

    def _replace(self, loss: WorkerLost) -> None:
        if not self._replaces:
            raise loss
        began_s, first = now_s(), loss
        while True:
            self._losses.refuse_too_many("server", (), loss)
            ray.kill(self._actor)
            self._actor = self._create()
            left_s = began_s + self._wait_s - now_s()
            try:
                get(self._actor.ready.remote(), left_s, "the start of another server")
            except WorkerLost as again:
                if began_s + self._wait_s <= now_s():
                    raise
                # lost as it started: a loss like any other
                loss = again
            else:
                break
        self._losses.tell(Loss("server_actor", str(first), wait_s=now_s() - began_s))
