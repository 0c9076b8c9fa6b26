"""A config on its way to being checked: plain values, where each was said, and the faults found so far."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedknow_ray.config.yaml import KeyPath, key_text, parse_yaml, show
from fedknow_ray.errors import Fault

#: Some 20,000 visits that fail, one a line; PyYAML reads so much in 15 s on two slow cores.
MOST_BYTES = 2**20


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Where something was said; sorts the file before the overrides, and both in the order in which they are read."""

    override: int
    """0 for the file, else the override's position from 1."""
    line: int
    text: str
    """As a fault shows it: "configs/x.yaml:12" or "--set seed=2"."""


class Faults:
    """The faults found so far, at most one for a key in a place: what follows from a fault is not told again."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, KeyPath], tuple[Place, Fault]] = {}

    def add(self, place: Place, path: KeyPath, message: str) -> None:
        """Note a fault, unless the key has one already in the same place."""
        self._found.setdefault((place.text, path), (place, Fault(place.text, key_text(path), message)))

    def touches(self, path: KeyPath) -> bool:
        """Return whether a key at, above or below this one is faulty."""
        return any(path[: len(other)] == other[: len(path)] for _, other in self._found if other)

    def in_order(self) -> list[Fault]:
        """Return the faults as a reader meets them: down the file, then along the overrides."""
        return [fault for _, fault in sorted(self._found.values(), key=lambda found: found[0])]


class Document:
    """The tree of a config's plain values with the place of each key."""

    def __init__(self, tree: dict[str, Any], places: dict[KeyPath, Place]) -> None:
        self.tree = tree
        self._places = places

    def place(self, *paths: KeyPath) -> Place:
        """Return where the first of the keys was said of which anything was: itself, or else the nearest above it."""
        for path in paths:
            for depth in range(len(path), 0, -1):
                if path[:depth] in self._places:
                    return self._places[path[:depth]]
        return self._places[()]

    def get(self, path: KeyPath, default: Any = None) -> Any:
        """Return the value of a key, or the default where there is none."""
        return value_at(self.tree, path, default)

    def put(self, path: KeyPath, value: Any, place: Place) -> None:
        """Set a key whose container exists; everything below it is as new."""
        container = self.get(path[:-1])
        container[path[-1]] = deepcopy(value)
        for other in [other for other in self._places if other[: len(path)] == path]:
            del self._places[other]
        self._places[path] = place

    def drop(self, path: KeyPath) -> None:
        """Take a key away."""
        del self.get(path[:-1])[path[-1]]


def value_at(tree: Any, path: KeyPath, default: Any = None) -> Any:
    """Return the value at a key path of nested dicts and lists, or the default where there is none."""
    for part in path:
        in_list = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if not (in_list or (isinstance(tree, dict) and part in tree)):
            return default
        tree = tree[part]
    return tree


def open_document(path: Path, faults: Faults) -> Document | None:
    """Read a config file; what is wrong with it goes to *faults*, and without a mapping in it there is no document."""
    text = _read_text(path, faults)
    if text is None:
        return None
    parsed = parse_yaml(text)
    places = {key: Place(0, line, f"{path}:{line}") for key, line in parsed.lines.items()}
    for problem in parsed.problems:
        faults.add(Place(0, problem.line, f"{path}:{problem.line}"), problem.path, problem.message)
    if isinstance(parsed.value, dict):
        return Document(parsed.value, places)
    if not parsed.problems:
        told = "is empty; a config is a mapping such as `seed: 1`"
        if parsed.value is not None:
            told = f"must be a mapping of keys such as `seed: 1`, got {show(parsed.value)}"
        faults.add(places.get((), Place(0, 1, f"{path}:1")), (), told)
    return None


def _read_text(path: Path, faults: Faults) -> str | None:
    whole_file = Place(0, 0, str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        faults.add(whole_file, (), "there is no such file")
        return None
    except IsADirectoryError:
        faults.add(whole_file, (), "is a folder; give the YAML file in it")
        return None
    except OSError as error:
        faults.add(whole_file, (), f"cannot be read: {error.strerror}")
        return None
    except ValueError:
        faults.add(Place(0, 0, show(str(path))), (), "cannot be the name of a file: it has a NUL character")
        return None
    if len(content) > MOST_BYTES:
        faults.add(whole_file, (), f"is larger than {MOST_BYTES} bytes, and no config is")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        faults.add(Place(0, line, f"{path}:{line}"), (), f"is not UTF-8 text (byte 0x{content[error.start]:02x})")
        return None
