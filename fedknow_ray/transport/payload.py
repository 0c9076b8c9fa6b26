"""The payload: named arrays in one buffer, whose length is the number of bytes that crosses the link.

    magic "FKP1" | header length (uint32, little endian) | header (JSON) | padding | array 0 | padding | array 1 ...

The header is a list of [name, dtype, shape]. Arrays start at multiples of 64 bytes, so that decoding is a view and the
processor's vector units see aligned data. Nothing is pickled: bytes of a stranger cannot run code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.errors import FedKnowError

MAGIC = b"FKP1"
ALIGNMENT = 64
DTYPES = ("float32", "float16", "int8", "uint8", "int32", "uint32", "int64")
#: What numpy can shape: no more dimensions, and no more values even where one side is 0.
MOST_DIMENSIONS, MOST_VALUES = 32, 2**56

Buffer = NDArray[np.uint8]
Shapes = Mapping[str, tuple[tuple[int, ...], str]]


class PayloadError(FedKnowError):
    """Bytes that are not a payload, or not the payload that was expected."""


def encode(arrays: Mapping[str, NDArray[Any]]) -> Buffer:
    """Return the payload of named arrays, in the order of the mapping.

    >>> decode(encode({"w": np.ones(2, np.float32)}))["w"]
    array([1., 1.], dtype=float32)
    """
    header = _header({name: (array.shape, array.dtype.name) for name, array in arrays.items()})
    offsets, total = _offsets(len(header), [array.nbytes for array in arrays.values()])
    payload = np.zeros(total, np.uint8)
    payload[: len(header)] = np.frombuffer(header, np.uint8)
    for offset, array in zip(offsets, arrays.values(), strict=True):
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        payload[offset : offset + array.nbytes] = plain.reshape(-1).view(np.uint8)
    return payload


def encoded_bytes(shapes: Shapes) -> int:
    """Return the length of a payload of arrays of these shapes and dtypes, without building it."""
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes.values()]
    return _offsets(len(_header(shapes)), sizes)[1]


def decode(payload: Buffer) -> dict[str, NDArray[Any]]:
    """Return the arrays of a payload as views of it.

    Raises:
        PayloadError: if the bytes are not a whole payload.
    """
    entries, header_bytes = _read_header(payload)
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in entries]
    offsets, total = _offsets(header_bytes, sizes)
    if total != payload.nbytes:
        raise PayloadError(f"a payload of {total} bytes was announced and {payload.nbytes} came")
    return {
        name: payload[offset : offset + size].view(dtype).reshape(shape)
        for (name, dtype, shape), offset, size in zip(entries, offsets, sizes, strict=True)
    }


def _header(shapes: Shapes) -> bytes:
    entries = [[name, dtype, list(shape)] for name, (shape, dtype) in shapes.items()]
    unknown = [dtype for _, dtype, _ in entries if dtype not in DTYPES]
    if unknown:
        raise PayloadError(f"a payload holds {', '.join(DTYPES)}, not {unknown[0]}")
    text = json.dumps(entries, separators=(",", ":")).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text


def _offsets(header_bytes: int, sizes: list[int]) -> tuple[list[int], int]:
    offsets, end = [], header_bytes
    for size in sizes:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        offsets.append(start)
        end = start + size
    return offsets, end


def _read_header(payload: Buffer) -> tuple[list[tuple[str, str, tuple[int, ...]]], int]:
    prefix = payload[:8].tobytes()
    if len(prefix) < 8 or prefix[:4] != MAGIC:
        raise PayloadError(f"not a payload: it begins with {prefix[:4]!r} and not {MAGIC!r}")
    end = 8 + int.from_bytes(prefix[4:8], "little")
    try:
        entries = [_entry(*entry) for entry in json.loads(payload[8:end].tobytes())]
    except (ValueError, TypeError, RecursionError) as error:
        raise PayloadError(f"a payload with an unreadable header: {error}") from error
    if len({name for name, _, _ in entries}) < len(entries):
        raise PayloadError("a payload that names an array twice")
    return entries, end


def _entry(name: object, dtype: object, shape: object) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"no array is called {name!r} and holds {dtype!r}")
    if not isinstance(shape, list) or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"{shape!r} is no shape")
    if len(shape) > MOST_DIMENSIONS or math.prod(side or 1 for side in shape) > MOST_VALUES:
        raise ValueError(f"no array has the shape {shape!r}")
    return name, dtype, tuple(shape)


def payload_sha256(payload: Buffer) -> str:
    """Return the SHA-256 of a payload's arrays (names, types, shapes and values), in hexadecimal."""
    return arrays_sha256(decode(payload))


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of named arrays (names, types, shapes and values), in hexadecimal."""
    digest = sha256()
    for name, array in arrays.items():
        digest.update(f"{name}:{array.dtype.name}:{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
