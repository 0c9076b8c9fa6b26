"""The Ray actor that aggregates: a thin shell around the tree of sums, with the door that updates come in by.

Imports no torch, and so holds 100 MB where a process with torch holds 500; only a method with a server part
(`federation.serving`) has it imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedknow_ray.federation.aggregation import TreeMean, sum_block, sum_models
from fedknow_ray.federation.door import Door
from fedknow_ray.transport.compression import Compressor, read_updates
from fedknow_ray.transport.payload import Buffer
from fedknow_ray.transport.update_layout import model_sha256

if TYPE_CHECKING:
    from fedknow_ray.federation.serving import ServerPart
    from fedknow_ray.federation.worker import Assembly
    from fedknow_ray.scenario.images import Dataset


class ServerActor:
    """Sums updates that reach it by reference, over the fixed tree in client order; one merge at a time.

    It keeps nothing between merges, so another one can take its place at any time.
    """

    def __init__(
        self,
        compressor: Compressor | None,
        door: Door,
        assembly: Assembly | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        self._compressor, self._door = compressor, door
        self._part = None if assembly is None or dataset is None else _server_part(assembly, dataset)
        self._mean = TreeMean(0)

    def ready(self) -> None:
        """Answer: the actor lives."""

    def refusal(self, update: Buffer, base: Buffer) -> str | None:
        """Return why an update may not go into a merge, or None if it may; *base* is what its visit started from."""
        refusal = self._door.refusal(update, base)
        return None if refusal is None else str(refusal)

    def begin(self, leaves: int) -> None:
        """Open a merge of so many leaves, in place of any other."""
        self._mean = TreeMean(leaves)

    def fold(self, leaf_index: int, coefficients: Sequence[float], *broadcasts: Buffer) -> None:
        """Take one leaf of broadcasts."""
        self._mean.add(leaf_index, sum_block(broadcasts, coefficients))

    def fold_updates(self, leaf_index: int, coefficients: Sequence[float], *payloads: Buffer) -> None:
        """Take one leaf of updates, and behind them the broadcasts that they are differences to, if they are that."""
        updates, bases = payloads[: len(coefficients)], payloads[len(coefficients) :]
        models = read_updates(self._compressor, updates, bases)
        self._mean.add(leaf_index, sum_models(models, coefficients))

    def commit(self, total: float, tasks_seen: int) -> Buffer:
        """Close the merge and return the next broadcast."""
        payload = self._mean.payload(total)
        self._mean = TreeMean(0)
        return payload if self._part is None else self._part.extend(payload, tasks_seen)

    def digest(self, broadcast: Buffer) -> str:
        """Return the digest of a broadcast's model."""
        return model_sha256(broadcast)


def _server_part(assembly: Assembly, dataset: Dataset) -> ServerPart:
    # imports torch
    from fedknow_ray.federation.serving import ServerPart

    return ServerPart(assembly, dataset)
