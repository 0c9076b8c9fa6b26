"""The Ray actor that aggregates: a thin shell around the tree of sums.

Imports no torch, and so holds 100 MB where a process with torch holds 500.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedknow_ray.federation.aggregation import TreeMean, sum_block, sum_models
from fedknow_ray.transport.compression import Compressor, read_updates
from fedknow_ray.transport.payload import Buffer, payload_sha256


class ServerActor:
    """Sums updates that reach it by reference, over the fixed tree in client order; several merges may be open."""

    def __init__(self, compressor: Compressor | None = None) -> None:
        self._compressor = compressor
        self._open: dict[int, TreeMean] = {}

    def begin(self, merge_id: int, leaves: int) -> None:
        """Open a merge of so many leaves."""
        self._open[merge_id] = TreeMean(leaves)

    def fold(self, merge_id: int, leaf_index: int, coefficients: Sequence[float], *broadcasts: Buffer) -> None:
        """Take one leaf of broadcasts."""
        self._open[merge_id].add(leaf_index, sum_block(broadcasts, coefficients))

    def fold_updates(self, merge_id: int, leaf_index: int, coefficients: Sequence[float], *payloads: Buffer) -> None:
        """Take one leaf of updates, and behind them the broadcasts that they are differences to, if they are that."""
        updates, bases = payloads[: len(coefficients)], payloads[len(coefficients) :]
        models = read_updates(self._compressor, updates, bases)
        self._open[merge_id].add(leaf_index, sum_models(models, coefficients))

    def commit(self, merge_id: int, total: float) -> Buffer:
        """Close a merge and return the next broadcast."""
        return self._open.pop(merge_id).payload(total)

    def digest(self, broadcast: Buffer) -> str:
        """Return the digest of a broadcast's arrays."""
        return payload_sha256(broadcast)
