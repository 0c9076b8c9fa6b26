"""The processes that this one has started, and those that they have, as /proc tells of them at one moment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One process; *began* is its start in ticks of the kernel's clock, so that a number used again is another one."""

    pid: int
    parent: int
    state: str
    session: int
    began: int


def title(pid: int) -> str:
    """Return what a process calls itself; nothing once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


def parent(pid: int) -> int:
    """Return the process that another one is a child of now; 0 once it is gone."""
    return next((process.parent for process in _read(Path(f"/proc/{pid}"))), 0)


class Kin:
    """Remembers all descendants of this process that it has ever seen: orphans have other parents later on."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._sessions: set[int] = set()

    def joins(self, session: int) -> None:
        """Count all processes of a session in, whoever their parents are."""
        self._sessions.add(session)

    def look(self) -> list[int]:
        """Return the descendants of this process, and those that were it when they were last looked for."""
        table = {process.pid: process for entry in Path("/proc").glob("[0-9]*") for process in _read(entry)}
        children: dict[int, list[int]] = {}
        for process in table.values():
            children.setdefault(process.parent, []).append(process.pid)
        ours = {pid for pid, process in table.items() if self._seen.get(pid) == process.began}
        ours |= {pid for pid, process in table.items() if process.session in self._sessions}
        new = [os.getpid(), *ours]
        while new:
            found = [pid for one in new for pid in children.get(one, ()) if pid not in ours]
            ours |= set(found)
            new = found
        self._seen = {pid: table[pid].began for pid in ours}
        return sorted(pid for pid in ours if table[pid].state != "Z")

    def titled(self, start: str) -> list[int]:
        """Return those whose title starts so."""
        return [pid for pid in self.look() if title(pid).startswith(start)]

    def wait_until_gone(self, known: set[int], limit_s: float) -> list[int]:
        """Wait until there are no others than those that are *known*; return those that there still are."""
        end_s = time.monotonic() + limit_s
        while (left := [pid for pid in self.look() if pid not in known]) and time.monotonic() < end_s:
            time.sleep(0.1)
        return left

    def end(self, pids: list[int]) -> None:
        """End some of them, and no other process that may have got a number of theirs."""
        alive = set(self.look())
        for pid in pids:
            if pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _read(entry: Path) -> Iterator[Process]:
    with suppress(OSError):
        fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        yield Process(int(entry.name), int(fields[1]), fields[0], int(fields[3]), int(fields[19]))
