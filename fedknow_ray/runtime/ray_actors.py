"""The two kinds of Ray actor: thin shells around `ClientWorker` and the aggregation tree."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import ray

from fedknow_ray.federation.aggregation import TreeMean, sum_block
from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.federation.worker import Assembly, ClientWorker
from fedknow_ray.runtime.timing import timed_visit
from fedknow_ray.scenario.images import Dataset
from fedknow_ray.transport.payload import Buffer, payload_sha256


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

    def visit(self, order: VisitOrder, broadcast: Buffer) -> tuple[VisitReport, Buffer | None]:
        """Make a visit; the update goes to the object store, the report to the driver."""
        return timed_visit(self._worker, order, broadcast)

    def score(self, client_id: int, learnt_tasks: int, shared: Buffer | None) -> list[Score]:
        """Return one client's scores."""
        return self._worker.score(client_id, learnt_tasks, shared)


class ServerActor:
    """Averages updates that reach it by reference, over the fixed tree in client order."""

    def begin(self, blocks: int) -> None:
        """Start a round of so many blocks."""
        self._mean = TreeMean(blocks)

    def fold(self, block_index: int, weights: Sequence[float], *updates: Buffer) -> None:
        """Take one block of updates."""
        self._mean.add(block_index, sum_block(updates, weights))

    def commit(self, total_weight: float) -> Buffer:
        """Return the next broadcast."""
        return self._mean.payload(total_weight)

    def digest(self, broadcast: Buffer) -> str:
        """Return the digest of a broadcast's arrays."""
        return payload_sha256(broadcast)
