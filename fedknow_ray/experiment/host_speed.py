"""How fast this machine multiplies matrices, moves memory and writes files: everything that is timed without training.

A multiply-add is two FLOPs. Memory traffic is bytes read plus bytes written, without what caches add to it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.experiment.step_timing import undisturbed_s
from fedknow_ray.runtime.timing import timed
from fedknow_ray.seeding import derive_seed, stream
from fedknow_ray.units import format_bytes

MATRIX_SIDE = 1024
FILE_BYTES = 64 * 2**20
_SMALLEST_ARRAY, _LARGEST_ARRAY = 64 * 2**20, 512 * 2**20
_REPEATS = 3

#: The multiplication reads c and writes a, the addition reads a and b and writes a: numpy does them one by one.
_TRIAD_PASSES = 5

Arrays = tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes read plus written per second of a copy and of a triad a = b + 3 c, and the bytes of one array."""

    copy_bytes_per_s: float
    triad_bytes_per_s: float
    array_bytes: int


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes per second of a file that is written and synced, and of the same file read again.

    *dropped*: the kernel was asked to forget the file's pages before they were read. It need not do so, and what lies
    below it (a virtual machine's host, the drive) has caches of its own; without it, memory was read.
    """

    write_bytes_per_s: float
    read_bytes_per_s: float
    dropped: bool


def matmul_flops_per_s(seconds: float, threads: int) -> float:
    """Return the rate of float32 products of square matrices of `MATRIX_SIDE`, within about *seconds*."""
    generator = torch.Generator().manual_seed(derive_seed(0, "calibration.matrix"))
    a, b = (torch.rand(MATRIX_SIDE, MATRIX_SIDE, generator=generator) for _ in range(2))
    out = torch.empty_like(a)
    took_s = _median_s(lambda: torch.mm(a, b, out=out), seconds, threads)
    return 2 * MATRIX_SIDE**3 / took_s


def memory_bandwidth(seconds: float, threads: int, *, cache_bytes: int, available_bytes: int | None) -> Bandwidth:
    """Return the bandwidth of arrays well beyond a last-level cache of *cache_bytes*, within about *seconds*.

    An array is four caches long, 64 MiB at least and 512 MiB at most, and less where three of them would take more than
    half of *available_bytes*. Each thread has a slice of its own.
    """
    wanted = min(max(_SMALLEST_ARRAY, 4 * cache_bytes), _LARGEST_ARRAY)
    array_bytes = wanted if available_bytes is None else min(wanted, available_bytes // 6)
    a, b, c = (np.full(array_bytes // 8, value) for value in (0.0, 1.0, 2.0))
    slices = list(zip(*(np.array_split(array, threads) for array in (a, b, c)), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        # numpy lets go of the interpreter while it copies and adds
        copy_s = _median_s(lambda: list(pool.map(_copy, slices)), seconds / 2, threads)
        triad_s = _median_s(lambda: list(pool.map(_triad, slices)), seconds / 2, threads)
    return Bandwidth(2 * a.nbytes / copy_s, _TRIAD_PASSES * a.nbytes / triad_s, a.nbytes)


def storage(folder: Path, file_bytes: int = FILE_BYTES) -> Storage:
    """Return the median speeds of a few temporary files in a folder.

    Raises:
        RunDirectoryError: if they cannot be written there.
    """
    try:
        pairs = [_write_and_read(folder, file_bytes) for _ in range(_REPEATS)]
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write {format_bytes(file_bytes)} in {folder} to time the storage: {error.strerror or error}"
        ) from error
    write_s, read_s = (median(column) for column in zip(*pairs, strict=True))
    return Storage(file_bytes / write_s, file_bytes / read_s, hasattr(os, "posix_fadvise"))


def _copy(arrays: Arrays) -> None:
    a, b, _ = arrays
    np.copyto(a, b)


def _triad(arrays: Arrays) -> None:
    a, b, c = arrays
    np.multiply(c, 3.0, out=a)
    np.add(a, b, out=a)


def _median_s(action: Callable[[], object], seconds: float, threads: int) -> float:
    """Return the median time of an action, after one that is not counted."""
    expected_s = timed(action).wall_s
    repeats = max(_REPEATS, int(seconds / max(expected_s, 1e-6)))
    return median(undisturbed_s(timed(action), threads) for _ in range(min(repeats, 1000)))


def _write_and_read(folder: Path, file_bytes: int) -> tuple[float, float]:
    """Return the seconds of writing a file with fsync, and of reading it."""
    # random bytes, since some storage compresses
    content = stream(0, "calibration.file").bytes(file_bytes)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".calibrate-") as file:

        def write() -> None:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

        def read() -> None:
            while file.read(2**20):
                pass

        write_s = timed(write).wall_s
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        return write_s, timed(read).wall_s
