"""The client actors of a run: made at the start, and made anew where one is lost.

An actor takes its clients' device resource with it wherever it goes, so one whose node has died waits for a node with
room: for so long, and saying so. What it knew is not here (`runtime.ray_backend` gives it back).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from fedknow_ray.errors import PlacementError, WorkerLost
from fedknow_ray.federation.worker import Assembly
from fedknow_ray.results.schema import PlacementRow
from fedknow_ray.runtime.placement import ACTOR_CPUS, DEVICE_LABEL, ActorSpec, NodeOffer, describe_shortage
from fedknow_ray.runtime.ray_calls import get
from fedknow_ray.runtime.ray_client import ClientActor
from fedknow_ray.runtime.ray_session import node_offers
from fedknow_ray.runtime.timing import now_s
from fedknow_ray.scenario.images import Dataset
from fedknow_ray.transport.payload import Buffer

#: An actor with torch takes 2 to 3 processor seconds to start; 1,000 of them on two cores still make it.
START_TIMEOUT_S = 1800.0
#: How long an actor that is made anew may take before somebody is told what it waits for.
PATIENCE_S = 20.0


class ClientPool:
    """Client actors by their number, one for each of *specs*; *tell* is told what is waited for, if it takes long."""

    def __init__(
        self, assembly: Assembly, specs: Sequence[ActorSpec], nodes: Sequence[NodeOffer], tell: Callable[[str], None]
    ) -> None:
        self._assembly, self.specs, self._tell = assembly, specs, tell
        self._labelled = {node.labels.get(DEVICE_LABEL) for node in nodes}
        self._threads = assembly.config.training.threads
        self.slots = {node.node_id: self._slots_of(node) for node in nodes}
        self.number_of = {client: number for number, spec in enumerate(specs) for client in spec.client_ids}
        self._actors: list[Any] = []
        self._arguments: tuple[Any, ...] = ()
        self._where: list[dict[str, Any]] = []

    def start(self, dataset: Dataset, start: Buffer) -> dict[int, WorkerLost]:
        """Create the actors and wait until all of them are ready; return those that were lost as they started.

        Nodes fetch the data once, whoever lives there.
        """
        self._arguments = ray.put(self._assembly), ray.put(dataset), ray.put(start)
        self._actors = [self._create(spec) for spec in self.specs]
        ready, deadline_s = [actor.where.remote() for actor in self._actors], now_s() + START_TIMEOUT_S
        self._where, lost = [{} for _ in self.specs], dict[int, WorkerLost]()
        for number, spec in enumerate(self.specs):
            left_s = max(1.0, deadline_s - now_s())
            try:
                self._where[number] = get(ready[number], left_s, f"the start of the actor of {_clients(spec)}")
            except WorkerLost as loss:
                lost[number] = loss
        return lost

    def references(self) -> tuple[Any, Any]:
        """Return references to the assembly and the data set, which the server part of a method reads as well."""
        assembly, dataset, _ = self._arguments
        return assembly, dataset

    def stop(self) -> None:
        """End the actors; on a cluster that is not ours they would stay until the driver leaves it."""
        for actor in self._actors:
            ray.kill(actor)
        # what is held of Ray when it is shut down stays open in this process
        self._actors, self._arguments = [], ()

    def actor(self, number: int) -> Any:
        """Return an actor as it is now."""
        return self._actors[number]

    def of_client(self, client_id: int) -> Any:
        """Return the actor that a client lives in now."""
        return self._actors[self.number_of[client_id]]

    def node_of(self, number: int) -> str:
        """Return the node that an actor lives on."""
        return str(self._where[number]["node_id"])

    def slots_of(self, number: int) -> int:
        """Return how many actors may be at work at once on an actor's node."""
        node_id = self.node_of(number)
        if node_id not in self.slots:
            # a node that has joined since
            self.slots |= {node.node_id: self._slots_of(node) for node in node_offers()}
        return self.slots.get(node_id, 1)

    def kill(self, number: int) -> None:
        """End an actor, whatever it does."""
        ray.kill(self._actors[number])

    def replace(self, number: int, wait_s: float) -> None:
        """Make an actor anew, in place of what may be left of it.

        Raises:
            PlacementError: if no node has room for it within so many seconds; the message has what is missing.
        """
        self.kill(number)
        spec, deadline_s, told = self.specs[number], now_s() + wait_s, False
        actor = self._actors[number] = self._create(spec)
        ready = actor.where.remote()
        while (left_s := deadline_s - now_s()) > 0:
            try:
                # what follows a deadline of its own is known not to wait for a place
                self._where[number] = ray.get(ready, timeout=min(left_s, PATIENCE_S))
            except GetTimeoutError:
                if not told:
                    self._tell(f"waiting for a node with room for {self._wants(spec)}, {wait_s:.0f} s at most")
                told = True
            except ray.exceptions.RayError as error:
                raise WorkerLost(f"the actor of {_clients(spec)} was lost again as it started: {error}") from error
            else:
                return
        raise PlacementError(
            f"no node had room for {self._wants(spec)} within {wait_s:.0f} s (recovery.wait_for_node_s)\n"
            + describe_shortage(self.specs, [spec], node_offers())
        )

    def placement(self) -> list[PlacementRow]:
        """Return one row a client: its actor, node and process as the actor itself saw them."""
        devices = self._assembly.config.devices
        return [
            PlacementRow(client_id=client_id, device=devices[client_id], **self._where[self.number_of[client_id]])
            for client_id in sorted(self.number_of)
        ]

    def _create(self, spec: ActorSpec) -> Any:
        selector = {DEVICE_LABEL: spec.device} if spec.device in self._labelled else None
        options = ray.remote(ClientActor).options(
            num_cpus=ACTOR_CPUS, memory=spec.memory_bytes, resources=spec.resources, label_selector=selector
        )
        return options.remote(*self._arguments, spec.client_ids)

    def _slots_of(self, node: NodeOffer) -> int:
        return max(1, int(node.cpus) // self._threads)

    def _wants(self, spec: ActorSpec) -> str:
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in spec.resources.items())
        return f"the actor of {_clients(spec)} ({wanted})"


def _clients(spec: ActorSpec) -> str:
    first, *others = spec.client_ids
    return f"client {first}" + (f" and {len(others)} more" if others else "")
