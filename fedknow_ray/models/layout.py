"""Where each tensor of a network lies in the flat vector of its weights.

A network's float32 weights are handled as one vector w_P; a *layout* is a sequence of `TensorSlice`, one per tensor, in
the order of the vector. Pure bookkeeping: imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """One tensor's place in a flat vector: elements `start` to `stop` (not included), in row-major order.

    >>> weight = TensorSlice("fc.weight", start=4, shape=(2, 3))
    >>> weight.size, weight.stop
    (6, 10)
    """

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements; 1 for a scalar (shape `()`)."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """The index after the last element."""
        return self.start + self.size
