"""The kinds of value that a config's keys hold: numbers with bounds, and quantities with units.

Numbers are strict: `true` is no number, "3" in quotes is no number, and neither is infinity.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from fedknow_ray.config.yaml import show
from fedknow_ray.units import parse_bytes, parse_quantity

#: What Linux takes: bytes of one name, and of a whole path.
MOST_NAME_BYTES, MOST_PATH_BYTES = 255, 4095


class Frozen(BaseModel):
    """Base of every part of a config: immutable, and refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _packing(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"must be a whole number of at least 1, or auto, got {show(value)}")


def _on_disk(path: Path) -> Path:
    """Check that a path can be one, and that a relative one stays below the working directory."""
    text = str(path)
    if "\0" in text:
        raise ValueError(f"a path cannot have a NUL character, got {show(text)}")
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > MOST_NAME_BYTES or len(os.fsencode(text)) > MOST_PATH_BYTES:
        raise ValueError(f"is longer than the name of a file can be, got {show(text)}")
    if ".." in path.parts:
        raise ValueError(f"must not climb with .., got {show(text)}; give the path from the root, or from ~")
    return path


def _at_home(path: Path) -> Path:
    try:
        return _on_disk(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(path)!r} names a home folder that cannot be found") from error


def _distinct(cohort: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(cohort)) < len(cohort):
        raise ValueError(f"names a client twice: {', '.join(map(str, cohort))}")
    return cohort


Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1, le=10**9)]
"""A whole number of at least 1, and no larger than a run could ever count to."""
Listed = Annotated[int, Strict(), Field(ge=1, le=10**6)]
"""How many there are of something that is held in a list, one by one: clients, tasks, classes."""
Index = Annotated[int, Strict(), Field(ge=0)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
"""Fits the int64 column of the tables."""
Name = Annotated[str, Field(min_length=1)]

Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
"""In (0, 1]."""
Momentum = Annotated[float, Strict(), Field(ge=0, lt=1, allow_inf_nan=False)]

SizeBytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
"""Bytes, or text with a unit: 4096, "4 GiB"."""
RateBytesPerS = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "bytes_per_s")), Field(gt=0)]
"""Bytes per second, or text with a unit: 2e6, "1 MB/s", "8 Mbit/s"."""
DurationS = Annotated[float, BeforeValidator(lambda value: parse_quantity(value, "seconds")), Field(ge=0)]
"""Seconds, or text with a unit: 0.02, "20 ms"."""

Folder = Annotated[Path, AfterValidator(_at_home)]
"""A folder, or a file where the key says so; relative to the working directory and never above it, a leading ~ is the
user's home."""
Packing = Annotated[int | Literal["auto"], BeforeValidator(_packing)]
"""Clients in one actor: a number, or "auto"."""
Cohort = Annotated[tuple[Index, ...], Field(min_length=1), AfterValidator(_distinct)]
"""The clients of one round, each once."""
TaskSequence = Annotated[tuple[Index, ...], Field(min_length=1)]
"""Tasks one after the other, each by its number from 0; one may come again."""
