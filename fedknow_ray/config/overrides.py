"""Overrides: single keys set over a config file, from the command line or from Python.

    --set training.threads=2          a VALUE is YAML
    --set fleet.0.device=jetson-tx2   a KEY reaches into lists
    --set 'method={name: fedavg}'     replaces the whole entry
    --set method.name=fedavg          what the file said for another method is dropped

The order of different options does not matter: the shorter key is applied first, so what is said of a part holds
against what is said of the whole; of two with the same key the last one counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any

from fedknow_ray.config.document import Document, Faults, Place, value_at
from fedknow_ray.config.model import DEFAULT_NAMES, CommonConfig
from fedknow_ray.config.yaml import MOST_DEPTH, KeyPath, key_text, parse_yaml, show


@dataclass(frozen=True, slots=True)
class Override:
    """One key to set: its parts as they were written, its plain value, and where it was said."""

    parts: tuple[str, ...]
    value: Any
    place: Place


def read_overrides(overrides: Sequence[str] | Mapping[str, Any], faults: Faults) -> list[Override]:
    """Return the overrides that can be read; a malformed one goes to *faults*."""
    if isinstance(overrides, Mapping):
        read = [_from_python(key, value, number, faults) for number, (key, value) in enumerate(overrides.items(), 1)]
    else:
        read = [_from_option(option, number, faults) for number, option in enumerate(overrides, 1)]
    return [override for override in read if override is not None]


def apply_overrides(document: Document, overrides: Sequence[Override], faults: Faults) -> None:
    """Set the keys in the document; one that leads nowhere goes to *faults*."""
    names_of_file = {entry: _name_of(document, entry) for entry in DEFAULT_NAMES}
    for override in sorted(overrides, key=lambda override: len(override.parts)):
        try:
            document.put(_resolve(document, override), override.value, override.place)
        except _LeadsNowhereError as error:
            faults.add(override.place, override.parts, str(error))
    for entry, name in names_of_file.items():
        if _name_of(document, entry) != name:
            _drop_keys_of_file(document, entry)


class _LeadsNowhereError(Exception):
    """The key of an override reaches into something that is not there."""


def _from_option(option: str, number: int, faults: Faults) -> Override | None:
    place = Place(number, 0, f"--set {option}")
    key, equals, text = option.partition("=")
    if not equals:
        faults.add(place, (), "must be KEY=VALUE, for example training.threads=2")
        return None
    parts = _parts(key, place, faults)
    parsed = parse_yaml(text)
    for problem in parsed.problems:
        faults.add(place, (*parts, *problem.path), problem.message)
    return None if parsed.problems or not parts else Override(parts, parsed.value, place)


def _from_python(key: str, value: Any, number: int, faults: Faults) -> Override | None:
    place = Place(number, 0, f"overrides[{key!r}]")
    parts = _parts(key, place, faults)
    try:
        plain = _plain(value)
    except TypeError as error:
        faults.add(place, parts, str(error))
        return None
    return Override(parts, plain, place) if parts else None


def _parts(key: str, place: Place, faults: Faults) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in key.split("."))
    if len(parts) > MOST_DEPTH:
        faults.add(place, (), f"the key has {len(parts)} parts; none has more than {MOST_DEPTH}")
        return ()
    if all(parts):
        return parts
    faults.add(place, (), f"the key {key.strip()!r} has an empty part; write it as in training.threads")
    return ()


def _plain(value: Any) -> Any:
    """Return a Python value as YAML would hold it: dicts, lists, text, numbers."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"a config cannot hold a {type(value).__name__}; give text, numbers, lists or dicts")


def _resolve(document: Document, override: Override) -> KeyPath:
    """Return the path that an override means, with the containers on its way made where they are missing."""
    path: KeyPath = ()
    for part in override.parts[:-1]:
        path = _step(document, path, part)
        if document.get(path, _ABSENT) is _ABSENT:
            document.put(path, _default_container(path), override.place)
    return _step(document, path, override.parts[-1])


_ABSENT = object()
_DEFAULTS = CommonConfig().model_dump(mode="json")


def _default_container(path: KeyPath) -> Any:
    """Return what an override may reach into where the file says nothing: a default list, or a mapping to fill."""
    default = value_at(_DEFAULTS, path)
    return deepcopy(default) if isinstance(default, list) else {}


def _step(document: Document, path: KeyPath, part: str) -> KeyPath:
    container = document.get(path)
    if isinstance(container, dict):
        return (*path, part)
    if not isinstance(container, list):
        raise _LeadsNowhereError(f"{key_text(path)} is {show(container)} and has no keys")
    if not (part.isascii() and part.isdigit()):
        raise _LeadsNowhereError(f"{key_text(path)} is a list; {part!r} is not a position in it")
    # int() refuses thousands of digits
    if len(part) > 9 or int(part) >= len(container):
        held = f"has the positions 0 to {len(container) - 1}" if container else "is empty"
        raise _LeadsNowhereError(f"there is no position {part}: {key_text(path)} {held}")
    return (*path, int(part))


def _name_of(document: Document, entry: KeyPath) -> Any:
    return document.get((*entry, "name"), DEFAULT_NAMES[entry])


def _drop_keys_of_file(document: Document, entry: KeyPath) -> None:
    """Drop what the file said for the entry's old name; what overrides say of the entry stays."""
    section = document.get(entry)
    for key in list(section) if isinstance(section, dict) else []:
        if document.place((*entry, key)).override == 0:
            document.drop((*entry, key))
