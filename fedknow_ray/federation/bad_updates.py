"""What a broken or malicious client sends in the place of its update: the faults of `failures.bad_updates`.

The client has trained and moved on as always; only what crosses the link is bad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.federation.visit import VisitOrder
from fedknow_ray.seeding import stream
from fedknow_ray.transport.payload import Buffer, decode, encode

BadUpdate: TypeAlias = Literal["nan", "wrong_shape", "huge", "garbage"]
Arrays: TypeAlias = Mapping[str, NDArray[Any]]

HUGE = 1e30


def spoilt(payload: Buffer, sends: BadUpdate, order: VisitOrder) -> Buffer:
    """Return what is sent in the place of an update; random bytes follow from the order alone."""
    if sends == "garbage":
        return _garbage(payload, order)
    change: dict[BadUpdate, Callable[[Arrays], Arrays]] = {"nan": _nan, "wrong_shape": _wrong_shape, "huge": _huge}
    return encode(change[sends](decode(payload)))


def _nan(arrays: Arrays) -> Arrays:
    """The first value of each array that can hold it is no number."""
    changed = _floats(arrays)
    for values in changed.values():
        values.reshape(-1)[:1] = np.nan
    return {**arrays, **changed}


def _huge(arrays: Arrays) -> Arrays:
    """Each value that can be so large is 1e30, a float16 the largest that there is."""
    changed = _floats(arrays)
    for values in changed.values():
        values[...] = min(HUGE, float(np.finfo(values.dtype).max))
    return {**arrays, **changed}


def _wrong_shape(arrays: Arrays) -> Arrays:
    """The first array lacks its last value."""
    name, values = next(iter(arrays.items()))
    return {**arrays, name: values.reshape(-1)[:-1]}


def _garbage(payload: Buffer, order: VisitOrder) -> Buffer:
    """Random bytes, at most twice as many as an update has."""
    facts = order.facts
    where = {"client": facts.client_id, "task": facts.task_index, "round_index": facts.round_index}
    rng = stream(order.seed, "bad update", **where)
    return np.frombuffer(rng.bytes(int(rng.integers(2 * payload.nbytes))), np.uint8)


def _floats(arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {name: values.copy() for name, values in arrays.items() if values.dtype.kind == "f"}
