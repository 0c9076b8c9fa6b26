"""Device profiles: what an edge board can do, each number with where it comes from.

A profile is one YAML file. A number is `{value, basis, source}` in SI units (bytes, FLOP/s, watts, seconds), where
basis is `measured` or `estimated`; an estimate also states its `formula`. A number that nobody knows is `null`: what
needs it then refuses with a `DeviceError` instead of guessing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal, cast, get_args

import yaml

from fedknow_ray.errors import UnknownNameError, UserError, did_you_mean

Accelerator = Literal["gpu", "cpu"]
Basis = Literal["measured", "estimated"]

NETWORK_KINDS = ("dense_cnn", "small_cnn", "depthwise")
"""Kinds of network that use a device differently: large 3x3 convolutions (the reference), small images, depthwise."""

FIGURES = (
    "memory_bytes",
    "sustained_flops_per_s",
    "memory_bandwidth_bytes_per_s",
    "idle_w",
    "busy_w",
    "step_overhead_s",
)
"""The plain numbers of a profile, each a key of its file and a field of `Device`."""

_MAY_BE_ZERO = frozenset({"idle_w", "step_overhead_s"})
_TEXTS = ("name", "title", "accelerator")


class DeviceError(UserError):
    """A device file with a fault, or a device that lacks a number that is needed; names the file or device and key."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a device file with its provenance."""

    value: float
    basis: Basis
    source: str
    """Where the number, or what the formula starts from, can be read."""
    formula: str | None = None
    """How an estimate was computed; None where the number was measured."""


@dataclass(frozen=True)
class Device:
    """A hardware profile; a field is None where the number is not known."""

    name: str
    title: str
    accelerator: Accelerator
    memory_bytes: int | None
    """Memory that one training process can have; on these boards CPU and GPU share it."""
    sustained_flops_per_s: float | None
    """Rate at which fp32 ResNet-18 at 224 x 224 is trained; a multiply-add counts as two."""
    memory_bandwidth_bytes_per_s: float | None
    """Bytes read plus bytes written per second."""
    idle_w: float | None
    busy_w: float | None
    step_overhead_s: float | None
    """Time of one step beyond its arithmetic and memory traffic (kernel launches, interpreter)."""
    utilisation: Mapping[str, float] = field(hash=False)
    """Kind of network -> rate it reaches, relative to `sustained_flops_per_s`."""
    figures: Mapping[str, Figure] = field(default_factory=dict, compare=False, repr=False)
    """Key in the file ("busy_w", "utilisation.small_cnn") -> the number as it stands there, with its provenance."""

    def require(self, key: str) -> float:
        """Return a number by its key in the file, such as "busy_w" or "utilisation.small_cnn".

        Raises:
            DeviceError: if this device does not have it.
        """
        head, _, kind = key.partition(".")
        value = self.utilisation.get(kind) if head == "utilisation" else getattr(self, head)
        if value is None:
            if kind and kind not in NETWORK_KINDS:
                raise DeviceError(
                    f"device {self.name!r} cannot price a network of kind {kind!r}{did_you_mean(kind, NETWORK_KINDS)}"
                )
            raise DeviceError(
                f"device {self.name!r} has no {key} and this run needs it: "
                f"give {key} a value, basis and source in {self.name}.yaml, or choose another device"
            )
        return float(value)


class DeviceLibrary:
    """The devices of a folder of YAML files, one a device; a file is read when its device is first asked for.

    Without a folder: the profiles that come with the package.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        self._folder = files(__package__).joinpath("devices") if folder is None else folder
        self._devices: dict[str, Device] = {}

    def names(self) -> list[str]:
        """Return all names, sorted; reads no file."""
        return sorted(file.name.removesuffix(".yaml") for file in self._folder.iterdir() if file.name.endswith(".yaml"))

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def get(self, name: str) -> Device:
        """Return one device.

        Raises:
            UnknownNameError: if there is no such device; the message suggests the nearest.
            DeviceError: if its file has a fault.
        """
        if name not in self._devices:
            if name not in self:
                raise UnknownNameError("device", name, self.names())
            self._devices[name] = _read(self._folder.joinpath(f"{name}.yaml"))
        return self._devices[name]


def _read(file: Traversable) -> Device:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DeviceError(f"{file.name}: is not YAML: {error}") from error
    device = parse_device(content, file.name)
    if file.name != f"{device.name}.yaml":
        raise DeviceError(f"{file.name}: name: must be the file's name, got {device.name!r}")
    return device


def parse_device(content: object, where: str) -> Device:
    """Return the device that the content of a YAML file describes; `where` names the file in errors.

    Raises:
        DeviceError: at the first key that is unknown, missing or has a wrong value.
    """
    entries = _mapping(content, where, "", (*_TEXTS, *FIGURES, "utilisation"))
    name, title, accelerator = (_text(entries[key], where, key) for key in _TEXTS)
    if accelerator not in get_args(Accelerator):
        raise DeviceError(f"{where}: accelerator: must be 'gpu' or 'cpu', got {accelerator!r}")
    kinds = _mapping(entries["utilisation"], where, "utilisation", NETWORK_KINDS)
    raw = {key: entries[key] for key in FIGURES} | {f"utilisation.{kind}": kinds[kind] for kind in NETWORK_KINDS}
    figures = {key: _figure(entry, where, key) for key, entry in raw.items() if entry is not None}
    values = {key: figure.value for key, figure in figures.items()}
    memory_bytes = values.get("memory_bytes")
    return Device(
        name=name,
        title=title,
        accelerator=cast(Accelerator, accelerator),
        memory_bytes=None if memory_bytes is None else int(memory_bytes),
        sustained_flops_per_s=values.get("sustained_flops_per_s"),
        memory_bandwidth_bytes_per_s=values.get("memory_bandwidth_bytes_per_s"),
        idle_w=values.get("idle_w"),
        busy_w=values.get("busy_w"),
        step_overhead_s=values.get("step_overhead_s"),
        utilisation={kind: values[key] for kind in NETWORK_KINDS if (key := f"utilisation.{kind}") in values},
        figures=figures,
    )


def _mapping(
    content: object, where: str, key: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, object]:
    """Return the content as a mapping that has every required key and no unknown one; `key` is its own place."""
    place = f"{where}: {key}" if key else where
    prefix = f"{key}." if key else ""
    if not isinstance(content, dict):
        raise DeviceError(f"{place}: must be a mapping with {', '.join(required)}, got {content!r}")
    allowed = (*required, *optional)
    for name in content:
        if name not in allowed:
            raise DeviceError(f"{where}: {prefix}{name}: unknown key{did_you_mean(str(name), allowed)}")
    for name in required:
        if name not in content:
            raise DeviceError(f"{where}: {prefix}{name}: missing; write null where a number is not known")
    return content


def _text(value: object, where: str, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DeviceError(f"{where}: {key}: must be a text, got {value!r}")
    return value.strip()


def _figure(entry: object, where: str, key: str) -> Figure:
    parts = _mapping(entry, where, key, ("value", "basis", "source"), optional=("formula",))
    basis = parts["basis"]
    if basis not in get_args(Basis):
        raise DeviceError(f"{where}: {key}.basis: must be 'measured' or 'estimated', got {basis!r}")
    if basis == "estimated" and "formula" not in parts:
        raise DeviceError(f"{where}: {key}.formula: missing; an estimated number states how it was computed")
    return Figure(
        value=_number(parts["value"], where, key),
        basis=cast(Basis, basis),
        source=_text(parts["source"], where, f"{key}.source"),
        formula=_text(parts["formula"], where, f"{key}.formula") if "formula" in parts else None,
    )


def _number(value: object, where: str, key: str) -> float:
    # PyYAML reads 1.15e11 as a text (YAML 1.1 wants a signed exponent), the likeliest slip in these files.
    hint = "; write large numbers as 115_000_000_000 or 1.15e+11" if isinstance(value, str) else ""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise DeviceError(f"{where}: {key}.value: must be a finite number, got {value!r}{hint}")
    if value < 0 or (value == 0 and key not in _MAY_BE_ZERO):
        raise DeviceError(f"{where}: {key}.value: must be greater than 0, got {value}")
    if key == "memory_bytes" and value != int(value):
        raise DeviceError(f"{where}: {key}.value: must be whole bytes, got {value}")
    return float(value)
