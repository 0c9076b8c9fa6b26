"""A rate that changes over time: piecewise constant, read from a CSV file.

    time_s,bytes_per_s
    0,1000000
    60,0
    90,250000

Each rate holds from its time to the next, the last for ever. At 0 a transfer stands still until the rate comes back.
Blank lines, and lines that begin with #, are passed over.
"""

from __future__ import annotations

import errno
import math
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from fedknow_ray.errors import UserError

HEADER = "time_s,bytes_per_s"
#: Far more than a trace has; what the kernel shows as files may say that it has terabytes.
MOST_TRACE_BYTES = 2**30


class TraceFileError(UserError):
    """A bandwidth trace that cannot be read, or that no transfer could follow."""


@dataclass(frozen=True, slots=True, eq=False)
class BandwidthTrace:
    """Rates in bytes/s, each from its time in virtual seconds on.

    A trace is equal to itself alone: links that share a file should share its trace, which costs less and keeps their
    transfers together (`simulation.sharing`).

    Raises:
        ValueError: if there is no row, the first time is not 0, times do not rise, a rate is negative, the last rate
            is 0, or a number is not finite.
    """

    times_s: tuple[float, ...]
    rates_bytes_per_s: tuple[float, ...]
    _sent_bytes: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Bytes that a link with this trace carries from 0 to each time."""

    def __post_init__(self) -> None:
        rows = list(zip(self.times_s, self.rates_bytes_per_s, strict=True))
        fault = next(_faults(rows), None)
        if fault is not None:
            raise ValueError(f"row {fault[0] + 1}: {fault[1]}" if rows else fault[1])
        sent = [0.0]
        for (start_s, rate), (end_s, _) in pairwise(rows):
            sent.append(sent[-1] + rate * (end_s - start_s))
        object.__setattr__(self, "_sent_bytes", tuple(sent))

    def rate_at(self, time_s: float) -> float:
        """Return the rate in bytes/s at a time; at the time of a step, the new one."""
        return self.rates_bytes_per_s[self._piece(time_s)]

    def next_step_s(self, time_s: float) -> float:
        """Return the first time after *time_s* at which a new row begins; infinity if there is none."""
        piece = bisect_right(self.times_s, time_s)
        return self.times_s[piece] if piece < len(self.times_s) else math.inf

    def sent_bytes(self, start_s: float, end_s: float) -> float:
        """Return the bytes that go between two times, from *start_s* to a later or equal *end_s*."""
        first, last = self._piece(start_s), self._piece(end_s)
        if first == last:
            return self.rates_bytes_per_s[first] * (end_s - start_s)
        head = self.rates_bytes_per_s[first] * (self.times_s[first + 1] - start_s)
        tail = self.rates_bytes_per_s[last] * (end_s - self.times_s[last])
        return head + (self._sent_bytes[last] - self._sent_bytes[first + 1]) + tail

    def end_s(self, start_s: float, size_bytes: float) -> float:
        """Return the earliest time at which *size_bytes* have gone since *start_s*: the inverse of `sent_bytes`."""
        first = self._piece(start_s)
        rate = self.rates_bytes_per_s[first]
        is_last = first + 1 == len(self.times_s)
        in_first_bytes = math.inf if is_last else rate * (self.times_s[first + 1] - start_s)
        if size_bytes <= in_first_bytes:
            return start_s + size_bytes / rate if size_bytes else start_s
        goal_bytes = self._sent_bytes[first + 1] + (size_bytes - in_first_bytes)
        # The piece before the first row at which enough has gone: its rate is not 0, for at its beginning it had not.
        piece = bisect_left(self._sent_bytes, goal_bytes) - 1
        if piece <= first:  # what is left is less than the sum can hold
            return self.times_s[first + 1]
        return self.times_s[piece] + (goal_bytes - self._sent_bytes[piece]) / self.rates_bytes_per_s[piece]

    def _piece(self, time_s: float) -> int:
        """Return the index of the row that holds at a time.

        Raises:
            ValueError: if the time lies before 0.
        """
        if time_s < 0:
            raise ValueError(f"a trace begins at 0 s, not at {time_s} s")
        return bisect_right(self.times_s, time_s) - 1


def _faults(rows: Sequence[tuple[float, float]]) -> Iterator[tuple[int, str]]:
    """Yield (row, what is wrong with it and what to do)."""
    if not rows:
        yield 0, f"has no row; give at least one below the line {HEADER}"
        return
    before_s = None
    for index, (time_s, rate) in enumerate(rows):
        if not (math.isfinite(time_s) and math.isfinite(rate)):
            yield index, f"time {time_s:g}, rate {rate:g}: both must be finite numbers"
        elif before_s is None and time_s != 0:
            yield index, f"the first time is {time_s:g} s and must be 0; say what the rate is from the beginning"
        elif before_s is not None and time_s <= before_s:
            yield index, f"time {time_s:g} s does not come after {before_s:g} s; sort the rows, each time once"
        elif rate < 0:
            yield index, f"the rate {rate:g} bytes/s is negative; 0 stops a transfer, and there is nothing less"
        before_s = time_s
    if rows[-1][1] == 0:
        yield len(rows) - 1, "the last rate is 0 bytes/s, so a transfer would never end; add a row with a rate above 0"


def data_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines of a trace with their numbers from 1, without blank ones and comments."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def is_header(line: str, header: str) -> bool:
    """Return whether a line names the columns that *header* does."""
    return [name.strip() for name in line.split(",")] == header.split(",")


def parse_trace(text: str, where: str) -> BandwidthTrace:
    """Return the trace in a CSV text; *where* names it in errors.

    Raises:
        TraceFileError: at its first fault, with the line.
    """
    lines = data_lines(text)
    if not lines:
        raise TraceFileError(f"{where}:1: is empty; write the line {HEADER} and at least one row below it")
    header_line, header = lines[0]
    if not is_header(header, HEADER):
        raise TraceFileError(f"{where}:{header_line}: the first line must be {HEADER}, got {header!r}")
    numbers = [number for number, _ in lines[1:]]
    rows = [_row(line, f"{where}:{number}") for number, line in lines[1:]]
    fault = next(_faults(rows), None)
    if fault is not None:
        raise TraceFileError(f"{where}:{numbers[fault[0]] if numbers else header_line}: {fault[1]}")
    return BandwidthTrace(tuple(time_s for time_s, _ in rows), tuple(rate for _, rate in rows))


def trace_text(path: Path) -> str:
    """Return the text of any kind of trace file, UTF-8 with or without a mark.

    Raises:
        OSError: if it cannot be read, is no regular file (a pipe or a device may have no end), or is far too large.
        UnicodeDecodeError: if it is no UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if status.st_size > MOST_TRACE_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MOST_TRACE_BYTES} bytes")
    return path.read_text(encoding="utf-8-sig")


def read_trace(path: Path) -> BandwidthTrace:
    """Return the trace in a CSV file.

    Raises:
        TraceFileError: if the file cannot be read, or at its first fault, with the line.
    """
    try:
        text = trace_text(path)
    except UnicodeDecodeError as error:
        raise TraceFileError(f"{path}: is no text in UTF-8; save the trace as a CSV file") from error
    except OSError as error:
        raise TraceFileError(f"{path}: cannot be read ({error.strerror}); give a CSV file of {HEADER}") from error
    return parse_trace(text, str(path))


def _row(line: str, where: str) -> tuple[float, float]:
    try:
        time_s, rate = map(float, line.split(","))
    except ValueError as error:
        raise TraceFileError(f"{where}: must be two numbers, {HEADER}, got {line!r}") from error
    return time_s, rate
