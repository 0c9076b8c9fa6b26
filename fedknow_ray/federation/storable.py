"""What a client's state may be made of: plain values, arrays, and the dataclasses that its method declares.

A declared dataclass stands in the bytes by the name of its class, and each of its fields by its own. What a field may
hold is read off its annotation: None, bool, int, float, str, tensors, numpy arrays (of a dtype, where one is said) and
scalars, tuples, lists, dicts, unions of these, `Literal`, `Any`, and declared dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from fedknow_ray.errors import FedKnowError, UserError

Check = Callable[[object], bool]
Types = tuple[type, ...]

#: What may stand in a state without being declared; none of it has more to it than its values.
PLAIN = (NoneType, bool, int, float, str, tuple, list, dict, np.ndarray, Tensor)


class StateError(UserError):
    """Bytes that are no client's state: broken, of another format, or of a method that keeps other things."""


class StateTypeError(FedKnowError, TypeError):
    """A method keeps, or declares, what cannot be stored; its author can put it right."""


@dataclass(frozen=True, slots=True)
class Record:
    """A declared dataclass, with a check of what each of its fields holds."""

    kind: type
    checks: Mapping[str, Check]

    def wrong_field(self, values: Mapping[str, object]) -> str | None:
        """Return the first field that holds what its annotation does not allow; None if all is well."""
        return next((name for name, check in self.checks.items() if not check(values[name])), None)


@cache
def records(types: Types) -> Mapping[str, Record]:
    """Return the declared dataclasses by the names that they have in a state.

    Raises:
        StateTypeError: if one is no dataclass, if two have one name, if a field is no argument of the constructor, or
            is annotated with what no state can hold.
    """
    found: dict[str, Record] = {}
    for kind in types:
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise StateTypeError(f"{kind!r} is no dataclass; the memory of a method is made of dataclasses")
        if kind.__name__ in found:
            raise StateTypeError(f"two of the types that are declared are called {kind.__name__}")
        found[kind.__name__] = Record(kind, _checks(kind, types))
    return found


def _checks(kind: type, types: Types) -> dict[str, Check]:
    hidden = [field.name for field in fields(kind) if not field.init]
    if hidden:
        raise StateTypeError(f"{kind.__name__}.{hidden[0]} cannot be given to the constructor, so it cannot be read")
    try:
        hints = get_type_hints(kind)
    except (NameError, AttributeError, TypeError) as error:
        raise StateTypeError(
            f"the types of the fields of {kind.__name__} must be known when the program runs: {error}"
        ) from error
    return {field.name: _check(hints[field.name], types, f"{kind.__name__}.{field.name}") for field in fields(kind)}


def _check(hint: Any, types: Types, where: str) -> Check:
    """Return whether a value fits an annotation, as a function of the value."""
    if hint is Any or hint is object:
        return lambda value: True
    if hint is None:
        return _is_exactly(NoneType)
    if isinstance(hint, type) and not get_args(hint):
        return _check_class(hint, types, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _check(args[0], types, where)
    if origin in (Union, UnionType):
        checks = [_check(arg, types, where) for arg in args]
        return lambda value: any(check(value) for check in checks)
    if origin is Literal:
        return lambda value: any(type(value) is type(arg) and value == arg for arg in args)
    if origin is np.ndarray:
        return _check_array(args)
    if origin is tuple and args[-1:] != (...,):
        return _check_parts([_check(arg, types, where) for arg in args])
    if origin in (tuple, list, Sequence):
        return _check_items((tuple, list) if origin is Sequence else (origin,), _check(args[0], types, where))
    if origin in (dict, Mapping):
        return _check_entries(*(_check(arg, types, where) for arg in args))
    raise StateTypeError(f"{where} is annotated with {hint}, which no state can hold")


def _check_class(hint: type, types: Types, where: str) -> Check:
    if hint is float:
        return lambda value: type(value) in (float, int)  # an int will do for a float, and stays one
    if hint in PLAIN or hint in types:
        return _is_exactly(hint)
    if issubclass(hint, np.generic):
        return lambda value: isinstance(value, hint)
    declare = "; add it to the declared types" if is_dataclass(hint) else ""
    raise StateTypeError(f"{where} is annotated with {hint.__name__}, which no state can hold{declare}")


def _is_exactly(kind: type) -> Check:
    return lambda value: type(value) is kind


def _check_array(args: tuple[Any, ...]) -> Check:
    (scalar,) = get_args(args[-1]) or (Any,)
    if scalar is Any or not isinstance(scalar, type):
        return _is_exactly(np.ndarray)
    return lambda value: type(value) is np.ndarray and issubclass(value.dtype.type, scalar)


def _check_parts(checks: Sequence[Check]) -> Check:
    def fits(value: object) -> bool:
        return (
            type(value) is tuple
            and len(value) == len(checks)
            and all(check(part) for check, part in zip(checks, value, strict=True))
        )

    return fits


def _check_items(kinds: Sequence[type], check: Check) -> Check:
    return lambda value: isinstance(value, tuple | list) and type(value) in kinds and all(map(check, value))


def _check_entries(check_key: Check, check_value: Check) -> Check:
    return lambda value: type(value) is dict and all(map(check_key, value)) and all(map(check_value, value.values()))
