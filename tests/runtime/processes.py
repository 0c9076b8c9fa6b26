"""Looking for processes of Ray by what they do and whose they are, and ending them by their own ids."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

VISITING = "ray::ClientActor.visit"
CLIENT = "ray::ClientActor"
SERVER = "ray::ServerActor"


class Seen:
    """The processes below this one, also those whose parent has died since they were first seen.

    They must not become children of this one instead (`PR_SET_CHILD_SUBREAPER`): workers of Ray take their node for
    dead when they belong to process 1, and would stay.
    """

    def __init__(self) -> None:
        self._not_ours = descendants(os.getpid())
        self._started: dict[int, str] = {}

    def now(self) -> set[int]:
        """Look for new ones, and return those that are alive."""
        roots = [os.getpid(), *self.alive()]
        for pid in descendants(*roots) - self._not_ours - self._started.keys():
            self._started[pid] = started(pid)
        return self.alive()

    def alive(self) -> set[int]:
        """Those that have been seen and are alive."""
        # a number may be another process by now
        return {pid for pid in alive(self._started) if started(pid) == self._started[pid]}


def started(pid: int) -> str:
    """When a process was started, in ticks of the system."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def parents() -> dict[int, int]:
    """The parent of each process that is there."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                # behind the name, which may hold anything, in parentheses: state, parent
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def descendants(*roots: int) -> set[int]:
    """All processes below some."""
    above, found = parents(), set(roots)
    while True:
        more = {pid for pid, parent in above.items() if parent in found} - found
        if not more:
            return found - set(roots)
        found |= more


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


def titled(start: str, among: Iterable[int]) -> list[int]:
    """The processes whose title begins so."""
    return sorted(pid for pid in among if title(pid).startswith(start))


def alive(pids: Collection[int]) -> set[int]:
    """Those that are there, and not only as a line in the table of processes."""
    found = set()
    for pid in pids:
        with suppress(OSError, IndexError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(pid)
    return found


def wait_until_gone(pids: Collection[int], patience_s: float) -> set[int]:
    """Wait until processes have ended; return those that have not."""
    deadline_s = time.monotonic() + patience_s
    while (left := alive(pids)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return left


def end(pids: Collection[int], patience_s: float = 10.0) -> None:
    """End processes that a killed one has left, and wait until they are gone."""
    for pid in alive(pids):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    wait_until_gone(pids, patience_s)
