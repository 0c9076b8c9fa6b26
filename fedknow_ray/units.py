"""Quantities as people write them, and as they read them: "1 MB/s", "4 GiB", "20 ms"; "3 h 09 min".

    k M G T        decimal: 1 MB = 10^6 bytes (K is k)
    Ki Mi Gi Ti    binary:  1 GiB = 2^30 bytes
    B or nothing   bytes;  `bit` is a bit, eight of which are a byte: 8 Mbit/s = 1 MB/s

A lower-case b is refused rather than guessed, because half of the world reads "Mb" as megabits. A number without a unit
is in the base unit: bytes, bytes per second, seconds.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Literal

Kind = Literal["bytes", "bytes_per_s", "seconds"]

_QUANTITY = re.compile(r"\s*([-+]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")
_SIZE_UNIT = re.compile(r"(k|K|M|G|T|Ki|Mi|Gi|Ti)?(B|bit)?")
_PREFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_SECONDS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "": Decimal(1),
    "s": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_EXAMPLES: dict[Kind, str] = {
    "bytes": "a size such as 4096, '10 MB' or '4 GiB'",
    "bytes_per_s": "a rate such as 2e6, '1 MB/s' or '8 Mbit/s'",
    "seconds": "a time such as 0.02, '20 ms' or '1 h'",
}


def parse_quantity(value: float | str, kind: Kind) -> float:
    """Return a quantity in its base unit: bytes, bytes per second or seconds.

    A sign is read, not judged: bounds are the caller's.

    Raises:
        ValueError: if it is no number, is not finite, or has a unit of another kind; the message shows how to write it.

    >>> parse_quantity("8 Mbit/s", "bytes_per_s")
    1000000.0
    """
    return float(_exact(value, kind))


def parse_bytes(value: float | str) -> int:
    """Return a size in whole bytes.

    Raises:
        ValueError: as `parse_quantity`, and if the size is not a whole number of bytes.

    >>> parse_bytes("4 GiB"), parse_bytes("0.1 GB")
    (4294967296, 100000000)
    """
    exact = _exact(value, "bytes")
    if exact != exact.to_integral_value():
        raise ValueError(f"{_shown(value)} is not a whole number of bytes")
    return int(exact)


def _exact(value: float | str, kind: Kind) -> Decimal:
    """Return the quantity as a decimal, so that "0.1 GB" is exactly 100000000 bytes."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be {_EXAMPLES[kind]}, got {_shown(value)}")
    if not isinstance(value, str):
        if not math.isfinite(value):
            raise ValueError(f"must be a finite number, got {value}")
        return Decimal(str(value))
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError(f"must be {_EXAMPLES[kind]}, got {value!r}")
    number, unit = match.groups()
    exact = Decimal(number) * _factor(unit, kind, value)
    if not math.isfinite(float(exact)):
        raise ValueError(f"must be a finite number, got {value!r}")
    return exact


def _factor(unit: str, kind: Kind, text: str) -> Decimal:
    if kind == "seconds":
        if unit not in _SECONDS:
            raise ValueError(f"unknown unit {unit!r} in {text!r}; use ns, us, ms, s, min, h or d")
        return _SECONDS[unit]
    if kind == "bytes" and unit.endswith("/s"):
        raise ValueError(f"{text!r} is a rate; a size has no '/s'")
    if kind == "bytes_per_s" and unit:
        if not unit.endswith("/s"):
            raise ValueError(f"{text!r} is no rate; write {_as_rate(text.strip(), unit)}")
        unit = unit.removesuffix("/s").rstrip()
    return _size_factor(unit, text)


def _as_rate(text: str, unit: str) -> str:
    if unit.endswith("bps"):
        return f"'{text[:-3]}bit/s' or '{text[:-3]}B/s'"
    return f"'{text}/s'"


def _size_factor(unit: str, text: str) -> Decimal:
    match = _SIZE_UNIT.fullmatch(unit)
    if match is None:
        raise ValueError(f"unknown unit {unit!r} in {text!r}; use B or bit with k, M, G, T, Ki, Mi, Gi or Ti before it")
    prefix, base = match.group(1) or "", match.group(2)
    return Decimal(_PREFIXES[prefix]) / (8 if base == "bit" else 1)


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else json.dumps(value, default=repr)


def format_bytes(size_bytes: float) -> str:
    """Return a size in decimal units with three digits or so.

    >>> format_bytes(512), format_bytes(1_234_567), format_bytes(999_999)
    ('512 B', '1.23 MB', '1.00 MB')
    """
    scaled, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        # 999.5 is where three digits would read "1000".
        if abs(scaled) < 999.5:
            break
        scaled, unit = scaled / 1000, larger
    return f"{scaled:.0f} B" if unit == "B" else f"{_three_digits(scaled)} {unit}"


def format_duration(duration_s: float) -> str:
    """Return a time with its two largest units, as the virtual clock shows it.

    Raises:
        ValueError: if it is negative or not finite.

    >>> [format_duration(s) for s in (0.02, 3.44, 125, 11340, 97200)]
    ['20 ms', '3.4 s', '2 min 05 s', '3 h 09 min', '1 d 03 h']
    """
    if not (math.isfinite(duration_s) and duration_s >= 0):
        raise ValueError(f"a duration must be finite and not negative, got {duration_s}")
    if duration_s == 0:
        return "0 s"
    if duration_s < 0.9995:
        return f"{duration_s * 1000:.0f} ms" if duration_s >= 0.0095 else f"{duration_s * 1000:.2g} ms"
    # Each limit is where rounding would carry into the next unit ("60.0 s", "1 h 60 min").
    if duration_s < 59.95:
        return f"{duration_s:.1f} s"
    if duration_s < 3599.5:
        return _two_units(duration_s, 60, "min", 1, "s")
    if duration_s < 86370:
        return _two_units(duration_s, 3600, "h", 60, "min")
    return _two_units(duration_s, 86400, "d", 3600, "h")


def _two_units(duration_s: float, large_s: int, large: str, small_s: int, small: str) -> str:
    whole, rest = divmod(round(duration_s / small_s), large_s // small_s)
    return f"{whole} {large} {rest:02d} {small}"


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"
