"""The server's door: each kind of bad update by hand, and any bytes at all."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedknow_ray.federation.door import CHUNK, MOST_CHARACTERS, Door, norm_ratio
from fedknow_ray.transport.compression import make_compressor
from fedknow_ray.transport.payload import MAGIC, Buffer, decode, encode
from fedknow_ray.transport.update_layout import UpdateLayout

LAYOUT = UpdateLayout((2, 2))
#: Norm 5, so that with a ratio of 2 an update may be 10 away.
BASE = encode({"features": np.array([3, 0, 4, 0], np.float32)})
PLAIN = Door.of(BASE, None, 2.0)
KINDS: dict[str, dict[str, Any]] = {"none": {}, "float16": {}, "int8": {}, "topk": {"fraction": 0.5}}
each_kind = pytest.mark.parametrize("name", KINDS)


def features(*values: float) -> Buffer:
    return encode({"features": np.array(values, np.float32)})


def door(name: str) -> Door:
    return Door.of(BASE, make_compressor(name, LAYOUT, **KINDS[name]), 2.0)


def sent(name: str, *values: float) -> dict[str, NDArray[Any]]:
    """The arrays of an update of this kind that stands for such features."""
    model, compressor = decode(features(*values)), make_compressor(name, LAYOUT, **KINDS[name])
    return model if compressor is None else compressor.compress(model, decode(BASE), None)[0]


def kind_of(came: Any, at: Door = PLAIN) -> str | None:
    refusal = at.refusal(came, BASE)
    assert refusal is None or (refusal.message and len(refusal.message) <= MOST_CHARACTERS)
    return refusal and refusal.kind


def header(text: bytes, announced: int | None = None) -> Buffer:
    length = len(text) if announced is None else announced
    return np.frombuffer(MAGIC + length.to_bytes(4, "little") + text + bytes(64), np.uint8)


@each_kind
def test_an_update_as_agreed_is_let_in(name: str) -> None:
    assert kind_of(encode(sent(name, 4, 0, 4, 1)), door(name)) is None


def test_a_distance_of_the_limit_is_let_in_and_one_above_is_not() -> None:
    """||(9, 8)|| is 12.04, ||(6, 8)|| is 10: twice the norm of the broadcast."""
    assert PLAIN.refusal(features(3, 6, 4, 8), BASE) is None
    refusal = PLAIN.refusal(features(3, 9, 4, 8), BASE)
    assert str(refusal) == (
        "norm: it is 12.04 away from its broadcast, whose norm is 5; the limit is 10 (door.most_norm_ratio 2)"
    )


def test_the_norm_of_a_small_broadcast_counts_as_one() -> None:
    base = features(0, 0.5, 0, 0)
    assert PLAIN.refusal(features(0, 2.5, 0, 0), base) is None
    refusal = PLAIN.refusal(features(0, 2.75, 0, 0), base)
    assert refusal is not None
    assert refusal.message.endswith("the limit is 2 (door.most_norm_ratio 2)")


def test_norm_ratio_by_hand() -> None:
    assert norm_ratio(decode(features(3, 6, 4, 8)), decode(BASE)) == 2.0
    assert norm_ratio(decode(features(0, 3, 0, 0)), decode(features(0, 0, 0, 0))) == 3.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_told_with_its_place(value: float) -> None:
    refusal = PLAIN.refusal(features(1, 2, value, value), BASE)
    told = f"2 of the 4 values of 'features' are no finite numbers, the first one at place 2: {value}"
    assert str(refusal) == f"not_finite: {told}"


def test_a_value_beyond_the_first_chunk_counts() -> None:
    """The largest floats there are, whose squares float32 could not hold, and one value that is none."""
    base = np.zeros(2 * CHUNK + 1, np.float32)
    whole = Door.of(encode({"features": base}), None, 100.0)
    base[-1] = np.finfo(np.float32).max
    refusal = whole.refusal(encode({"features": base}), encode({"features": 0 * base}))
    assert refusal is not None
    assert "it is 3.403e+38 away" in refusal.message
    base[-1] = np.nan
    refusal = whole.refusal(encode({"features": base}), encode({"features": 0 * base}))
    assert refusal is not None
    assert refusal.kind == "not_finite"


def test_a_global_head_counts_too() -> None:
    both = {"features": np.zeros(3, np.float32), "head": np.zeros((2, 2), np.float32)}
    base = encode(both)
    whole = Door.of(base, None, 2.0)
    both["head"] = np.array([[0, 0], [3, 0]], np.float32)
    refusal = whole.refusal(encode(both), base)
    assert refusal is not None
    assert refusal.kind == "norm"
    assert kind_of(features(0, 0, 0), replace(whole)) == "wrong_shape"


@pytest.mark.parametrize(
    ("arrays", "came"),
    [
        ({"features": np.zeros(3, np.float32)}, r"'features' float32 \[3\] came"),
        ({"features": np.zeros((2, 2), np.float32)}, r"'features' float32 \[2, 2\] came"),
        ({"features": np.zeros(4, np.float16)}, r"'features' float16 \[4\] came"),
        ({"feature": np.zeros(4, np.float32)}, r"'feature' float32 \[4\] came"),
        ({"\ud800": np.zeros(4, np.float32)}, r"'\\ud800' float32 \[4\] came"),
        ({}, "nothing came"),
        ({str(n): np.zeros(1, np.int8) for n in range(9)}, "and 5 more came"),
    ],
)
def test_other_arrays_than_agreed(arrays: dict[str, NDArray[Any]], came: str) -> None:
    refusal = PLAIN.refusal(encode(arrays), BASE)
    assert refusal is not None
    assert refusal.kind == "wrong_shape"
    assert "'features' float32 [4] (80 bytes) was agreed" in refusal.message
    assert re.search(came, refusal.message)


@pytest.mark.parametrize(
    "came",
    [
        np.zeros(0, np.uint8),
        np.zeros(80, np.uint8),
        BASE[:-1],
        np.concatenate([BASE, BASE]),
        header(b"[["),
        header(b"["),
        header(b"17"),
        header(b"null"),
        header(b"[" * 60_000),
        header(b"9" * 60_000),
        header(b'[["features","float32",[4611686018427387904,4]]]'),
        header(b'[["features","float32",[' + b"9" * 4000 + b"]]]"),
        header(b'[["features","float32",[-4]]]'),
        header(b'[["features","float32",[true]]]'),
        header(b'[["features","float32",[' + b"1," * 100 + b"4]]]"),
        header(b'[["features","float64",[4]]]'),
        header(b'[["features","object",[4]]]'),
        header(b'[["w","int8",[1]],["w","int8",[1]]]'),
        header(b"[]", announced=2**32 - 1),
        header(b'["' + b"x" * 3000 + b'"]'),
        None,
        b"FKP1",
        "text",
        17,
        BASE.view(np.float32),
        BASE.reshape(2, -1),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:20]}",
)
def test_garbage(came: Any) -> None:
    assert kind_of(came) == "garbage"


def test_places_of_topk_that_are_beyond_the_end_or_come_twice_are_garbage() -> None:
    arrays, at = sent("topk", 9, 0, 4, 2), door("topk")
    assert arrays["places"].tolist() == [0, 3]
    for places in ([0, 4], [0, 2**32 - 1], [3, 3], [3, 0]):
        assert kind_of(encode({**arrays, "places": np.array(places, np.uint32)}), at) == "garbage"


@pytest.mark.parametrize("scale", [np.nan, np.inf, 3e38])
def test_scales_of_int8_that_lead_to_no_number(scale: float) -> None:
    """Even where all steps are 0, infinity times them is no number."""
    arrays = {**sent("int8", 4, 0, 4, 1), "scales": np.array([scale, 0], np.float32)}
    assert kind_of(encode(arrays), door("int8")) == "not_finite"


def test_values_of_float16_and_topk_that_are_no_number() -> None:
    weights = {"weights": np.array([1, 2, np.inf, 4], np.float16)}
    assert kind_of(encode(weights), door("float16")) == "not_finite"
    values = {**sent("topk", 9, 0, 4, 2), "values": np.array([1, np.nan], np.float32)}
    assert kind_of(encode(values), door("topk")) == "not_finite"


def test_a_header_costs_no_more_memory_than_a_few_payloads() -> None:
    """Twelve million empty lists would be a gigabyte."""
    lists = b"[" + b"[]," * 12_000_000 + b"[]]"
    payload = header(lists)
    tracemalloc.start()
    try:
        assert kind_of(payload) == "garbage"
        assert tracemalloc.get_traced_memory()[1] < payload.nbytes
    finally:
        tracemalloc.stop()


@each_kind
@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_answered(name: str, came: bytes) -> None:
    assert kind_of(np.frombuffer(came, np.uint8), door(name)) == "garbage"


@each_kind
@given(st.data())
@settings(deadline=None)
def test_a_payload_with_changed_bytes_is_refused_or_stands_for_a_model_within_the_limit(
    name: str, data: st.DataObject
) -> None:
    payload = encode(sent(name, 4, 0, 4, 1))
    for place in data.draw(st.lists(st.integers(0, payload.nbytes - 1), min_size=1, max_size=4)):
        payload[place] = data.draw(st.integers(0, 255))
    at = door(name)
    if kind_of(payload, at) is None:
        arrays = decode(payload)
        model = arrays if at.compressor is None else at.compressor.restore(arrays, decode(BASE))
        assert all(np.isfinite(values).all() for values in model.values())
        assert norm_ratio(model, decode(BASE)) <= 2.0


@each_kind
def test_a_door_can_be_sent_to_the_server(name: str) -> None:
    copy = pickle.loads(pickle.dumps(door(name)))
    assert kind_of(encode(sent(name, 4, 0, 4, 1)), copy) is None
    assert copy.agreed == door(name).agreed


def test_the_door_needs_no_torch() -> None:
    """It stands in the server actor, which is small because it has none."""
    code = "import sys; import fedknow_ray.federation.door; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
