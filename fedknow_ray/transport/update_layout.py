"""What a model on the link consists of, and its weights as one vector for compression.

Legend as in models.network: P feature weights, B batch-norm statistics, S = P + B, C head rows, F features; N values
that are compressed: the feature weights, then the whole head where it is global.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.transport.payload import Buffer, arrays_sha256, decode

Vector = NDArray[np.float32]

FEATURES, HEAD = "features", "head"
#: What the names of arrays begin with that a method's server part sends beside the model: down, and never up.
SERVED = "served/"


@dataclass(frozen=True, slots=True)
class UpdateLayout:
    """What a model on the link consists of: *tensors* sizes of the feature weights' tensors, in the order of the
    vector; *statistics* B values behind them; *head* the shape (C, F + 1) of a global head, one more tensor.

    Raises:
        ValueError: if there is no tensor, or one has no value.
    """

    tensors: tuple[int, ...]
    statistics: int = 0
    head: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.tensors or min(self.pieces) < 1:
            raise ValueError(f"an update needs tensors of at least one value, got {self.pieces}")

    @property
    def pieces(self) -> tuple[int, ...]:
        """Sizes of all tensors that are compressed, the head last."""
        return self.tensors if self.head is None else (*self.tensors, math.prod(self.head))

    @property
    def N(self) -> int:
        """Values that are compressed."""
        return sum(self.pieces)

    def split(self, model: Mapping[str, Vector]) -> tuple[Vector, Vector]:
        """Return the weights (N,) and the statistics (B,) of a model; views where there is no head."""
        P, features_S = sum(self.tensors), model[FEATURES]
        if self.head is None:
            return features_S[:P], features_S[P:]
        return np.concatenate([features_S[:P], model[HEAD].reshape(-1)]), features_S[P:]

    def join(self, weights_N: Vector, statistics_B: Vector) -> dict[str, Vector]:
        """Return the model of these weights and statistics: the inverse of `split`."""
        P = sum(self.tensors)
        model = {FEATURES: np.concatenate([weights_N[:P], statistics_B])}
        return model if self.head is None else {**model, HEAD: weights_N[P:].reshape(self.head)}


def model_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of the model alone: those that clients send as well.

    >>> list(model_of({"features": np.zeros(1), "served/importance": np.zeros(1)}))
    ['features']
    """
    return {name: array for name, array in arrays.items() if not name.startswith(SERVED)}


def model_sha256(broadcast: Buffer) -> str:
    """Return the SHA-256 of a broadcast's model, whatever else is sent with it, in hexadecimal."""
    return arrays_sha256(model_of(decode(broadcast)))
