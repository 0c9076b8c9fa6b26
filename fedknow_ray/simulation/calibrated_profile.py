"""The device file of a calibrated machine: its numbers, each with how it was measured, as YAML text.

Pure: what was read on the machine comes in as `Reading`s, and nothing is written here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fedknow_ray.simulation.calibration import Fit
from fedknow_ray.simulation.device import FIGURES, NETWORK_KINDS

_DIGITS = 4
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Reading:
    """A number that was read on the machine, None where it could not be, and how it was read, or why not."""

    value: float | None
    source: str


def profile_content(
    name: str, title: str, fit: Fit, how: Mapping[str, str], readings: Mapping[str, Reading]
) -> dict[str, Any]:
    """Return the content of a device file, as `simulation.device.parse_device` takes it.

    *how* has the source of each number of the fit, by its key ("step_overhead_s", "utilisation.small_cnn"); *readings*
    the other numbers by theirs. Numbers are rounded to four digits, memory to whole bytes. A number that nobody read is
    null.

    Raises:
        KeyError: if the fit has a number without a source.
    """
    fitted = {
        "sustained_flops_per_s": fit.sustained_flops_per_s,
        "memory_bandwidth_bytes_per_s": fit.memory_bandwidth_bytes_per_s,
        "step_overhead_s": fit.step_overhead_s,
    }
    known = {key: Reading(value, how[key]) for key, value in fitted.items()} | dict(readings)
    kinds = {
        kind: _entry(Reading(fit.utilisation[kind], how[f"utilisation.{kind}"])) if kind in fit.utilisation else None
        for kind in NETWORK_KINDS
    }
    figures = {key: _entry(known[key]) if key in known else None for key in FIGURES}
    return {"name": name, "title": title, "accelerator": "cpu", **figures, "utilisation": kinds}


def profile_text(content: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """Return the YAML text of a device file; each of *remarks* is a line of comment above it."""
    body = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=_WIDTH)
    return "".join(f"# {line}\n" if line else "#\n" for line in remarks) + body


def rounded(value: float) -> float:
    """Return a number with four digits; an integer where it is large, which YAML shows without an exponent.

    >>> rounded(12345678.9), rounded(0.000123456), rounded(0.0)
    (12350000, 0.0001235, 0.0)
    """
    if value == 0:
        return value
    short = round(value, _DIGITS - 1 - math.floor(math.log10(abs(value))))
    return int(short) if abs(short) >= 10**_DIGITS else short


def _entry(reading: Reading) -> dict[str, Any] | None:
    if reading.value is None:
        return None
    # an exact count, such as bytes of memory, is no measurement to be rounded
    value = reading.value if isinstance(reading.value, int) else rounded(reading.value)
    return {"value": value, "basis": "measured", "source": reading.source}
