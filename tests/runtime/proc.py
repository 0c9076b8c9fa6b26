"""What Linux tells of processes: those that one has started, and where they listen."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LISTEN = "0A"


def family_of(pid: int) -> set[int]:
    """Return a process and all that it and its children have started."""
    pids = {pid}
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids |= {member for child in (task / "children").read_text().split() for member in family_of(int(child))}
    return pids


def listening(pids: set[int]) -> set[tuple[str, str]]:
    """Return (name of the process, address) of each TCP port on which one of them listens."""
    addresses = dict(_listeners())
    found = set()
    for pid in pids:
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            found |= {(name, addresses[inode]) for inode in _sockets(pid) if inode in addresses}
    return found


def _sockets(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = str(entry.readlink())
            if target.startswith("socket:["):
                yield target[len("socket:[") : -1]


def _listeners() -> Iterator[tuple[str, str]]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                yield fields[9], _address(fields[1].split(":")[0])


def _address(shown: str) -> str:
    """Read an address as the kernel shows it: words of four bytes, each in the order of the machine."""
    words = [int(shown[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(shown), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
