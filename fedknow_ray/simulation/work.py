"""What a visit computes, as numbers that a device can be charged for.

Work is FLOPs *and* bytes moved: a FLOP counter sees matrix products and convolutions only, so routines without them
(optimizer, pruning, projection, selection) declare the bytes that they read and write in the device's memory. What is
read from or written to its storage (flash, disk) is counted apart. A multiply-add is two FLOPs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self, TypeAlias

Step: TypeAlias = tuple[str, int, int, int]
"""A step without how often it is done: phase, flops, moved_bytes, stored_bytes."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """`count` equal steps of one phase.

    Raises:
        TypeError: if a number is not an int (a float would make plan and count differ by rounding).
        ValueError: if a number is negative, or the phase has no name.
    """

    phase: str
    """What the steps do: "train", "restore", "prune", "evaluate" ..."""
    count: int
    """How many steps."""
    flops: int
    """Floating-point operations of *one* step."""
    moved_bytes: int
    """Bytes that *one* step reads and writes in memory; 0 where its FLOPs alone set the time."""
    stored_bytes: int = 0
    """Bytes that *one* step reads from or writes to the device's storage (flash, disk)."""

    def __post_init__(self) -> None:
        if not self.phase:
            raise ValueError("a work item needs the name of its phase")
        for field in ("count", "flops", "moved_bytes", "stored_bytes"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{field} of phase {self.phase!r} must be an int, got {value!r}")
            if value < 0:
                raise ValueError(f"{field} of phase {self.phase!r} must not be negative, got {value}")

    @property
    def step(self) -> Step:
        """One of the steps: phase, flops, moved_bytes, stored_bytes. Equal steps take equal time."""
        return self.phase, self.flops, self.moved_bytes, self.stored_bytes


@dataclass(frozen=True, slots=True)
class Work:
    """A sequence of work items; `+` concatenates, so that totals and times add up.

    >>> step = WorkItem("train", count=3, flops=100, moved_bytes=8)
    >>> (Work((step,)) + Work((step,))).flops
    600
    """

    items: tuple[WorkItem, ...]

    @classmethod
    def none(cls) -> Self:
        """Return no work at all: the neutral element of `+`."""
        return cls(())

    @property
    def flops(self) -> int:
        """Total floating-point operations of all steps."""
        return sum(item.count * item.flops for item in self.items)

    @property
    def moved_bytes(self) -> int:
        """Total bytes moved by all steps."""
        return sum(item.count * item.moved_bytes for item in self.items)

    @property
    def stored_bytes(self) -> int:
        """Total bytes read from and written to storage by all steps."""
        return sum(item.count * item.stored_bytes for item in self.items)

    def plain(self) -> list[dict[str, str | int]]:
        """Return the items as the records of the `visits` table."""
        return [asdict(item) for item in self.items]

    def __add__(self, other: Work) -> Work:
        return Work(self.items + other.items)
