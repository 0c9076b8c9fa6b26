"""Values as bytes: any structure comes back to the bit, and nothing else in the bytes is made, called or believed."""

from __future__ import annotations

import builtins
import importlib
import json
import math
import os
import struct
import sys
from collections import namedtuple
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as plain_load
from safetensors.numpy import save as plain_save

from fedknow_ray.federation.storable import StateError, StateTypeError
from fedknow_ray.federation.value_bytes import (
    MOST_DEPTH,
    MOST_INT_BITS,
    MOST_STRUCTURE_BYTES,
    dump_value,
    load_value,
)


@dataclass(frozen=True)
class Leaf:
    x: Any
    y: int = 0


@dataclass(frozen=True)
class Picky:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ZeroDivisionError("below 0")


TYPES = (Leaf, Picky)


def there_and_back(value: Any) -> Any:
    return load_value(dump_value(value, TYPES), TYPES)


def bits(value: Any) -> Any:
    """A value in plain terms that are equal just if two values are the same to the bit.

    The strides of an array that holds nothing are none of its bits.
    """
    if isinstance(value, torch.Tensor):
        stride = value.stride() if value.numel() else ()
        return "tensor", value.dtype, tuple(value.shape), stride, value.numpy().tobytes()
    if isinstance(value, np.ndarray | np.generic):
        return type(value).__name__, value.dtype, value.shape, value.strides if value.size else (), value.tobytes()
    if isinstance(value, float):
        return "float", struct.pack(">d", value)
    if isinstance(value, tuple | list):
        return type(value).__name__, [bits(item) for item in value]
    if isinstance(value, dict):
        return "dict", [(bits(key), bits(item)) for key, item in value.items()]
    if isinstance(value, Leaf):
        return "Leaf", bits(value.x), value.y
    return type(value).__name__, value


numbers = st.integers() | st.floats() | st.integers(0, 2**64 - 1).map(lambda n: struct.unpack(">d", n.to_bytes(8))[0])
words = st.text(st.characters(), max_size=5)
arrays = st.lists(st.integers(0, 2**32 - 1), max_size=4).map(lambda n: np.array(n, np.uint32).view(np.float32))
scalars = st.none() | st.booleans() | numbers | words | arrays | arrays.map(torch.from_numpy)


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(children, max_size=3)
    keys = words | st.integers()
    leaves = st.builds(Leaf, children, st.integers())
    return items | items.map(tuple) | st.dictionaries(keys, children, max_size=3) | leaves


@given(st.recursive(scalars, containers, max_leaves=12))
@settings(deadline=None)
def test_any_structure_comes_back_to_the_bit(value: Any):
    data = dump_value(value, TYPES)
    assert bits(load_value(data, TYPES)) == bits(value)
    assert dump_value(load_value(data, TYPES), TYPES) == data


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1e308, 1e22])
def test_floats_keep_their_bits(value: float):
    assert bits(there_and_back(value)) == bits(value)


def test_what_is_held_twice_comes_back_as_one_and_views_of_one_storage_as_two():
    whole = torch.arange(4.0)
    one, again, part = there_and_back([whole, whole, whole[:2]])
    assert one is again
    part += 1
    assert one.tolist() == [0, 1, 2, 3]


def test_the_arrays_are_those_of_a_plain_safetensors_file():
    data = dump_value({"a": np.arange(3), "b": [torch.ones(2, 2)]}, ())
    found = plain_load(data)
    assert found["0"].tolist() == [0, 1, 2]
    assert found["1"].tolist() == [[1, 1], [1, 1]]


def nest(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_so_many_levels_and_no_more():
    assert there_and_back(nest(MOST_DEPTH)) == nest(MOST_DEPTH)
    with pytest.raises(StateTypeError, match=r"state\[0\]\[0\].* lies more than 50 levels deep"):
        dump_value(nest(MOST_DEPTH + 1), ())
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(StateTypeError, match="or in itself"):
        dump_value(itself, ())


class Number(IntEnum):
    ONE = 1


Pair = namedtuple("Pair", ["x"])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Number.ONE, r"state is a .*\.Number, which no state can hold"),
        (Pair(1), r"state is a .*\.Pair, which"),
        ({1}, r"state is a builtins\.set"),
        (b"bytes", r"state is a builtins\.bytes"),
        (Leaf, r"state is a builtins\.type"),
        (os.system, r"state is a builtins\.builtin_function_or_method"),
        (type("Leaf", (), {})(), r"state is a .*\.Leaf, which"),
        ({"a": [1, {1.5: 2}]}, r"state\['a'\]\[1\] has the key 1.5; keys are str or int"),
        ({True: 2}, r"state has the key True"),
        (2**MOST_INT_BITS, r"state is an integer of 1025 bits"),
        (Leaf(1, "2"), r"state\.y is not what its annotation says: '2'"),  # type: ignore[arg-type]
        (["x" * MOST_STRUCTURE_BYTES], r"the structure of a state takes \d+ bytes, \d+ at most"),
    ],
    # not the values: an object shows its address, and processes that share the tests must call them alike
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_cannot_be_stored_is_refused_with_its_place(value: Any, told: str):
    with pytest.raises(StateTypeError, match=told):
        dump_value(value, TYPES)


def made(root: Any, descriptions: Any = (), arrays: Any = None, **extra: Any) -> bytes:
    """A file as a stranger may write it."""
    structure = {"format": "1", "arrays": list(descriptions), "root": root, **extra}
    return plain_save(arrays or {}, {"structure": json.dumps(structure)})


def test_a_file_made_by_hand_is_read():
    """So that what is refused below is refused for what it says there, and for nothing else."""
    root = {"record": ["Leaf", {"x": {"dict": [["a", {"tuple": [{"array": 0}, None]}]]}, "y": 3}]}
    found: Any = load_value(made(root, [["tensor", "float32"]], {"0": np.ones(2, np.float32)}), TYPES)
    assert (type(found), found.y, found.x["a"][0].tolist(), found.x["a"][1]) == (Leaf, 3, [1.0, 1.0], None)


LEAF = {"x": None, "y": 3}


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ({"record": ["os.system", {"x": "true"}]}, "'os.system', which is not among those declared here: Leaf, Picky"),
        ({"record": ["posix.system", {}]}, "not among"),
        ({"record": ["builtins.eval", {}]}, "not among"),
        ({"record": ["eval", {"source": "1"}]}, "not among"),
        ({"record": ["Undeclared", {}]}, "not among"),
        ({"record": ["ClientState", {}]}, "not among"),
        ({"record": ["__class__", {}]}, "not among"),
        ({"record": [["Leaf"], LEAF]}, "not among"),
        ({"record": [{}, LEAF]}, "not among"),
        ({"global": ["os", "system"]}, "unknown kind: 'global'"),
        ({"__reduce__": []}, "unknown kind"),
        ({"_items": []}, "unknown kind"),
        ({"record": ["Leaf", {"x": 1}]}, "Leaf has not these fields, or lacks them: y"),
        ({"record": ["Leaf", {**LEAF, "z": 1}]}, "Leaf has not these fields, or lacks them: z"),
        ({"record": ["Leaf", {**LEAF, "__class__": 1}]}, "Leaf has not these fields, or lacks them: __class__"),
        ({"record": ["Leaf", {**LEAF, "y": "3"}]}, r"state\.y is not what Leaf says of it: '3'"),
        ({"record": ["Leaf", {**LEAF, "y": {"float": "0" * 16}}]}, "not what Leaf says"),
        ({"record": ["Picky", {"x": -1}]}, "Picky refuses its fields: below 0"),
        ({"record": ["Leaf"]}, "no record"),
        ({"record": ["Leaf", []]}, "no record"),
        ({"record": "Leaf"}, "no record"),
        ({"array": 0}, "array 0 of 0"),
        ({"array": -1}, "array -1"),
        ({"array": True}, "array True"),
        ({"array": "0"}, "array '0'"),
        ({"array": 2**60}, "array 1152921504606846976 of 0"),
        ({"tuple": {}}, "no sequence"),
        ({"list": "text"}, "no sequence"),
        ({"dict": {}}, "no such entry"),
        ({"dict": [[1]]}, "no such entry"),
        ({"dict": [[[], 1]]}, "no such entry"),
        ({"dict": [[1, 1], [1, 2]]}, "has it twice"),
        ({"dict": [[2**5000, 1]]}, "no value"),
        ({"float": "7ff"}, "no number"),
        ({"float": 1.0}, "no number"),
        ({"float": "0" * 18}, "no number"),
        ({}, "no value"),
        ({"tuple": [], "list": []}, "no value"),
        ([], "no value"),
        (2**MOST_INT_BITS, "no value"),
        (nest(300), "no value"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:50],
)
def test_structures_that_say_something_else_are_refused(root: Any, told: str):
    with pytest.raises(StateError, match=told):
        load_value(made(root), TYPES)


def raw_structure(text: str) -> bytes:
    return plain_save({}, {"structure": text})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\x80\x04N.",
        b"PK\x03\x04" + bytes(100),
        plain_save({}),
        plain_save({"0": np.zeros(2)}),
        plain_save({}, {"other": "{}"}),
        raw_structure(""),
        raw_structure("null"),
        raw_structure("[]"),
        raw_structure('"1"'),
        raw_structure("{}"),
        raw_structure('{"format":"1"}'),
        raw_structure('{"format":"2","arrays":[],"root":1}'),
        raw_structure('{"format":1,"arrays":[],"root":1}'),
        raw_structure('{"format":"1","arrays":[],"root":1,"more":2}'),
        raw_structure('{"format":"1","arrays":{},"root":1}'),
        raw_structure('{"format":"1","arrays":[],"root":NaN}'),
        raw_structure('{"format":"1","arrays":[],"root":Infinity}'),
        raw_structure('{"format":"1","arrays":[],"root":1e999}'),
        raw_structure('{"format":"1","arrays":[],"root":' + "1" * 5000 + "}"),
        raw_structure('{"format":"1","arrays":[],"root":' + "[" * 100_000),
        raw_structure('{"format":"1","arrays":[],"root":' + "[" * 900 + "]" * 900 + "}"),
        raw_structure('{"format":"1","arrays":[],"root":' + '{"list":[' * 51 + "1" + "]}" * 51 + "}"),
        made(1, [["tensor", "float32"]]),
        made(1, [], {"0": np.zeros(2)}),
        made(1, [["array", "float64"]], {"1": np.zeros(2)}),
        made(1, [["array", "float32"]], {"0": np.zeros(2)}),
        made(1, [["array", "complex64"]], {"0": np.zeros(2, np.complex64)}),
        made(1, [["array", "float64", [2**60], [1]]], {"0": np.zeros(2)}),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_bytes_that_are_no_value_are_refused(data: bytes):
    with pytest.raises(StateError):
        load_value(data, TYPES)


def with_header(header: Any, payload: bytes = b"", announced: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if announced is None else announced).to_bytes(8, "little") + text + payload


def tensor(shape: list[int], end: int, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


STRUCTURE = {"structure": json.dumps({"format": "1", "arrays": [["tensor", "uint8"]], "root": {"array": 0}})}


@pytest.mark.parametrize(
    "data",
    [
        with_header({"__metadata__": STRUCTURE}, announced=2**60),
        with_header({"__metadata__": STRUCTURE}, announced=2**64 - 1),
        with_header({"__metadata__": STRUCTURE}, announced=MOST_STRUCTURE_BYTES + 1),
        with_header({"__metadata__": STRUCTURE, "0": tensor([2**60], 2**60)}, b"\1"),
        with_header({"__metadata__": STRUCTURE, "0": tensor([2**60], 1)}, b"\1"),
        with_header({"__metadata__": STRUCTURE, "0": tensor([2**60, 2**60], 1)}, b"\1"),
        with_header({"__metadata__": STRUCTURE, "0": tensor([0, 2**60, 2**60], 0)}),
        with_header({"__metadata__": STRUCTURE, "0": tensor([0, 2**60], 0)}),
        with_header({"__metadata__": STRUCTURE, "0": tensor([0] + [1] * 70, 0)}),
        with_header({"__metadata__": STRUCTURE, "0": tensor([1] * 70, 1)}, b"\1"),
    ],
    ids=[
        *("header", "longest header", "too long a header", "array", "shape", "overflow"),
        *("empty overflow", "empty and wide", "empty, many axes", "many axes"),
    ],
)
def test_sizes_that_are_announced_and_not_there_are_refused(data: bytes):
    with pytest.raises(StateError):
        load_value(data, TYPES)
    whole = with_header({"__metadata__": STRUCTURE, "0": tensor([1], 1)}, b"\1")
    assert torch.equal(load_value(whole, TYPES), torch.ones(1, dtype=torch.uint8))  # type: ignore[arg-type]


def test_reading_imports_and_calls_nothing(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("called")

    data = dump_value([Leaf(torch.zeros(1)), math.nan, np.zeros(1)], TYPES)
    load_value(data, TYPES)
    modules = set(sys.modules)
    for owner, name in [(os, "system"), (importlib, "import_module"), (builtins, "eval"), (builtins, "exec")]:
        monkeypatch.setattr(owner, name, refuse)
    load_value(data, TYPES)
    for root in [{"record": ["os.system", {}]}, {"record": ["builtins.eval", {"x": "1"}]}, {"global": "os"}]:
        with pytest.raises(StateError):
            load_value(made(root), TYPES)
    assert set(sys.modules) == modules
