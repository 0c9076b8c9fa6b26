"""What the fields of declared dataclasses may hold, and declarations that no state can follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedknow_ray.federation.storable import StateTypeError, records

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass
class Inner:
    x: int


@dataclass
class Outer:
    count: int
    share: float
    on: bool
    name: str | None
    mode: Literal["a", "b"]
    tensor: Tensor
    single: NDArray[np.float32]
    array: NDArray[Any]
    number: np.floating
    pair: tuple[int, str]
    rows: tuple[Tensor, ...]
    list_of: list[int]
    order: Sequence[int]
    named: dict[str, Inner]
    mapped: Mapping[int, int]
    inner: Inner
    bare: tuple
    noted: Annotated[int, "a note"]
    free: Any


FITTING: dict[str, Any] = {
    "count": 1,
    "share": 0.5,
    "on": True,
    "name": None,
    "mode": "a",
    "tensor": torch.zeros(1),
    "single": np.zeros(1, np.float32),
    "array": np.zeros(1, np.int8),
    "number": np.float16(1),
    "pair": (1, "x"),
    "rows": (torch.zeros(1), torch.zeros(2)),
    "list_of": [1],
    "order": [1],
    "named": {"a": Inner(1)},
    "mapped": {1: 2},
    "inner": Inner(1),
    "bare": (1, "x", None),
    "noted": 1,
    "free": object(),
}
RECORD = records((Outer, Inner))["Outer"]


def test_values_that_fit_their_annotations_pass():
    assert RECORD.wrong_field(FITTING) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("share", 1),
        ("name", "x"),
        ("mode", "b"),
        ("pair", (2, "")),
        ("rows", ()),
        ("order", (1, 2)),
        ("named", {}),
    ],
)
def test_other_values_that_fit_too(name: str, value: Any):
    assert RECORD.wrong_field({**FITTING, name: value}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", True),
        ("count", 1.0),
        ("count", np.int64(1)),
        ("share", "0.5"),
        ("share", True),
        ("on", 1),
        ("name", 3),
        ("mode", "c"),
        ("tensor", np.zeros(1)),
        ("tensor", None),
        ("single", np.zeros(1)),
        ("single", torch.zeros(1)),
        ("array", [1]),
        ("number", 1.0),
        ("pair", (1, "x", 2)),
        ("pair", (1, 2)),
        ("pair", [1, "x"]),
        ("rows", (torch.zeros(1), 1)),
        ("rows", [torch.zeros(1)]),
        ("list_of", (1,)),
        ("order", "text"),
        ("named", {1: Inner(1)}),
        ("named", {"a": 1}),
        ("mapped", [1]),
        ("inner", {"x": 1}),
        ("bare", []),
        ("noted", "1"),
    ],
)
def test_values_that_do_not_fit_are_named_by_their_field(name: str, value: Any):
    assert RECORD.wrong_field({**FITTING, name: value}) == name


@dataclass
class Hidden:
    x: int
    made: int = field(init=False, default=0)


@dataclass
class LaterOnly:
    x: Fraction


def with_field(annotation: Any) -> type:
    return make_dataclass("Made", [("x", annotation)])


@pytest.mark.parametrize(
    ("types", "told"),
    [
        ((int,), "is no dataclass"),
        ((Inner, make_dataclass("Inner", [])), "two of the types that are declared are called Inner"),
        ((Hidden,), r"Hidden\.made cannot be given to the constructor"),
        ((LaterOnly,), r"fields of LaterOnly must be known when the program runs: name 'Fraction'"),
        ((Outer,), r"Outer\.named is annotated with Inner, which no state can hold; add it to the declared types"),
        ((with_field(set[int]),), r"Made\.x is annotated with set\[int\]"),
        ((with_field(Callable[[], int]),), r"Made\.x is annotated with"),
        ((with_field(threading.Thread),), r"Made\.x is annotated with Thread, which no state can hold$"),
    ],
    ids=["class", "one name", "not in init", "not imported", "undeclared", "set", "function", "thread"],
)
def test_declarations_that_no_state_can_follow_are_refused(types: tuple[Any, ...], told: str):
    with pytest.raises(StateTypeError, match=told):
        records(types)


def test_what_a_constructor_takes_besides_the_fields_is_no_part_of_a_state():
    @dataclass
    class WithExtra:
        x: int
        extra: InitVar[int] = 0

    assert list(records((WithExtra,))["WithExtra"].checks) == ["x"]
