"""Names for the things a config may choose: methods, models, data sets, partitions.

An entry is an object or the place of one ("package.module:attribute"), which is imported when it is first used: listing
names imports neither torch nor ray. Third parties add entries through the entry-point group of the registry.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from fedknow_ray.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects of one kind.

    *kind* is the word that error messages use; *group* is the entry-point group that third parties register in.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self._group = group
        self._entries: dict[str, T | str] = {}

    def register(self, name: str, entry: T | str) -> None:
        """Add an entry: an object, or where to import it from ("package.module:attribute").

        Raises:
            ValueError: if the name is taken, so that a plugin cannot silently replace a built-in.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = entry

    def names(self) -> list[str]:
        """Return all names, sorted; imports nothing."""
        return sorted({*self._entries, *self._plugins})

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._plugins

    def get(self, name: str) -> T:
        """Return the entry, importing it if need be.

        Raises:
            UnknownNameError: if there is no such name; the message suggests the nearest.
        """
        if name in self._entries:
            entry = self._entries[name]
            if isinstance(entry, str):
                module, attribute = entry.split(":")
                entry = self._entries[name] = cast(T, getattr(import_module(module), attribute))
            return entry
        if name in self._plugins:
            return cast(T, self._plugins[name].load())
        raise UnknownNameError(self.kind, name, self.names())

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self._group)} if self._group else {}
