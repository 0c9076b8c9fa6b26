"""Availability from a trace file: JSON with the intervals in which each client is on.

    {"period_s": 86400, "clients": [[[0, 3600], [7200, 9000]], [[100, 200]]]}
    {"clients": {"0": [[0, 3600]], "1": [[100, 200], [300, 400]]}}

Times are virtual seconds. With a list, client i has trace i; with an object, the keys are client ids. More traces than
clients are left unused. With `period_s` every trace repeats; without it a client is off for good after its last
interval. FedScale's traces hold the same as two lists a client, `active` and `inactive`, the starts and the ends, with
`finish_time` as the period (SymbioticLab/FedScale, fedscale/cloud/internal/client_metadata.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedknow_ray.errors import ConfigError, Fault, did_you_mean, first_faults, first_few
from fedknow_ray.simulation.availability import Patterned
from fedknow_ray.simulation.availability_pattern import Pattern, interval_faults
from fedknow_ray.simulation.trace import trace_text

_KEYS = ("period_s", "clients")


def read_trace(path: Path, clients: int) -> Patterned:
    """Return the availability of *clients* clients from a trace file.

    Raises:
        ConfigError: with the faults of the file, each with the client and the values.
    """
    try:
        content = json.loads(trace_text(path), object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise _unreadable(path, "there is no such file") from error
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise _unreadable(path, f"is not JSON: line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"is no trace: {error}") from error
    return parse_trace(content, clients, where=str(path))


def parse_trace(content: Any, clients: int, *, where: str) -> Patterned:
    """Return the availability of *clients* clients from a trace's plain values; *where* is its file, for messages.

    Raises:
        ConfigError: with the faults, each with the client and the values.
    """
    faults = [Fault(where, key, message) for key, message in _faults(content, clients)]
    if faults:
        raise ConfigError(first_faults(faults, where))
    traces, period_s = _by_client(content["clients"]), content.get("period_s")
    return Patterned([Pattern([(float(s), float(e)) for s, e in traces[c]], period_s=period_s) for c in range(clients)])


def _faults(content: Any, clients: int) -> Iterator[tuple[str, str]]:
    """Yield (key, message) for all that is wrong with a trace of so many clients."""
    if not isinstance(content, dict):
        yield "", f"must be an object with the key clients, got {json.dumps(content)[:60]}"
        return
    for key in content:
        if key not in _KEYS:
            yield key, f"unknown key{did_you_mean(key, _KEYS)}"
    period_s = content.get("period_s")
    if period_s is not None and not (_is_number(period_s) and period_s > 0):
        yield "period_s", f"must be a number of seconds greater than 0, got {json.dumps(period_s)[:60]}"
        period_s = None
    traces = content.get("clients")
    if not isinstance(traces, list | dict):
        yield "clients", "must be a list of traces, or an object of client ids, each with its trace"
        return
    yield from _client_faults(traces, clients, period_s)


def _client_faults(
    traces: list[Any] | dict[str, Any], clients: int, period_s: float | None
) -> Iterator[tuple[str, str]]:
    for client, trace in traces.items() if isinstance(traces, dict) else enumerate(traces):
        key = f"clients.{client}"
        if isinstance(client, str) and not (client.isascii() and client.isdigit() and str(int(client)) == client):
            yield key, f"must be a client id, a whole number from 0, got {client!r}"
        elif not _is_list_of_pairs(trace):
            yield key, f"must be a list of [start_s, end_s], got {json.dumps(trace)[:60]}"
        else:
            yield from ((key, fault) for fault in interval_faults([(s, e) for s, e in trace], period_s))
    missing = [client for client in range(clients) if client not in _by_client(traces)]
    if missing:
        yield "clients", f"has no trace for {len(missing)} of the {clients} clients: {first_few(missing)}"


def _by_client(traces: list[Any] | dict[str, Any]) -> dict[int, Any]:
    if isinstance(traces, list):
        return dict(enumerate(traces))
    return {int(client): trace for client, trace in traces.items() if client.isascii() and client.isdigit()}


def _is_list_of_pairs(trace: Any) -> bool:
    return isinstance(trace, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in trace
    )


def _is_number(value: Any) -> bool:
    # a whole number beyond float64 is left to the message that a time is expected
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} is said twice; keep one")
        content[key] = value
    return content


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no time; write a number of seconds")


def _unreadable(path: Path, message: str) -> ConfigError:
    return ConfigError([Fault(str(path), "", message)])
