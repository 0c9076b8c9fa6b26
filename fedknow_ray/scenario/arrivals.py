"""When each client comes to the tasks of its sequence, where that goes by time: a regular beat, or a trace file.

    client_id,time_s,task
    0,0,2                       client 0 begins with task 2,
    0,3600,0                    comes to task 0 an hour later,
    0,7200,2                    and to task 2 again
    1,1800,1

Times are virtual seconds. The rows of a client stand in the order of their times, those of different clients as they
like. Every client has the same number of rows. Lines that begin with # are comments.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedknow_ray.errors import ConfigError, Fault, first_faults, first_few
from fedknow_ray.simulation.trace import data_lines, is_header, trace_text

HEADER = "client_id,time_s,task"


@dataclass(frozen=True, slots=True)
class Arrivals:
    """*tasks[client][place]* the task that a client learns at a place of its sequence, *times_s* when it comes."""

    tasks: tuple[tuple[int, ...], ...]
    times_s: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    client_id: int
    time_s: float
    task: int


def arrivals_every(every_s: float, sequences: Sequence[Sequence[int]]) -> Arrivals:
    """Return a beat: the first task of each client's sequence at 0, each other one *every_s* after the one before."""
    times_s = tuple(tuple(place * every_s for place in range(len(sequence))) for sequence in sequences)
    return Arrivals(tuple(map(tuple, sequences)), times_s)


def read_arrivals(path: Path, clients: int, tasks: int) -> Arrivals:
    """Return the arrivals of *clients* clients, of tasks 0 to *tasks* - 1, from a CSV file.

    Raises:
        ConfigError: with the faults of the file, each with its line.
    """
    try:
        text = trace_text(path)
    except UnicodeDecodeError as error:
        raise ConfigError([Fault(str(path), "", "is no text in UTF-8; save the trace as a CSV file")]) from error
    except OSError as error:
        told = f"cannot be read ({error.strerror}); give a CSV file of {HEADER}"
        raise ConfigError([Fault(str(path), "", told)]) from error
    return parse_arrivals(text, clients, tasks, where=str(path))


def parse_arrivals(text: str, clients: int, tasks: int, *, where: str) -> Arrivals:
    """Return the arrivals in a CSV text; *where* is its file, for messages.

    Raises:
        ConfigError: with the faults, each with its line.
    """
    lines = data_lines(text)
    if not lines or not is_header(lines[0][1], HEADER):
        got = f", got {lines[0][1]!r}" if lines else ""
        where = f"{where}:{lines[0][0] if lines else 1}"
        raise ConfigError([Fault(where, "", f"the first line must be {HEADER}{got}")])
    read = [_row(number, line) for number, line in lines[1:]]
    rows = [row for row in read if isinstance(row, _Row)]
    found = [fault for fault in read if not isinstance(fault, _Row)]
    found += [*_faults(rows, clients, tasks), *([] if found else _uneven(rows, clients))]
    if found:
        found.sort(key=lambda fault: fault[0])
        faults = [Fault(f"{where}:{number}" if number else where, "", told) for number, told in found]
        raise ConfigError(first_faults(faults, where))
    of_client = [[row for row in rows if row.client_id == client_id] for client_id in range(clients)]
    return Arrivals(
        tuple(tuple(row.task for row in own) for own in of_client),
        tuple(tuple(row.time_s for row in own) for own in of_client),
    )


def _row(line: int, text: str) -> _Row | tuple[int, str]:
    """Return a row, or its fault as (line, message)."""
    try:
        client_id, time_s, task = text.split(",")
        return _Row(line, int(client_id), float(time_s), int(task))
    except ValueError:
        return line, f"must be {HEADER}, the first and the last whole numbers, got {text!r}"


def _faults(rows: Sequence[_Row], clients: int, tasks: int) -> Iterator[tuple[int, str]]:
    before_s: dict[int, float] = {}
    for row in rows:
        if not 0 <= row.client_id < clients:
            yield row.line, f"there is no client {row.client_id}: they are 0 to {clients - 1}"
        if not 0 <= row.task < tasks:
            yield row.line, f"there is no task {row.task}: they are 0 to {tasks - 1} (scenario.tasks is {tasks})"
        if not (math.isfinite(row.time_s) and row.time_s >= 0):
            yield row.line, f"the time {row.time_s:g} s must be a finite number of at least 0"
        elif row.time_s < before_s.get(row.client_id, 0.0):
            yield (
                row.line,
                f"client {row.client_id}: {row.time_s:g} s comes before {before_s[row.client_id]:g} s, the row above "
                f"it; sort a client's rows by their times",
            )
        else:
            before_s[row.client_id] = row.time_s


def _uneven(rows: Sequence[_Row], clients: int) -> Iterator[tuple[int, str]]:
    missing = sorted(set(range(clients)) - {row.client_id for row in rows})
    if missing:
        yield 0, f"has no row for {len(missing)} of the {clients} clients: {first_few(missing)}"
        return
    # measures after so many tasks are means over all clients
    counts = Counter(row.client_id for row in rows)
    few, many = min(counts, key=lambda c: (counts[c], c)), max(counts, key=lambda c: (counts[c], -c))
    if counts[few] < counts[many]:
        told = f"client {few} has {counts[few]} rows and client {many} has {counts[many]}"
        yield 0, f"{told}; give every client the same number of tasks"
