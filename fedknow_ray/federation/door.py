"""The server's door: what a client sent is looked at here before it may be summed with what others sent.

    garbage       no payload, or one whose content contradicts itself
    wrong_shape   a payload of other arrays than agreed
    not_finite    a value that is no finite number
    norm          ||w - b|| > most_norm_ratio max(||b||, 1)

w is the model that the update stands for and b the broadcast that its visit started from, each as one vector of all its
arrays, statistics and a global head included. Whatever bytes come, there is an answer: nothing is raised, no length
that a sender announces is believed, and memory stays within a few models of the agreed size.

The door keeps out accidents and nonsense. It does not know a plausible update that was made to do harm, and does not
look into what the statistics mean: a negative variance passes (no network that ships has any).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.transport.compression import Compressor
from fedknow_ray.transport.payload import Buffer, PayloadError, Shapes, decode, encoded_bytes
from fedknow_ray.transport.update_layout import model_of

RefusalKind: TypeAlias = Literal["garbage", "wrong_shape", "not_finite", "norm"]

#: A header names a handful of arrays; parsing what a stranger has put there costs 20 times its length in memory.
MOST_HEADER_BYTES = 65_536
#: A refusal ends up in a table and on a screen, and may quote what came.
MOST_CHARACTERS = 400
#: Values at a time: two float64 pieces of 128 kB stay in the cache.
CHUNK = 16_384


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an update may not be summed: its kind, and a sentence with the figures."""

    kind: RefusalKind
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class Door:
    """Checks updates of one run; *agreed* are the arrays of an update's payload, *compressor* what restores it."""

    agreed: Shapes
    compressor: Compressor | None
    most_norm_ratio: float

    @staticmethod
    def of(broadcast: Buffer, compressor: Compressor | None, most_norm_ratio: float) -> Door:
        """Return the door of a run whose broadcasts are like this one; what is served beside the model never comes."""
        agreed = _shapes(model_of(decode(broadcast))) if compressor is None else compressor.shapes
        return Door(agreed, compressor, most_norm_ratio)

    def refusal(self, payload: Any, base: Buffer) -> Refusal | None:
        """Return why an update is refused, or None where it may be summed.

        *payload* is what came, and may be anything; *base* is the broadcast that its visit started from.
        """
        if not isinstance(payload, np.ndarray) or payload.dtype != np.uint8 or payload.ndim != 1:
            return _refuse("garbage", f"it is no row of bytes but a {type(payload).__name__}")
        payload = np.ascontiguousarray(payload)
        header_bytes = int.from_bytes(payload[4:8].tobytes(), "little")
        if header_bytes > MOST_HEADER_BYTES:
            told = f"its header is said to have {header_bytes} bytes, and none has more than {MOST_HEADER_BYTES}"
            return _refuse("garbage", f"{payload.nbytes} bytes came; {told}")
        try:
            return self._refusal_of_arrays(decode(payload), base)
        except PayloadError as error:
            return _refuse("garbage", f"{payload.nbytes} bytes came; {error}")

    def _refusal_of_arrays(self, sent: Mapping[str, NDArray[Any]], base: Buffer) -> Refusal | None:
        came = _shapes(sent)
        if came != self.agreed:
            told = f"{_listed(self.agreed)} ({encoded_bytes(self.agreed)} bytes) was agreed"
            return _refuse("wrong_shape", f"{told}, and {_listed(came)} came")
        broadcast = decode(base)
        # a scale or a value that is no number is told of below, as what becomes of it in the model
        with np.errstate(all="ignore"):
            model = sent if self.compressor is None else self.compressor.restore(sent, broadcast)
            distance, length = _norms(model, broadcast)
        if not math.isfinite(distance):
            return _not_finite(model, distance)
        limit = self.most_norm_ratio * max(length, 1.0)
        if distance > limit:
            told = f"it is {distance:.4g} away from its broadcast, whose norm is {length:.4g}"
            return _refuse("norm", f"{told}; the limit is {limit:.4g} (door.most_norm_ratio {self.most_norm_ratio:g})")
        return None


def norm_ratio(model: Mapping[str, NDArray[Any]], broadcast: Mapping[str, NDArray[Any]]) -> float:
    """Return ||w - b|| / max(||b||, 1) of decoded models: what the door compares with its limit."""
    distance, length = _norms(model, broadcast)
    return distance / max(length, 1.0)


def _norms(model: Mapping[str, NDArray[Any]], broadcast: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """Return ||w - b|| and ||b||, in one pass; the first is no finite number if and only if a value of w or b is none.

    No square of a float32 overflows float64, and neither do the sums of as many as fit into a memory.
    """
    distance, length = 0.0, 0.0
    here, there = np.empty(CHUNK), np.empty(CHUNK)
    for name, values in model.items():
        w, b = values.reshape(-1), broadcast[name].reshape(-1)
        for start in range(0, w.size, CHUNK):
            stop = min(start + CHUNK, w.size)
            b_piece, d_piece = here[: stop - start], there[: stop - start]
            b_piece[:] = b[start:stop]
            np.subtract(w[start:stop], b_piece, out=d_piece)
            # einsum and not dot: the sum does not depend on how many threads there are
            distance += float(np.einsum("i,i->", d_piece, d_piece))
            length += float(np.einsum("i,i->", b_piece, b_piece))
    return math.sqrt(distance), math.sqrt(length)


def _not_finite(model: Mapping[str, NDArray[Any]], distance: float) -> Refusal:
    for name, values in model.items():
        wrong = np.flatnonzero(~np.isfinite(values.reshape(-1)))
        if wrong.size:
            place, value = int(wrong[0]), values.reshape(-1)[wrong[0]]
            told = f"{wrong.size} of the {values.size} values of {name!r} are no finite numbers"
            return _refuse("not_finite", f"{told}, the first one at place {place}: {value}")
    return _refuse("norm", f"its distance to the broadcast is {distance}, for the broadcast is no finite number itself")


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> Shapes:
    return {name: (array.shape, array.dtype.name) for name, array in arrays.items()}


def _listed(shapes: Shapes) -> str:
    """Return shapes as a refusal shows them; a stranger's names are quoted, so that they can be printed."""
    shown = [f"{name!r} {dtype} {list(shape)}" for name, (shape, dtype) in list(shapes.items())[:4]]
    return ", ".join([*shown, *([f"and {len(shapes) - 4} more"] if len(shapes) > 4 else [])]) or "nothing"


def _refuse(kind: RefusalKind, message: str) -> Refusal:
    return Refusal(kind, message if len(message) <= MOST_CHARACTERS else message[: MOST_CHARACTERS - 3] + "...")
