"""The host seconds of a run."""

from __future__ import annotations

import time


class HostClock:
    """The host seconds that a run has taken, those before it was taken up included."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    def add(self, before_s: float) -> None:
        """Count seconds that were spent before."""
        self._began_s -= before_s

    def __call__(self) -> float:
        """Return the seconds by now."""
        return time.perf_counter() - self._began_s
