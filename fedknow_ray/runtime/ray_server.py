"""The Ray actor that aggregates: a thin shell around the tree of sums, with the door that updates come in by.

Imports no torch, and so holds 100 MB where a process with torch holds 500.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedknow_ray.federation.aggregation import TreeMean, sum_block, sum_models
from fedknow_ray.federation.door import Door
from fedknow_ray.transport.compression import Compressor, read_updates
from fedknow_ray.transport.payload import Buffer, payload_sha256


class ServerActor:
    """Sums updates that reach it by reference, over the fixed tree in client order; one merge at a time.

    It keeps nothing between merges, so another one can take its place at any time.
    """

    def __init__(self, compressor: Compressor | None, door: Door) -> None:
        self._compressor, self._door = compressor, door
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

    def commit(self, total: float) -> Buffer:
        """Close the merge and return the next broadcast."""
        payload = self._mean.payload(total)
        self._mean = TreeMean(0)
        return payload

    def digest(self, broadcast: Buffer) -> str:
        """Return the digest of a broadcast's arrays."""
        return payload_sha256(broadcast)
