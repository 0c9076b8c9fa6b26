"""A file between the lines of a log: how a run comes back from a cluster that gives us a log and nothing else.

    fedknow-ray:MARK:begin BYTES
    fedknow-ray:MARK:part INDEX BASE64        one after the other, each a line
    fedknow-ray:MARK:end PARTS SHA256

The mark is the job's own name. Neither side holds more than a line of it in memory.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterator
from hashlib import sha256
from typing import IO

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.units import format_bytes

#: Ray's log tail gives what it has at 20,000 characters: one line, as base64, is less.
PART_BYTES = 12_000
LONGEST_LINE = 32_768
#: Of the packed run. Base64 takes a third more of the disk that the log is on.
MOST_PACKED_BYTES = 1 * 2**30


def to_lines(stream: IO[bytes], size_bytes: int, mark: str) -> Iterator[str]:
    """Yield the lines that stand for *size_bytes* of a stream, without their line ends."""
    start, digest, count = f"fedknow-ray:{mark}", sha256(), 0
    yield f"{start}:begin {size_bytes}"
    while part := stream.read(PART_BYTES):
        digest.update(part)
        yield f"{start}:part {count} {b64encode(part).decode()}"
        count += 1
    yield f"{start}:end {count} {digest.hexdigest()}"


class LineReader:
    """Takes the file out of a log as it comes, piece by piece, and leaves the rest of the log to be shown."""

    def __init__(self, mark: str, sink: IO[bytes], *, most_bytes: int = MOST_PACKED_BYTES) -> None:
        self._start, self._sink, self._most_bytes = f"fedknow-ray:{mark}:", sink, most_bytes
        self._rest = ""
        self._inside = self._begun = self.complete = False
        self._expected = self._taken = self._parts = 0
        self._digest = sha256()

    def feed(self, text: str) -> str:
        """Take what is ours of a piece of the log, which may end in the middle of a line; return the rest.

        Raises:
            RunDirectoryError: if the lines are not whole: one is missing, comes twice, or the digest is another.
        """
        shown = []
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith(self._start) and not self._inside:
                self._take(line)
            else:
                shown.append(line + "\n")
            self._inside = False
        if self._inside or not self._may_be_ours(self._rest):
            shown.append(self._rest)
            # a line that has begun to be shown is not ours, whatever follows
            self._inside, self._rest = self._inside or bool(self._rest), ""
        elif len(self._rest) > LONGEST_LINE:
            raise _broken("a line of it has no end")
        return "".join(shown)

    def close(self) -> str:
        """Return what was held back of a last line without an end."""
        rest, self._rest = self._rest, ""
        return rest

    def _may_be_ours(self, begun: str) -> bool:
        return begun.startswith(self._start) or self._start.startswith(begun)

    def _take(self, line: str) -> None:
        kind, *words = line.removeprefix(self._start).split(" ")
        match kind, words:
            case "begin", [size] if size.isdecimal() and not self._begun:
                self._begin(int(size))
            case "part", [index, data] if self._begun and not self.complete and index == str(self._parts):
                self._add(data)
            case "end", [parts, digest] if self._begun and not self.complete:
                self._end(parts, digest)
            case _:
                raise _broken(f"after {self._parts} parts came {line.removeprefix(self._start)[:40]!r}")

    def _begin(self, size_bytes: int) -> None:
        if size_bytes > self._most_bytes:
            raise RunDirectoryError(
                f"the run takes {format_bytes(size_bytes)}, and {format_bytes(self._most_bytes)} come through a log"
            )
        self._begun, self._expected = True, size_bytes

    def _add(self, data: str) -> None:
        try:
            part = b64decode(data, validate=True)
        except (Base64Error, ValueError) as error:
            raise _broken(f"part {self._parts} is no base64") from error
        self._taken += len(part)
        if self._taken > self._expected:
            raise _broken(f"it has more than the {self._expected} bytes that were announced")
        self._digest.update(part)
        self._sink.write(part)
        self._parts += 1

    def _end(self, parts: str, digest: str) -> None:
        if parts != str(self._parts) or self._taken != self._expected:
            raise _broken(f"it has {self._parts} parts and {self._taken} bytes of {parts} and {self._expected}")
        if digest != self._digest.hexdigest():
            raise _broken(f"its SHA-256 is {self._digest.hexdigest()}, not {digest}")
        self.complete = True


def _broken(why: str) -> RunDirectoryError:
    return RunDirectoryError(f"the run did not come through the log of its job unbroken: {why}; fetch it again")
