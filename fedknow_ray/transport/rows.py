"""Updates of a part of the rows of each tensor: a bit for each row that says whether it is there, and the values.

    sent    k = rows - floor(share rows) rows of each tensor of the features, and the whole head where it is global
    bytes   a bit a row of all tensors, and 4 for each value of the rows that are sent

A *row* is what belongs to one output channel or unit: an element of a tensor's first side. Which rows are sent is the
method's affair: it leaves the others as they were in the broadcast, so that nothing is lost; where fewer rows have
changed than are sent, the first of the others fill up. A row that is not sent counts as unchanged where updates are
summed. The length of an update is thus always the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from fedknow_ray.transport.compression import FLOAT_BYTES, Arrays, Compressor
from fedknow_ray.transport.payload import PayloadError, Shapes
from fedknow_ray.transport.update_layout import UpdateLayout, Vector


def rows_sent(rows: int, share: float) -> int:
    """Return how many of a tensor's rows are sent where a share of them is left out, rounded down.

    >>> rows_sent(10, 0.3), rows_sent(3, 0.3)
    (7, 3)
    """
    # as the config's text says it: 0.3 of 10 is 3, though in binary it is a little less
    return rows - math.floor(Fraction(repr(share)) * rows)


class ChangedRows(Compressor):
    """Sends rows of the features; *rows* how many each tensor has, *share* of them that are left out.

    One pass: reads weights and base, writes what is sent.
    """

    #: The server needs the broadcast; of it nothing is owed, for what is not sent has not changed.
    feeds_back = True

    def __init__(self, layout: UpdateLayout, rows: Sequence[int], share: float) -> None:
        super().__init__(layout)
        self.rows, self.sent = tuple(rows), tuple(rows_sent(count, share) for count in rows)
        if layout.head is not None:
            self.rows, self.sent = (*self.rows, layout.head[0]), (*self.sent, layout.head[0])
        pairs = zip(self.rows, layout.pieces, strict=True)
        if any(count < 1 or size % count for count, size in pairs):
            raise ValueError(f"tensors of {layout.pieces} values have no {self.rows} equal rows")

    @property
    def values(self) -> int:
        """How many values are sent."""
        return sum(k * size // rows for k, size, rows in zip(self.sent, self.layout.pieces, self.rows, strict=True))

    @property
    def flops(self) -> int:
        """No product."""
        return 0

    @property
    def moved_bytes(self) -> int:
        """8 N read, 4 written for each value that is sent."""
        return FLOAT_BYTES * (2 * self.layout.N + self.values)

    @property
    def residual_bytes(self) -> int:
        """Nothing is owed."""
        return 0

    @property
    def weight_shapes(self) -> Shapes:
        """A bit a row, and the values."""
        return {"rows": ((-(-sum(self.rows) // 8),), "uint8"), "values": ((self.values,), "float32")}

    def compress_weights(self, weights_N: Vector, base_N: Vector, residual_N: Vector | None) -> tuple[Arrays, None]:
        """Return the rows that are not what they were, and as many more as belong to an update.

        Raises:
            ValueError: if more rows have changed than are sent.
        """
        bits, values = [], []
        for piece, rows, k in self._tensors():
            now, before = weights_N[piece].reshape(rows, -1), base_N[piece].reshape(rows, -1)
            changed = (now != before).any(axis=1)
            if changed.sum() > k:
                raise ValueError(f"{changed.sum()} of {rows} rows have changed, and {k} are sent")
            changed[np.flatnonzero(~changed)[: k - int(changed.sum())]] = True
            bits.append(changed)
            values.append(now[changed].reshape(-1))
        return {"rows": np.packbits(np.concatenate(bits)), "values": np.concatenate(values)}, None

    def restore_weights(self, sent: Arrays, base_N: Vector | None) -> Vector:
        """Put the rows that were sent into the broadcast that the client started from.

        Raises:
            PayloadError: if there are not as many rows of each tensor as agreed.
        """
        if base_N is None:
            raise ValueError("rows need the broadcast that the others are as in")
        bits = np.unpackbits(sent["rows"]).astype(bool)
        weights_N, row, value = base_N.copy(), 0, 0
        if bits[sum(self.rows) :].any():
            raise PayloadError("an update has rows that no tensor has")
        for piece, rows, k in self._tensors():
            changed = bits[row : row + rows]
            if changed.sum() != k:
                raise PayloadError(f"an update has {changed.sum()} of {rows} rows of a tensor, and {k} were agreed")
            into = weights_N[piece].reshape(rows, -1)
            count = k * into.shape[1]
            into[changed] = sent["values"][value : value + count].reshape(k, -1)
            row, value = row + rows, value + count
        return weights_N

    def _tensors(self) -> Iterator[tuple[slice, int, int]]:
        start = 0
        for size, rows, k in zip(self.layout.pieces, self.rows, self.sent, strict=True):
            yield slice(start, start + size), rows, k
            start += size
