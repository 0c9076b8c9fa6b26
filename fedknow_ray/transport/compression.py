"""Shorter updates: float16, int8 per tensor, and the largest few, each with its exact length and its work.

Legend: N values that are compressed (all feature weights, then the whole head where it is global), B batch-norm
statistics, S = P + B the feature state, w what the client has trained, b the broadcast that it started from, r what it
still owes the server, k values sent.

    float16    the server gets  float16(w)                                     2 N bytes
    int8       e = r + (w - b);  s_t = max |e_t| / 127,  q_t = round(e_t / s_t)    N bytes, and 4 a tensor t
               the server gets  b + s q,  the client keeps  r = e - s q
    topk       e = r + (w - b);  the k = ceil(fraction N) largest |e|            8 k bytes
               the server gets  b + those,  the client keeps  r = e without them

r is *error feedback*: what was lost is added to the client's next update, so that the sum of all that it sent, and r,
is the sum of all its differences. Statistics go as they are, 4 B bytes: a variance a little below 0 would be the end.

Seide, Fu, Droppo, Li and Yu, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
Training of Speech DNNs", Interspeech 2014 (error feedback). Karimireddy, Rebjock, Stich and Jaggi, "Error Feedback
Fixes SignSGD and other Gradient Compression Schemes", ICML 2019, arXiv:1901.09847 (why it converges). Stich,
Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, arXiv:1809.07599 (top-k with it).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.errors import DivergenceError, UserError
from fedknow_ray.transport.payload import Buffer, PayloadError, Shapes, decode, encoded_bytes
from fedknow_ray.transport.update_layout import UpdateLayout, Vector

Arrays = Mapping[str, NDArray[Any]]

FLOAT_BYTES, INT8_LIMIT = 4, 127


class Compressor(ABC):
    """One way to shorten an update. A model is the arrays of its payload: "features" (S,) and perhaps "head".

    *flops* and *moved_bytes* are the client's work for one update: multiplications, and the least traffic of its
    passes over the vector (docs/time-model.md). The server's decoding is no work.
    """

    #: Whether the update is a difference to the broadcast, whose rest the client keeps.
    feeds_back: ClassVar[bool]

    def __init__(self, layout: UpdateLayout) -> None:
        self.layout = layout

    @property
    @abstractmethod
    def flops(self) -> int:
        """Multiplications and divisions of one update."""

    @property
    @abstractmethod
    def moved_bytes(self) -> int:
        """Bytes that one update reads and writes in the client's memory."""

    @property
    @abstractmethod
    def weight_shapes(self) -> Shapes:
        """The shapes and types of what stands for the weights in an update's payload."""

    @abstractmethod
    def compress_weights(
        self, weights_N: Vector, base_N: Vector, residual_N: Vector | None
    ) -> tuple[Arrays, Vector | None]:
        """Return what stands for the weights, and what is owed from now on; the arguments stay as they are."""

    @abstractmethod
    def restore_weights(self, sent: Arrays, base_N: Vector | None) -> Vector:
        """Return the weights (N,) that the server gets."""

    @property
    def shapes(self) -> Shapes:
        """The shapes and types of an update's payload, known before it exists."""
        B = self.layout.statistics
        return {**self.weight_shapes, "statistics": ((B,), "float32")} if B else self.weight_shapes

    @property
    def update_bytes(self) -> int:
        """The length of every update."""
        return encoded_bytes(self.shapes)

    @property
    def residual_bytes(self) -> int:
        """What a client keeps for error feedback."""
        return FLOAT_BYTES * self.layout.N if self.feeds_back else 0

    def compress(
        self, model: Arrays, base: Arrays, residual_N: Vector | None
    ) -> tuple[dict[str, NDArray[Any]], Vector | None]:
        """Return the update's arrays, and what the client owes from now on (None without error feedback).

        *base* is the broadcast that the client started from, *residual_N* what it has owed so far, None for nothing.

        Raises:
            DivergenceError: if a weight is no finite number.
            UserError: if a weight is too large for the type that is sent.
        """
        weights_N, statistics_B = self.layout.split(model)
        if not np.isfinite(weights_N).all():
            raise DivergenceError("a weight of the update is no finite number")
        sent, residual_N = self.compress_weights(weights_N, self.layout.split(base)[0], residual_N)
        return {**sent, "statistics": statistics_B} if self.layout.statistics else dict(sent), residual_N

    def restore(self, sent: Arrays, base: Arrays | None) -> dict[str, Vector]:
        """Return the model that an update stands for; *base* may be None where `feeds_back` is False.

        Raises:
            PayloadError: if the arrays are no update of this kind and layout.
        """
        got = {name: (array.shape, array.dtype.name) for name, array in sent.items()}
        if got != self.shapes:
            raise PayloadError(f"an update holds {got} where {dict(self.shapes)} was agreed")
        weights_N = self.restore_weights(sent, None if base is None else self.layout.split(base)[0])
        return self.layout.join(weights_N, sent.get("statistics", np.zeros(0, np.float32)))


class Float16(Compressor):
    """Sends the weights themselves, rounded to float16; nothing is owed.

    One pass: reads the weights, writes half as many bytes.
    """

    feeds_back = False

    @property
    def flops(self) -> int:
        """No product."""
        return 0

    @property
    def moved_bytes(self) -> int:
        """4 N read, 2 N written."""
        return 6 * self.layout.N

    @property
    def weight_shapes(self) -> Shapes:
        """N halves."""
        return {"weights": ((self.layout.N,), "float16")}

    def compress_weights(self, weights_N: Vector, base_N: Vector, residual_N: Vector | None) -> tuple[Arrays, None]:
        """Round to the nearest float16, ties to even."""
        with np.errstate(over="ignore"):
            halves_N = weights_N.astype(np.float16)
        if not np.isfinite(halves_N).all():
            raise UserError(
                f"a weight of size {np.abs(weights_N).max():g} is beyond float16, which ends at 65504; "
                "choose compression.name int8, topk or none"
            )
        return {"weights": halves_N}, None

    def restore_weights(self, sent: Arrays, base_N: Vector | None) -> Vector:
        """Widen to float32, which is exact."""
        return sent["weights"].astype(np.float32)


class _Difference(Compressor):
    """What int8 and topk share: the difference to the broadcast with what is owed, of which a part is sent.

    The first pass reads weights, base and debt and writes their sum over the debt: 16 N bytes.
    """

    feeds_back = True
    FIRST_PASS = 4 * FLOAT_BYTES

    def compress_weights(self, weights_N: Vector, base_N: Vector, residual_N: Vector | None) -> tuple[Arrays, Vector]:
        """Return what is sent of the difference and the debt, and what is left of them."""
        with np.errstate(over="ignore"):
            due_N = weights_N - base_N
            if residual_N is not None:
                due_N += residual_N
        if not np.isfinite(due_N).all():
            raise DivergenceError("an update's difference to the broadcast is no finite number")
        sent = self._encode(due_N)
        due_N -= self._decode(sent)
        return sent, due_N

    def restore_weights(self, sent: Arrays, base_N: Vector | None) -> Vector:
        """Add what was sent to the broadcast that the client started from."""
        if base_N is None:
            raise ValueError("a difference needs the broadcast that it is a difference to")
        return base_N + self._decode(sent)

    @abstractmethod
    def _encode(self, due_N: Vector) -> Arrays: ...

    @abstractmethod
    def _decode(self, sent: Arrays) -> Vector: ...


class Int8(_Difference):
    """Sends the difference in 255 equal steps, whose size is that of each tensor's largest value / 127.

    Second pass: reads the sum, writes one byte a value, and what is left.
    """

    @property
    def flops(self) -> int:
        """A division by the step and a product with it, each value."""
        return 2 * self.layout.N

    @property
    def moved_bytes(self) -> int:
        """The first pass; 4 N read, N and 4 N written."""
        return (self.FIRST_PASS + 2 * FLOAT_BYTES + 1) * self.layout.N

    @property
    def weight_shapes(self) -> Shapes:
        """N bytes and a scale each tensor."""
        return {"weights": ((self.layout.N,), "int8"), "scales": ((len(self.layout.pieces),), "float32")}

    def _encode(self, due_N: Vector) -> Arrays:
        weights_N = np.zeros(self.layout.N, np.int8)
        scales_T = np.zeros(len(self.layout.pieces), np.float32)
        for tensor, piece in enumerate(_slices(self.layout)):
            scale = np.float32(np.abs(due_N[piece]).max()) / np.float32(INT8_LIMIT)
            scales_T[tensor] = scale
            if scale > 0:
                # a scale that was rounded far down, near the end of float32, would lead beyond the limit
                steps = np.clip(np.rint(due_N[piece] / scale), -INT8_LIMIT, INT8_LIMIT)
                weights_N[piece] = steps.astype(np.int8)
        return {"weights": weights_N, "scales": scales_T}

    def _decode(self, sent: Arrays) -> Vector:
        scales_N = np.repeat(sent["scales"], self.layout.pieces)
        scales_N *= sent["weights"]
        return scales_N


class TopK(_Difference):
    """Sends the k values of the difference that are largest in size, with their places; of equals the first ones.

    Second pass: reads the sum for the size from which on values are sent. Third: reads it, writes k places and values,
    and zeros where they were.
    """

    def __init__(self, layout: UpdateLayout, fraction: float) -> None:
        super().__init__(layout)
        # as the config's text says it: 0.07 of 100 is 7, though in binary it is a little more
        self.k = math.ceil(Fraction(repr(fraction)) * layout.N)
        if not 1 <= self.k <= layout.N:
            raise ValueError(f"fraction must be in (0, 1], got {fraction}")

    @property
    def flops(self) -> int:
        """No product."""
        return 0

    @property
    def moved_bytes(self) -> int:
        """The first pass; 8 N read, 12 k written."""
        return (self.FIRST_PASS + 2 * FLOAT_BYTES) * self.layout.N + 3 * FLOAT_BYTES * self.k

    @property
    def weight_shapes(self) -> Shapes:
        """k places, ascending, and k values."""
        return {"places": ((self.k,), "uint32"), "values": ((self.k,), "float32")}

    def _encode(self, due_N: Vector) -> Arrays:
        places_K = largest(due_N, self.k)
        return {"places": places_K.astype(np.uint32), "values": due_N[places_K]}

    def _decode(self, sent: Arrays) -> Vector:
        places_K = sent["places"].astype(np.int64)
        if places_K[-1] >= self.layout.N or (np.diff(places_K) <= 0).any():
            raise PayloadError(f"places of an update must ascend below {self.layout.N}")
        decoded_N = np.zeros(self.layout.N, np.float32)
        decoded_N[places_K] = sent["values"]
        return decoded_N


def largest(values_N: Vector, k: int) -> NDArray[np.int64]:
    """Return the places of the k values of largest size, ascending; of equal ones the first.

    >>> largest(np.array([1, -3, 2, 3, -2], np.float32), 3)
    array([1, 2, 3])
    """
    sizes_N = np.abs(values_N)
    least = np.partition(sizes_N, sizes_N.size - k)[sizes_N.size - k]
    above = np.flatnonzero(sizes_N > least)
    equal = np.flatnonzero(sizes_N == least)[: k - above.size]
    return np.sort(np.concatenate([above, equal]))


def make_compressor(name: str, layout: UpdateLayout, **settings: float) -> Compressor | None:
    """Return the compressor of a name, or None for "none": then updates are what the model's payload is.

    Raises:
        ValueError: if there is none of that name.
    """
    if name == "none":
        return None
    kinds: dict[str, Callable[..., Compressor]] = {"float16": Float16, "int8": Int8, "topk": TopK}
    if name not in kinds:
        raise ValueError(f"there is no compression {name!r}; known: none, {', '.join(kinds)}")
    return kinds[name](layout, **settings)


def read_updates(
    compressor: Compressor | None, updates: Sequence[Buffer], bases: Sequence[Buffer] = ()
) -> Iterator[Arrays]:
    """Yield the models that payloads stand for, one after the other, so that one is in memory at a time.

    *bases* are the broadcasts that each update's visit started from, where the compressor `feeds_back`.

    Raises:
        PayloadError: if a payload is no update of this kind and layout.
        ValueError: if bases are needed and there is not one for each update.
    """
    if compressor is None:
        yield from map(decode, updates)
    elif not compressor.feeds_back:
        yield from (compressor.restore(decode(update), None) for update in updates)
    else:
        for update, base in zip(updates, bases, strict=True):
            yield compressor.restore(decode(update), decode(base))


def _slices(layout: UpdateLayout) -> list[slice]:
    ends = np.cumsum(layout.pieces).tolist()
    return [slice(end - size, end) for end, size in zip(ends, layout.pieces, strict=True)]
