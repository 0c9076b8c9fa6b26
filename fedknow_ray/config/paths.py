"""The files that a config names: data, devices, and the traces of links, of availability, and of arriving tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedknow_ray.config.model import RunConfig

#: Keys of paths that are no traces; a run's manifest has digests of their own for what these hold.
_NO_TRACES = ("scenario.data_root", "devices_path")


def named_paths(value: Any, key: str = "") -> Iterator[tuple[str, Path]]:
    """Yield each path in a config, as plain values, with its key.

    >>> list(named_paths({"fleet": [{"uplink_trace": Path("a.csv"), "count": 1}]}))
    [('fleet.0.uplink_trace', PosixPath('a.csv'))]
    """
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from named_paths(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from named_paths(item, f"{key}.{index}")


def trace_paths(config: RunConfig) -> dict[str, Path]:
    """Return the trace files that a run reads, by their keys."""
    return {key: path for key, path in named_paths(config.model_dump()) if key not in _NO_TRACES}
