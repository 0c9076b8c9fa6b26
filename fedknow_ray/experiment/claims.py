"""Holds a folder against other programs: one program at a time makes the runs in it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedknow_ray.errors import RunDirectoryError


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make a folder of several runs, and hold it against other programs.

    Raises:
        RunDirectoryError: if it cannot be made, or another program makes the runs in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise RunDirectoryError(f"cannot make the folder {out}: {error.strerror or error}") from error
    try:
        _lock(descriptor, out)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunDirectoryError(
            f"another program makes the runs in {out}; wait for it, or name another --out"
        ) from None
