"""What a config may name: the methods, models, data sets and devices that there are.

The config stands below the packages that know these things, so it asks for them through the small protocols here;
`fedknow_ray.registry.Registry` satisfies `Names`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from fedknow_ray.config.model import CommonConfig
    from fedknow_ray.config.yaml import KeyPath

T_co = TypeVar("T_co", covariant=True)


class Names(Protocol[T_co]):
    """A set of names, each of which stands for a T."""

    def names(self) -> list[str]:
        """Return all names, sorted."""
        ...

    def get(self, name: str) -> T_co:
        """Return what a known name stands for."""
        ...

    def __contains__(self, name: object) -> bool: ...


class MethodEntry(Protocol):
    """What the config needs to know of a method."""

    @property
    def hyperparameters(self) -> type[BaseModel]:
        """The frozen model of the method's own keys; it refuses keys that it does not know."""
        ...

    def conflicts(self, hyper: BaseModel, config: CommonConfig) -> Iterator[tuple[KeyPath, str]]:
        """Yield each key of a config that the method cannot go with, and why."""
        ...


class ModelEntry(Protocol):
    """What the config needs to know of a network."""

    def unsuitable(self, height: int, width: int, channels: int) -> str | None:
        """Return why the network cannot take images of this size, or None if it can."""
        ...


class DatasetEntry(Protocol):
    """What is known of a data set without opening it."""

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def channels(self) -> int:
        """1 or 3."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def bundled(self) -> bool:
        """Whether it ships with an installed dependency."""
        ...

    @property
    def torchvision_name(self) -> str | None:
        """Class of torchvision that can fetch it; None where there is none."""
        ...


@dataclass(frozen=True)
class Catalogue:
    """All the names that a config is checked against."""

    methods: Names[MethodEntry]
    models: Names[ModelEntry]
    datasets: Names[DatasetEntry]
    devices: Names[object]
    with_own_devices: Callable[[Path], Names[object]]
    """Returns the devices with those of a folder or file beside them; raises a `ConfigError` with all of its faults."""
