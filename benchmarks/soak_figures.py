"""What a process holds, as Linux tells it, and whether a figure stays flat over many looks at it."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN_FOLDERS = "fkr-*"


@dataclass(frozen=True, slots=True)
class Held:
    """What one process holds: memory that is its own or its share of what it shares, open files, threads."""

    pid: int
    title: str
    rss_bytes: int
    pss_bytes: int
    files: int
    threads: int


def family() -> list[int]:
    """This process and all below it, in the order of their ids."""
    above, found = dict(_parents()), {os.getpid()}
    while more := {pid for pid, parent in above.items() if parent in found} - found:
        found |= more
    return sorted(found)


def held_by(pid: int) -> Held | None:
    """What a process holds; None if it has ended."""
    folder = Path(f"/proc/{pid}")
    with suppress(OSError, KeyError, ValueError):
        title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        memory = _kilobytes((folder / "smaps_rollup").read_text())
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        files = len(list((folder / "fd").iterdir()))
        return Held(pid, short(title), memory["Rss"] * 1024, memory["Pss"] * 1024, files, int(status["Threads"]))
    return None


def short(title: str) -> str:
    """What a process is, without its options and folders, and without what a client's actor does at the moment."""
    words = title.split()
    if not words:
        return "?"
    if words[0].startswith("ray::"):
        return words[0].split(".")[0]
    scripts = [word for word in words[:8] if word.endswith(".py") and "/" in word]
    return Path(scripts[0] if scripts else words[0]).name


def slope(places: Sequence[float], values: Sequence[float]) -> float:
    """The growth of values for one step of their places, by least squares; 0 for less than two places."""
    mean_place, mean = sum(places) / len(places), sum(values) / len(values)
    spread = sum((place - mean_place) ** 2 for place in places)
    if spread == 0.0:
        return 0.0
    return sum((p - mean_place) * (v - mean) for p, v in zip(places, values, strict=True)) / spread


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run could leave behind in a process that makes many, and around it."""

    processes: int
    threads: int
    files: int
    folders: tuple[str, ...]
    environment: dict[str, str]
    rss_bytes: int

    @classmethod
    def now(cls) -> Surroundings:
        own = held_by(os.getpid())
        assert own is not None
        folders = sorted(path.name for path in Path(tempfile.gettempdir()).glob(OWN_FOLDERS))
        return cls(len(family()), threading.active_count(), own.files, tuple(folders), dict(os.environ), own.rss_bytes)

    def more_than(self, earlier: Surroundings) -> dict[str, Any]:
        """What there is now and was not there; of memory and files the difference."""
        changed = {k for k in {**self.environment, **earlier.environment} if self._variable_differs(k, earlier)}
        return {
            "processes": self.processes - earlier.processes,
            "threads": self.threads - earlier.threads,
            "files": self.files - earlier.files,
            "folders": sorted(set(self.folders) - set(earlier.folders)),
            "variables": sorted(changed),
            "rss_bytes": self.rss_bytes - earlier.rss_bytes,
        }

    def _variable_differs(self, name: str, earlier: Surroundings) -> bool:
        return self.environment.get(name) != earlier.environment.get(name)


def folder_figures(folder: Path) -> tuple[int, int]:
    """How many files are below a folder, and their bytes."""
    files = size_bytes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size_bytes += (Path(parent) / name).lstat().st_size
                files += 1
    return files, size_bytes


def _kilobytes(text: str) -> dict[str, int]:
    fields = [line.split() for line in text.splitlines()]
    return {words[0].rstrip(":"): int(words[1]) for words in fields if len(words) == 3 and words[2] == "kB"}


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])
