"""Payloads: what goes in comes out, the length is known beforehand, and nothing but a payload is read."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedknow_ray.transport.payload import (
    ALIGNMENT,
    DTYPES,
    MAGIC,
    PayloadError,
    decode,
    encode,
    encoded_bytes,
    payload_sha256,
)

arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)
contents = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), arrays, max_size=4)

EXAMPLE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([1, -2], np.int64)}


def with_header(entries: Any, body: int = 0) -> NDArray[np.uint8]:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    padding = bytes(-(8 + len(text)) % ALIGNMENT)
    return np.frombuffer(MAGIC + len(text).to_bytes(4, "little") + text + padding + bytes(body), np.uint8)


@given(contents)
def test_decoding_gives_back_names_types_shapes_and_bits(content: dict[str, NDArray[Any]]):
    decoded = decode(encode(content))
    assert list(decoded) == list(content)
    for name, array in content.items():
        assert (decoded[name].dtype, decoded[name].shape) == (array.dtype, array.shape)
        assert decoded[name].tobytes() == array.tobytes()


@given(contents)
def test_the_length_is_known_from_the_shapes(content: dict[str, NDArray[Any]]):
    shapes = {name: (array.shape, array.dtype.name) for name, array in content.items()}
    assert encoded_bytes(shapes) == encode(content).nbytes


@given(contents)
def test_encoding_twice_gives_the_same_bytes(content: dict[str, NDArray[Any]]):
    assert encode(content).tobytes() == encode(decode(encode(content))).tobytes()


def test_a_payload_by_hand():
    """4 + 4 + 22 bytes of header, padded to 64, and two float32 of 1."""
    header = b'[["w","float32",[2]]]'
    expected = b"FKP1" + (21).to_bytes(4, "little") + header + bytes(64 - 8 - 21) + b"\0\0\x80\x3f" * 2
    assert encode({"w": np.ones(2, np.float32)}).tobytes() == expected


@given(contents)
def test_arrays_start_at_multiples_of_the_alignment(content: dict[str, NDArray[Any]]):
    payload = encode(content)
    base = payload.__array_interface__["data"][0]
    for array in decode(payload).values():
        if array.size:
            assert (array.__array_interface__["data"][0] - base) % ALIGNMENT == 0


def test_decoding_copies_nothing():
    payload = encode(EXAMPLE)
    assert all(np.shares_memory(array, payload) for array in decode(payload).values())


@pytest.mark.parametrize(
    "array", [np.asfortranarray(EXAMPLE["w"]), EXAMPLE["w"][:, ::2], np.arange(3).astype(">i4")], ids=str
)
def test_memory_order_and_byte_order_do_not_matter(array: NDArray[Any]):
    np.testing.assert_array_equal(decode(encode({"w": array}))["w"], array)


def test_a_type_that_does_not_cross_the_link_is_refused():
    with pytest.raises(PayloadError, match=r"a payload holds float32, .*, not float64"):
        encode({"w": np.ones(2)})


@given(st.integers(0, encode(EXAMPLE).nbytes - 1))
def test_every_truncation_is_refused(length: int):
    with pytest.raises(PayloadError):
        decode(encode(EXAMPLE)[:length])


def test_a_longer_payload_than_announced_is_refused():
    with pytest.raises(PayloadError, match="a payload of 144 bytes was announced and 145 came"):
        decode(np.append(encode(EXAMPLE), np.uint8(0)))


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes):
    with pytest.raises(PayloadError, match="not a payload"):
        decode(np.frombuffer(b"\0" + garbage, np.uint8))


@pytest.mark.parametrize(
    "entries",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'[["w","float32",[Infinity]]]',
        b'[["w","float32",[NaN]]]',
        7,
        None,
        "text",
        {"a": 1},
        [1],
        [["w", "float32"]],
        [["w", "float32", 3]],
        [["w", "float32", "3"]],
        [["w", "float32", [1.5]]],
        [["w", "float32", [True]]],
        [["w", "float32", [None]]],
        [["w", "float32", [-1]]],
        [["w", "float32", [0, -1]]],
        [["w", "object", [1]]],
        [["w", ["float32"], [1]]],
        [[3, "float32", [0]]],
        [["w", "float32", [0]], ["w", "float32", [0]]],
        [["w", "float32", [10**30]]],
        [["w", "float32", [2**32, 2**32]]],
        [["w", "float32", [2**62, 4]]],
        [["w", "float32", [2**63, 0]]],
        [["w", "float32", [0] * 100]],
    ],
    ids=lambda entries: str(entries)[:40],
)
def test_a_lying_header_is_refused(entries: Any):
    for body in (0, 4, 64):
        with pytest.raises(PayloadError):
            decode(with_header(entries, body))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*DTYPES, "w", "object"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@given(json_values, st.sampled_from([0, 4, 16, 64]))
def test_any_json_for_a_header_is_a_payload_or_a_payload_error(entries: Any, body: int):
    with suppress(PayloadError):
        decode(with_header(entries, body))


@given(st.integers(0, encode(EXAMPLE).nbytes - 1), st.integers(0, 255))
def test_a_flipped_byte_is_a_payload_or_a_payload_error(place: int, value: int):
    payload = encode(EXAMPLE)
    payload[place] = value
    with suppress(PayloadError):
        decode(payload)


def test_equal_arrays_have_an_equal_digest():
    assert payload_sha256(encode(EXAMPLE)) == payload_sha256(encode(dict(EXAMPLE)))


@pytest.mark.parametrize(
    "other",
    [
        {"v": EXAMPLE["w"], "n": EXAMPLE["n"]},
        {"w": EXAMPLE["w"].reshape(3, 2), "n": EXAMPLE["n"]},
        {"w": EXAMPLE["w"], "n": EXAMPLE["n"].astype(np.int32)},
        {"w": np.nextafter(EXAMPLE["w"], 9, dtype=np.float32), "n": EXAMPLE["n"]},
        {"w": EXAMPLE["w"]},
    ],
    ids=["name", "shape", "type", "value", "fewer"],
)
def test_the_digest_tells_apart(other: dict[str, NDArray[Any]]):
    assert payload_sha256(encode(other)) != payload_sha256(encode(EXAMPLE))


def test_the_digest_by_hand():
    """sha256 of "w:float32:(2,);" and the bytes of two ones."""
    expected = sha256(b"w:float32:(2,);" + b"\0\0\x80\x3f" * 2).hexdigest()
    assert payload_sha256(encode({"w": np.ones(2, np.float32)})) == expected
