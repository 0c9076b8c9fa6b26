"""Who is told how a run gets on."""

from __future__ import annotations

from typing import Protocol

from fedknow_ray.federation.standing import Progress


class Watcher(Protocol):
    """Is told how a run gets on; the command line draws its display from it."""

    def stage(self, text: str) -> None:
        """A stage before round 0 begins."""

    def warn(self, text: str) -> None:
        """Something that the user may want to change before the run goes on."""

    def advance(self, progress: Progress) -> None:
        """A round, or a task, is done and recorded."""


class Unwatched:
    """A watcher that looks away."""

    def stage(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def advance(self, progress: Progress) -> None:
        """Do nothing."""
