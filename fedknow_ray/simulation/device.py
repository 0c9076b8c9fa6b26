"""Device profiles: what an edge board can do, each number with where it comes from.

A profile is one YAML file. A number is `{value, basis, source}` in SI units (bytes, FLOP/s, watts, seconds), where
basis is `measured` or `estimated`; an estimate also states its `formula`. A number that nobody knows is `null`: what
needs it then refuses with a `DeviceError` instead of guessing. A profile that inherits from another gives only what
differs; what it takes over says in its source from which device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from fedknow_ray.errors import Fault, UserError, did_you_mean

Accelerator = Literal["gpu", "cpu"]
Basis = Literal["measured", "estimated"]

NETWORK_KINDS = ("dense_cnn", "small_cnn", "depthwise")
"""Kinds of network that use a device differently: large 3x3 convolutions (the reference), small images, depthwise."""

FIGURES = (
    "memory_bytes",
    "sustained_flops_per_s",
    "memory_bandwidth_bytes_per_s",
    "storage_bandwidth_bytes_per_s",
    "idle_w",
    "busy_w",
    "step_overhead_s",
)
"""The plain numbers of a profile, each a key of its file and a field of `Device`."""

FIGURE_KEYS = (*FIGURES, *(f"utilisation.{kind}" for kind in NETWORK_KINDS))
"""All numbers that a profile can have, as `Device.require` takes them."""

#: Figures that a file may leave out, as those written before there were such figures do; that is null.
_MAY_BE_MISSING = frozenset({"storage_bandwidth_bytes_per_s"})
_MAY_BE_ZERO = frozenset({"idle_w", "step_overhead_s"})
_TEXTS = ("name", "title", "accelerator")


class DeviceError(UserError):
    """A device file with a fault, or a device that lacks a number that is needed; names the file or device and key."""


class DeviceFileError(DeviceError):
    """One fault of a device file, in its parts: the file, the key and what to do."""

    def __init__(self, where: str, key: str, message: str) -> None:
        self.fault = Fault(where, key, message)
        super().__init__(str(self.fault))

    def __reduce__(self) -> tuple[type[DeviceFileError], tuple[str, str, str]]:
        return type(self), (self.fault.where, self.fault.key, self.fault.message)


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
    """Time of one step beyond its arithmetic and traffic (kernel launches, interpreter)."""
    utilisation: Mapping[str, float] = field(hash=False)
    """Kind of network -> rate it reaches, relative to `sustained_flops_per_s`."""
    storage_bandwidth_bytes_per_s: float | None = None
    """Bytes read from or written to flash or disk per second, the lower of the two where they differ."""
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


def parse_device(content: object, where: str, parent: Device | None = None) -> Device:
    """Return the device that the content of a YAML file describes; `where` names the file in errors.

    With a *parent*, the one that its key `inherits` names, every key but `name` may be left out: it is the parent's
    then. A null takes away what the parent has.

    Raises:
        DeviceFileError: at the first key that is unknown, missing or has a wrong value.
    """
    entries = _mapping(content, where, "", *_keys(parent))
    texts = {key: _text(entries[key], where, key) for key in _TEXTS if key in entries}
    name = texts["name"]
    title, accelerator = (texts.get(key, getattr(parent, key, "")) for key in ("title", "accelerator"))
    if accelerator not in get_args(Accelerator):
        raise DeviceFileError(where, "accelerator", f"must be 'gpu' or 'cpu', got {accelerator!r}")
    raw = _raw_figures(entries, where, partial=parent is not None)
    figures = {key: figure for key, figure in _inherited(parent).items() if key not in raw}
    figures |= {key: _read_figure(entry, where, key) for key, entry in raw.items() if entry is not None}
    figures = {key: figures[key] for key in FIGURE_KEYS if key in figures}
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
        storage_bandwidth_bytes_per_s=values.get("storage_bandwidth_bytes_per_s"),
        utilisation={kind: values[key] for kind in NETWORK_KINDS if (key := f"utilisation.{kind}") in values},
        figures=figures,
    )


def _keys(parent: Device | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the keys that a file must have, and those that it may have."""
    keys = (*_TEXTS, *FIGURES, "utilisation")
    if parent is not None:
        return ("name",), ("inherits", *keys)
    return tuple(key for key in keys if key not in _MAY_BE_MISSING), tuple(_MAY_BE_MISSING)


def _raw_figures(entries: Mapping[str, object], where: str, *, partial: bool) -> dict[str, object]:
    """Return the numbers that a file gives, unread, by their keys in `FIGURE_KEYS`; None takes one away."""
    raw = {key: entries[key] for key in FIGURES if key in entries}
    if "utilisation" not in entries:
        return raw
    content = entries["utilisation"]
    if partial and content is None:
        content = dict.fromkeys(NETWORK_KINDS)
    required, optional = ((), NETWORK_KINDS) if partial else (NETWORK_KINDS, ())
    kinds = _mapping(content, where, "utilisation", required, optional)
    return raw | {f"utilisation.{kind}": entry for kind, entry in kinds.items()}


def _inherited(parent: Device | None) -> dict[str, Figure]:
    if parent is None:
        return {}
    return {
        key: replace(figure, source=f"inherited from {parent.name}: {figure.source}")
        for key, figure in parent.figures.items()
    }


def _mapping(
    content: object, where: str, key: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, object]:
    """Return the content as a mapping that has every required key and no unknown one; `key` is its own place."""
    prefix = f"{key}." if key else ""
    if not isinstance(content, dict):
        raise DeviceFileError(where, key, f"must be a mapping with {', '.join(required or optional)}, got {content!r}")
    allowed = (*required, *optional)
    for name in content:
        if name not in allowed:
            raise DeviceFileError(where, f"{prefix}{name}", f"unknown key{did_you_mean(str(name), allowed)}")
    for name in required:
        if name not in content:
            raise DeviceFileError(where, f"{prefix}{name}", "missing; write null where a number is not known")
    return content


def _text(value: object, where: str, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DeviceFileError(where, key, f"must be a text, got {value!r}")
    return value.strip()


def _read_figure(entry: object, where: str, key: str) -> Figure:
    parts = _mapping(entry, where, key, ("value", "basis", "source"), optional=("formula",))
    basis = parts["basis"]
    if basis not in get_args(Basis):
        raise DeviceFileError(where, f"{key}.basis", f"must be 'measured' or 'estimated', got {basis!r}")
    if basis == "estimated" and "formula" not in parts:
        raise DeviceFileError(where, f"{key}.formula", "missing; an estimated number states how it was computed")
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
        raise DeviceFileError(where, f"{key}.value", f"must be a finite number, got {value!r}{hint}")
    if value < 0 or (value == 0 and key not in _MAY_BE_ZERO):
        raise DeviceFileError(where, f"{key}.value", f"must be greater than 0, got {value}")
    if key == "memory_bytes" and value != int(value):
        raise DeviceFileError(where, f"{key}.value", f"must be whole bytes, got {value}")
    return float(value)
