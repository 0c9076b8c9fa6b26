"""The Ray actor that holds clients: a thin shell around `ClientWorker`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.visit import VisitOrder
from fedknow_ray.federation.worker import Assembly, ClientWorker
from fedknow_ray.runtime.timing import timed_visit
from fedknow_ray.scenario.images import Dataset
from fedknow_ray.transport.payload import Buffer


class ClientActor:
    """Some clients of one device kind in a process of their own; one client unless they are packed."""

    def __init__(self, assembly: Assembly, dataset: Dataset, start: Buffer, client_ids: Sequence[int]) -> None:
        self._worker = ClientWorker(assembly, dataset, start, client_ids)

    def where(self) -> dict[str, Any]:
        """Return the identity of the actor: what the placement table records."""
        context = ray.get_runtime_context()
        return {
            "actor_id": context.get_actor_id(),
            "node_id": context.get_node_id(),
            "pid": os.getpid(),
            "resources": json.dumps(context.get_assigned_resources(), sort_keys=True),
        }

    def visit(self, order: VisitOrder, broadcast: Buffer, keeps: bool) -> tuple[Any, ...]:
        """Make a visit; the update goes to the object store, the report to the driver.

        With *keeps* the client's state after it goes to the store as well, until the driver has saved it.
        """
        report, update = timed_visit(self._worker, order, broadcast)
        return (report, update, self._worker.state_bytes(order.client_id)) if keeps else (report, update)

    def score(self, client_id: int, learnt_tasks: int, shared: Buffer | None) -> list[Score]:
        """Return one client's scores."""
        return self._worker.score(client_id, learnt_tasks, shared)

    def states(self) -> dict[int, bytes]:
        """Return the states of the clients that live here and have made a visit."""
        return self._worker.states()

    def adopt(self, states: Mapping[int, bytes]) -> None:
        """Give the clients that live here such states; the others are as at the start."""
        self._worker.adopt(states)
