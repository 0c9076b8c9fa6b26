"""A folder of blobs, each named by the SHA-256 of its bytes.

The same bytes are kept once, whoever refers to them; what is read is what was written, or is refused. A blob is whole
on the disk before its name is given out, so whoever writes the name down afterwards can rely on it.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results.store import write_atomically


class BrokenObject(RunDirectoryError):
    """A blob that is not there, or whose bytes are not those that were written."""


class ObjectFolder:
    """Writes and reads blobs in a folder, which is made with the first of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[str] = set()

    def put(self, data: bytes | memoryview) -> str:
        """Write a blob, unless it is there, and return its name.

        Raises:
            RunDirectoryError: if the operating system refuses.
        """
        name = sha256(data).hexdigest()
        if name not in self._known:
            place = self._path / name
            if not place.exists() or place.stat().st_size != len(data):
                self._make()
                write_atomically(place, data)
            self._known.add(name)
        return name

    def get(self, name: str) -> bytes:
        """Read a blob.

        Raises:
            BrokenObject: if it is missing or broken.
        """
        try:
            data = (self._path / name).read_bytes()
        except OSError as error:
            raise BrokenObject(f"cannot read {self._path / name}: {error.strerror or error}") from error
        if sha256(data).hexdigest() != name:
            raise BrokenObject(f"{self._path / name} is broken: its bytes are not those that were saved")
        return data

    def sweep(self, keep: Collection[str]) -> None:
        """Delete all blobs but some, and what a killed program has left half written."""
        if not self._path.is_dir():
            return
        for entry in self._path.iterdir():
            if entry.name not in keep:
                entry.unlink(missing_ok=True)
        self._known &= set(keep)

    def _make(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"cannot make the folder {self._path}: {error.strerror or error}") from error
