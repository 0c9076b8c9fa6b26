"""Looking for processes of Ray by what they do and whose they are, and ending them by their own ids."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

VISITING = "ray::ClientActor.visit"
CLIENT = "ray::ClientActor"
SERVER = "ray::ServerActor"
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Have processes whose parent is killed become children of this one, so that none gets out of sight."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def parents() -> dict[int, int]:
    """The parent of each process that is there."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                # behind the name, which may hold anything, in parentheses: state, parent
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def descendants(root: int) -> set[int]:
    """All processes below one."""
    above, found = parents(), {root}
    while True:
        more = {pid for pid, parent in above.items() if parent in found} - found
        if not more:
            return found - {root}
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
