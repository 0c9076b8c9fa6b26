"""Values as bytes that no stranger can make run code: a safetensors file whose metadata tells the structure.

    __metadata__.structure    JSON: {"format": "1", "arrays": [...], "root": NODE}
    "0", "1", ...             the arrays, each described in its place of "arrays" (stored_arrays)

A NODE is a JSON scalar for None, bool, str, int and finite floats (whose shortest decimals have every bit), and else an
object with one key:

    {"tuple": [NODE...]}  {"list": [NODE...]}  {"dict": [[KEY, NODE]...]}  {"float": "16 hex digits"}
    {"array": PLACE}      {"record": [CLASS, {FIELD: NODE}]}

A record is a dataclass that the reader has declared (storable); nothing else is made, imported or called. An array that
a value holds twice is stored once and comes back as one; two views of one storage are two arrays. The same value gives
the same bytes. What is read takes memory in proportion to the bytes that are there, whatever they announce.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save
from torch import Tensor

from fedknow_ray.federation.storable import Record, StateError, StateTypeError, Types, records
from fedknow_ray.federation.stored_arrays import DTYPES, describe, restore

FORMAT = "1"
MOST_DEPTH = 50
"""Levels of containers in each other."""
MOST_STRUCTURE_BYTES = 2**22
"""Of the safetensors header, structure included; objects made of it take some twenty times as much."""
MOST_INT_BITS = 1024

_LENGTH_BYTES = 8
_STRUCTURE = "structure"
_DTYPE_OF = dict(
    zip(("F64", "F32", "F16", "BOOL", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"), DTYPES, strict=True)
)


def dump_value(value: object, types: Types) -> bytes:
    """Return a value as bytes; *types* are the dataclasses that it may hold.

    Raises:
        StateTypeError: if it holds anything else, or a field holds what its annotation does not allow; says where.
    """
    writer = _Writer(records(types))
    root = writer.node(value, "state", 0)
    structure = {"format": FORMAT, "arrays": writer.descriptions, "root": root}
    text = json.dumps(structure, separators=(",", ":"), allow_nan=False)
    # one key of metadata: the library writes several in any order
    data = save({str(place): array for place, array in enumerate(writer.arrays)}, {_STRUCTURE: text})
    if _header_bytes(data) > MOST_STRUCTURE_BYTES:
        raise StateTypeError(
            f"the structure of a state takes {_header_bytes(data)} bytes, {MOST_STRUCTURE_BYTES} at most are read; "
            "keep many values in one array"
        )
    return data


def load_value(data: bytes, types: Types) -> object:
    """Return the value that `dump_value` made the bytes of; nothing but the *types* is made of it.

    Raises:
        StateError: if the bytes are anything else.
    """
    known = records(types)
    arrays = _read_arrays(data)
    descriptions, root = _read_structure(data)
    if arrays.keys() != {str(place) for place in range(len(descriptions))}:
        raise StateError(
            f"a state describes {len(descriptions)} arrays and holds {len(arrays)}, or calls them otherwise"
        )
    restored = [restore(described, arrays[str(place)]) for place, described in enumerate(descriptions)]
    return _Reader(known, restored).node(root, "state", 0)


def _header_bytes(data: bytes) -> int:
    return int.from_bytes(data[:_LENGTH_BYTES], "little")


def _read_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Return what a safetensors file holds: the library checks that each array has as many bytes as its shape says."""
    if _header_bytes(data) > MOST_STRUCTURE_BYTES:
        raise StateError(
            f"a state announces {_header_bytes(data)} bytes of structure, {MOST_STRUCTURE_BYTES} at most are read"
        )
    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise StateError(f"the bytes are no client's state: {error}") from error
    return {name: _plain_array(entry) for name, entry in found}


def _plain_array(entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype = _DTYPE_OF.get(entry["dtype"])
    if dtype is None:
        raise StateError(f"a state holds no arrays of {entry['dtype']}")
    flat = np.frombuffer(entry["data"], np.dtype(dtype).newbyteorder("<"))
    try:
        return flat.reshape(entry["shape"])
    except (ValueError, OverflowError) as error:  # empty, with sides or dimensions beyond what numpy can shape
        raise StateError(f"no array has the shape {short(entry['shape'])}") from error


def _read_structure(data: bytes) -> tuple[list[object], object]:
    """Return the descriptions of the arrays, and the root, of a whole safetensors file."""
    try:
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + _header_bytes(data)])
        structure = json.loads(header["__metadata__"][_STRUCTURE], parse_constant=_refuse_constant)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateError(f"the structure of a state cannot be read: {error!r:.200}") from error
    if not isinstance(structure, dict) or structure.get("format") != FORMAT:
        there = structure.get("format") if isinstance(structure, dict) else structure
        raise StateError(f"a state has format {short(there)}, this program reads {FORMAT}")
    if structure.keys() != {"format", "arrays", "root"} or not isinstance(structure["arrays"], list):
        raise StateError("a state is made of format, arrays and root, and of nothing else")
    return structure["arrays"], structure["root"]


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


@dataclass(slots=True)
class _Writer:
    """Makes nodes of values; collects the arrays, each object once."""

    records: Mapping[str, Record]
    arrays: list[NDArray[Any]] = field(default_factory=list)
    descriptions: list[list[Any]] = field(default_factory=list)
    _places: dict[int, tuple[int, object]] = field(default_factory=dict)

    def node(self, value: Any, where: str, depth: int) -> object:
        """Return the node of a value; *where* it stands."""
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return _checked_int(value, where)
        if kind is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}  # NaNs differ in bits
        if depth == MOST_DEPTH:
            raise StateTypeError(f"{where:.200} lies more than {MOST_DEPTH} levels deep, or in itself")
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return {"array": self._place(value, where)}
        if kind is tuple or kind is list:
            items = [self.node(item, f"{where}[{place}]", depth + 1) for place, item in enumerate(value)]
            return {kind.__name__: items}
        if kind is dict:
            return {"dict": [self._entry(key, item, where, depth) for key, item in value.items()]}
        return {"record": self._record(value, where, depth)}

    def _entry(self, key: Any, item: Any, where: str, depth: int) -> list[object]:
        if type(key) is not str and type(key) is not int:
            raise StateTypeError(f"{where} has the key {short(key)}; keys are str or int")
        return [self.node(key, where, depth), self.node(item, f"{where}[{key!r}]", depth + 1)]

    def _record(self, value: Any, where: str, depth: int) -> list[object]:
        kind = type(value)
        record = self.records.get(kind.__name__)
        if record is None or record.kind is not kind:
            raise StateTypeError(
                f"{where} is a {kind.__module__}.{kind.__qualname__}, which no state can hold; "
                "a dataclass must be declared in the method's memory_types"
            )
        values = {name: getattr(value, name) for name in record.checks}
        if wrong := record.wrong_field(values):
            raise StateTypeError(f"{where}.{wrong} is not what its annotation says: {short(values[wrong])}")
        return [kind.__name__, {name: self.node(one, f"{where}.{name}", depth + 1) for name, one in values.items()}]

    def _place(self, value: Tensor | NDArray[Any] | np.generic, where: str) -> int:
        if id(value) not in self._places:
            description, array = describe(value, where)
            # the value is held too: as long as it lives no other has its id
            self._places[id(value)] = len(self.arrays), value
            self.arrays.append(array)
            self.descriptions.append(description)
        return self._places[id(value)][0]


class _Reader:
    """Makes values of nodes."""

    def __init__(self, records: Mapping[str, Record], arrays: list[Any]) -> None:
        self._records = records
        self._arrays = arrays
        self._kinds: Mapping[str, Callable[[Any, str, int], object]] = {
            "tuple": lambda content, where, depth: tuple(self._items(content, where, depth)),
            "list": self._items,
            "dict": self._dict,
            "float": self._float,
            "array": self._array,
            "record": self._record,
        }

    def node(self, node: Any, where: str, depth: int) -> object:
        """Return the value of a node; *where* it stands."""
        kind = type(node)
        if node is None or kind is bool or kind is str:
            return node
        if kind is int and node.bit_length() <= MOST_INT_BITS:
            return node
        if kind is float and math.isfinite(node):
            return node
        if kind is not dict or len(node) != 1:
            raise StateError(f"{where} is no value: {short(node)}")
        if depth == MOST_DEPTH:
            raise StateError(f"{where:.200} lies more than {MOST_DEPTH} levels deep")
        ((name, content),) = node.items()
        if name not in self._kinds:
            raise StateError(f"{where} is of an unknown kind: {short(name)}")
        return self._kinds[name](content, where, depth)

    def _items(self, content: Any, where: str, depth: int) -> list[object]:
        if type(content) is not list:
            raise StateError(f"{where} is no sequence: {short(content)}")
        return [self.node(item, f"{where}[{place}]", depth + 1) for place, item in enumerate(content)]

    def _dict(self, content: Any, where: str, depth: int) -> dict[object, object]:
        pairs = content if type(content) is list else [content]
        found: dict[object, object] = {}
        for pair in pairs:
            if type(pair) is not list or len(pair) != 2 or type(pair[0]) not in (str, int) or pair[0] in found:
                raise StateError(f"{where} has no such entry, or has it twice: {short(pair)}")
            found[self.node(pair[0], where, depth)] = self.node(pair[1], f"{where}[{short(pair[0])}]", depth + 1)
        return found

    def _float(self, content: Any, where: str, depth: int) -> float:
        try:
            (value,) = struct.unpack(">d", bytes.fromhex(content))
        except (TypeError, ValueError, struct.error) as error:
            raise StateError(f"{where} is no number: {short(content)}") from error
        return float(value)

    def _array(self, content: Any, where: str, depth: int) -> object:
        if type(content) is not int or not 0 <= content < len(self._arrays):
            raise StateError(f"{where} is array {short(content)} of {len(self._arrays)}")
        return self._arrays[content]

    def _record(self, content: Any, where: str, depth: int) -> object:
        if type(content) is not list or len(content) != 2 or type(content[1]) is not dict:
            raise StateError(f"{where} is no record: {short(content)}")
        name, nodes = content
        record = self._records.get(name) if type(name) is str else None
        if record is None:
            known = ", ".join(self._records) or "none"
            raise StateError(f"{where} is of the class {short(name)}, which is not among those declared here: {known}")
        if nodes.keys() != record.checks.keys():
            differing = ", ".join(sorted(nodes.keys() ^ record.checks.keys()))
            raise StateError(f"{where}: {name} has not these fields, or lacks them: {differing:.200}")
        # in the order of the class, so that the message of a broken file names the first field
        values = {one: self.node(nodes[one], f"{where}.{one}", depth + 1) for one in record.checks}
        if wrong := record.wrong_field(values):
            raise StateError(f"{where}.{wrong} is not what {name} says of it: {short(values[wrong])}")
        try:
            return record.kind(**values)
        except Exception as error:  # whatever a declared class has against its values
            raise StateError(f"{where}: {name} refuses its fields: {error}") from error


def _checked_int(value: int, where: str) -> int:
    if value.bit_length() > MOST_INT_BITS:
        raise StateTypeError(f"{where} is an integer of {value.bit_length()} bits; {MOST_INT_BITS} at most are stored")
    return value
