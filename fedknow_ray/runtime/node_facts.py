"""What a machine says of itself that a run depends on: versions, room, limits. Imports none of the libraries."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
#: In the order in which they are told; each is compared with the driver's.
PACKAGES = ("ray", "torch", "fedknow-ray")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node: *versions* of Python and of the packages, "none" where one is not installed.

    *shm_bytes* is the size of /dev/shm and *shm_free_bytes* what of it is free, 0 where there is none; *disk_bytes* and
    *disk_free_bytes* are of the disk that Ray's folder *folder* is on; *open_files* is the limit of a process, None
    where there is none.
    """

    host: str
    versions: Mapping[str, str]
    shm_bytes: int
    shm_free_bytes: int
    folder: str
    disk_bytes: int
    disk_free_bytes: int
    open_files: int | None


def facts_here(folder: str) -> NodeFacts:
    """Return the facts of this machine and process, with Ray's folder."""
    shm_bytes, shm_free_bytes = _room(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else (0, 0)
    disk_bytes, disk_free_bytes = _room(Path(folder))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return NodeFacts(
        host=platform.node(),
        versions=versions_here(),
        shm_bytes=shm_bytes,
        shm_free_bytes=shm_free_bytes,
        folder=folder,
        disk_bytes=disk_bytes,
        disk_free_bytes=disk_free_bytes,
        open_files=None if soft == resource.RLIM_INFINITY else soft,
    )


def versions_here() -> dict[str, str]:
    """Return the versions of Python and of the packages that driver and nodes must have alike."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _room(path: Path) -> tuple[int, int]:
    # what this user may still write, which on many disks is less than what is free
    usage, limits = shutil.disk_usage(path), os.statvfs(path)
    return usage.total, limits.f_bavail * limits.f_frsize
