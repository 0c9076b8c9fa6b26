"""Where two resolved configs, or parts of them, differ: what a refusal names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A leaf, by its dotted key, and its value on either side; *absent* where a side has no such key."""

    key: str
    there: Any
    here: Any


def differences(there: Any, here: Any, *, absent: str, key: str = "") -> Iterator[Difference]:
    """Yield each leaf in which two trees of plain values differ: in the order of *here*, then what only *there* has."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in [*here, *(name for name in there if name not in here)]:
            inner = f"{key}.{name}" if key else name
            yield from differences(there.get(name, absent), here.get(name, absent), absent=absent, key=inner)
    elif there != here:
        yield Difference(key, there, here)
