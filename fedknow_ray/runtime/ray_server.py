"""The Ray actor that aggregates: a thin shell around the tree of sums.

Imports no torch, and so holds 100 MB where a process with torch holds 500.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedknow_ray.federation.aggregation import TreeMean, sum_block
from fedknow_ray.transport.payload import Buffer, payload_sha256


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
