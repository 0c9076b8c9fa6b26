"""The local backend: every client in this process, one visit after another. For debugging, and the yardstick for
bits."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from fedknow_ray.federation.aggregation import TreeMean, leaves_of, sum_block, sum_models, total_of
from fedknow_ray.federation.executor import MergeOrder, Saved, SavedVisit
from fedknow_ray.federation.scoring import Score
from fedknow_ray.federation.serving import ServerPart
from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.federation.worker import Assembly, ClientWorker
from fedknow_ray.results.schema import PlacementRow
from fedknow_ray.runtime.timing import timed_visit
from fedknow_ray.scenario.images import Dataset
from fedknow_ray.transport.compression import read_updates
from fedknow_ray.transport.payload import Buffer
from fedknow_ray.transport.update_layout import model_sha256


class LocalExecutor:
    """One worker with all clients; *broadcast* is what everybody starts from, *start* also holds the first head."""

    def __init__(self, assembly: Assembly, dataset: Dataset, start: Buffer, broadcast: Buffer) -> None:
        self._devices = assembly.config.devices
        self._worker = ClientWorker(assembly, dataset, start, range(len(self._devices)))
        self._compressor = assembly.compressor()
        self._door = assembly.door(broadcast)
        self._part = ServerPart(assembly, dataset) if assembly.method.serves else None
        self._broadcast = broadcast
        self._bases: dict[VisitOrder, Buffer] = {}
        self._updates: dict[VisitOrder, Buffer] = {}
        self._changed = set[int]()

    def dispatch(self, orders: Sequence[VisitOrder]) -> None:
        """Remember the broadcast that the visits start from; one is made when its report is asked for."""
        self._bases.update(dict.fromkeys(orders, self._broadcast))

    def report(self, order: VisitOrder) -> VisitReport:
        """Make the visit and return its report."""
        report, update = timed_visit(self._worker, order, self._bases[order])
        self._changed.add(order.client_id)
        refusal = None if update is None else self._door.refusal(update, self._bases[order])
        if update is None or refusal is not None:
            del self._bases[order]
        else:
            self._updates[order] = update
        return report if refusal is None else replace(report, refusal=str(refusal))

    def merge(self, merge: MergeOrder) -> None:
        """Sum the updates over the same tree as every backend."""
        updates = [self._updates.pop(order) for order in merge.orders]
        bases = [self._bases.pop(order) for order in merge.orders]
        broadcasts = {"base": bases, "present": [self._broadcast]}
        leaves = leaves_of(merge.coefficients, merge.keep, from_base=merge.from_base)
        mean = TreeMean(len(leaves))
        for index, leaf in enumerate(leaves):
            places = slice(leaf.places.start, leaf.places.stop)
            if leaf.of == "update":
                models = read_updates(self._compressor, updates[places], bases[places])
                mean.add(index, sum_models(models, leaf.coefficients))
            else:
                mean.add(index, sum_block(broadcasts[leaf.of][places], leaf.coefficients))
        merged = mean.payload(total_of(merge.coefficients, merge.keep, from_base=merge.from_base))
        self._broadcast = merged if self._part is None else self._part.extend(merged, merge.tasks_seen)

    def forget(self, orders: Collection[VisitOrder] | None = None) -> None:
        """Let go of updates."""
        for order in list(self._bases) if orders is None else orders:
            self._bases.pop(order, None)
            self._updates.pop(order, None)

    def score(self, client_ids: Sequence[int], learnt_tasks: int, *, with_global: bool) -> Iterator[Score]:
        """Yield every client's scores."""
        for client_id in client_ids:
            yield from self._worker.score(client_id, learnt_tasks, self._broadcast if with_global else None)

    def global_parameters_sha256(self) -> str:
        """Return the digest of the present broadcast."""
        return model_sha256(self._broadcast)

    def save(self, *, changes: bool = False) -> Saved:
        """Return the broadcast, the clients' states, and the visits that have gone into no merge."""
        visits = tuple(SavedVisit(order, base, self._updates.get(order)) for order, base in self._bases.items())
        states = self._worker.states(self._changed if changes else None)
        if changes:
            self._changed.clear()
        return Saved(self._broadcast, states, visits)

    def restore(self, saved: Saved) -> None:
        """Hold what was saved, and nothing else."""
        self._worker.adopt(saved.states)
        self._broadcast = saved.broadcast
        self._bases = {visit.order: visit.base for visit in saved.visits}
        self._updates = {visit.order: visit.update for visit in saved.visits if visit.update is not None}
        self._changed.clear()

    def global_model(self) -> Buffer:
        """Return the present broadcast."""
        return self._broadcast

    def placement(self) -> list[PlacementRow]:
        """Return one row a client: all of them live in this process."""
        return [
            PlacementRow(client_id, device, None, None, os.getpid(), "{}")
            for client_id, device in enumerate(self._devices)
        ]


@contextmanager
def local_executor(assembly: Assembly, dataset: Dataset, start: Buffer, broadcast: Buffer) -> Iterator[LocalExecutor]:
    """Yield a local executor; torch's thread count is put back afterwards."""
    threads = torch.get_num_threads()
    try:
        yield LocalExecutor(assembly, dataset, start, broadcast)
    finally:
        torch.set_num_threads(threads)
