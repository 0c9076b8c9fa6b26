"""A run directory as one file that crosses a network, and back.

A gzipped tar of plain files. What comes back was made on another machine, so its names and its sizes are looked at
before a byte is written.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from fedknow_ray.errors import RunDirectoryError

#: Of all files of a run together, as they are on the disk.
MOST_BYTES = 4 * 2**30
MOST_FILES = 100_000


def pack(folder: Path, stream: IO[bytes], *, without: Collection[str] = ()) -> None:
    """Write the files of a folder, but for those in its folders *without*; links and temporary files stay behind."""
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and not path.is_symlink() and name.parts[0] not in without:
                archive.add(path, arcname=name.as_posix(), recursive=False)


def unpack(stream: IO[bytes], folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
    """Write the files of an archive into a folder that is empty.

    Raises:
        RunDirectoryError: if it is no such archive, a name in it leads out of the folder, it holds other things than
            files, or more bytes than *most_bytes*; or if the disk is full.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|gz") as archive:
            for member in _checked(archive, most_bytes):
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                # "x": no name comes twice
                with target.open("xb") as written:
                    if source is not None:
                        shutil.copyfileobj(source, written)
    except (tarfile.TarError, EOFError) as error:
        raise RunDirectoryError(f"what came of the run is no archive of it: {error}") from error
    except OSError as error:
        raise RunDirectoryError(f"cannot write the run into {folder}: {error.strerror or error}") from error


def _checked(archive: tarfile.TarFile, most_bytes: int) -> Iterator[tarfile.TarInfo]:
    total = 0
    for count, member in enumerate(archive, start=1):
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in member.name or "\\" in member.name:
            raise RunDirectoryError(f"what came of the run has the name {member.name!r}, which leads out of its folder")
        if not member.isreg():
            raise RunDirectoryError(f"what came of the run has {member.name!r}, which is no file")
        total += member.size
        if total > most_bytes or count > MOST_FILES:
            raise RunDirectoryError(
                f"what came of the run has more than {most_bytes} bytes or {MOST_FILES} files; that is none of ours"
            )
        yield member
