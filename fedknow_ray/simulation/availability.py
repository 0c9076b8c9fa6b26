"""When clients are switched on and in reach: pure functions of virtual time.

A client is *on* or *off*, in stretches that follow each other without a gap: a stretch contains its start and not its
end. `Availability.stretch` gives the whole stretch that a moment lies in, and everything else follows from it. Here are
the models; `availability_gaps` takes clients out of them for a while, and `availability_trace` reads one from a file.

The same question always has the same answer, in whatever order questions are asked.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedknow_ray.seeding import stream
from fedknow_ray.simulation.availability_pattern import Pattern


class Stretch(NamedTuple):
    """How long a client stays as it is: on, or off, until *until_s*, when it changes; infinity for good."""

    on: bool
    until_s: float


class Availability(ABC):
    """Says when each client is on; times are virtual seconds since the start of the run.

    Questions come mostly in the order of time and many within one stretch, so the last answer for each client is kept:
    it holds from the moment that was asked for to the end of the stretch. Who asks which of some clients are on may be
    given the same sequence back.
    """

    def __init__(self) -> None:
        self._recent: dict[int, tuple[float, Stretch]] = {}

    def stretch(self, client_id: int, time_s: float) -> Stretch:
        """Return whether the client is on at a moment, and until when it stays so.

        Raises:
            ValueError: if the time is negative or not finite.
        """
        recent = self._recent.get(client_id)
        if recent is not None and recent[0] <= time_s < recent[1].until_s:
            return recent[1]
        if not 0 <= time_s < math.inf:
            raise ValueError(f"availability is known from 0 s on and at finite times, got {time_s} s")
        stretch = self._stretch(client_id, time_s)
        self._recent[client_id] = (time_s, stretch)
        return stretch

    def is_on(self, client_id: int, time_s: float) -> bool:
        """Return whether the client is on."""
        return self.stretch(client_id, time_s).on

    def next_on(self, client_id: int, time_s: float) -> float:
        """Return the earliest time from *time_s* on at which the client is on; infinity if it never is again."""
        on, until_s = self.stretch(client_id, time_s)
        return time_s if on else until_s

    def on_until(self, client_id: int, time_s: float) -> float:
        """Return when the stretch ends in which the client is on at *time_s*; infinity if it never does.

        Raises:
            ValueError: if the client is off at that time.
        """
        on, until_s = self.stretch(client_id, time_s)
        if not on:
            raise ValueError(f"client {client_id} is off at {time_s} s, until {until_s} s")
        return until_s

    def on_at(self, clients: Sequence[int], time_s: float) -> Sequence[int]:
        """Return those of the clients that are on, in the order given."""
        return [client_id for client_id in clients if self.stretch(client_id, time_s).on]

    def on_throughout(self, clients: Sequence[int], time_s: float, duration_s: Callable[[int], float]) -> Sequence[int]:
        """Return those of the clients that are on and stay so for the whole of each one's duration."""
        return [c for c in self.on_at(clients, time_s) if time_s + duration_s(c) <= self.on_until(c, time_s)]

    def is_member(self, client_id: int, time_s: float) -> bool:
        """Return whether the client takes part at all: it has joined and not left; on or off is another matter."""
        return True

    def members_at(self, clients: Sequence[int], time_s: float) -> Sequence[int]:
        """Return those of the clients that take part, in the order given."""
        return [client_id for client_id in clients if self.is_member(client_id, time_s)]

    @abstractmethod
    def _stretch(self, client_id: int, time_s: float) -> Stretch:
        """Return the stretch at a time that is finite and at least 0."""


class AlwaysOn(Availability):
    """Everybody is on, for good. A list of clients is given back as it is, not copied."""

    def on_at(self, clients: Sequence[int], time_s: float) -> list[int]:
        """Return all of the clients."""
        return clients if isinstance(clients, list) else list(clients)

    def on_throughout(self, clients: Sequence[int], time_s: float, duration_s: Callable[[int], float]) -> list[int]:
        """Return all of the clients."""
        return self.on_at(clients, time_s)

    def members_at(self, clients: Sequence[int], time_s: float) -> list[int]:
        """Return all of the clients."""
        return self.on_at(clients, time_s)

    def _stretch(self, client_id: int, time_s: float) -> Stretch:
        return Stretch(True, math.inf)


class Patterned(Availability):
    """Each client follows a pattern of its own: a duty cycle, or the intervals of a trace."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        super().__init__()
        self._patterns = patterns

    def _stretch(self, client_id: int, time_s: float) -> Stretch:
        return Stretch(*self._patterns[client_id].stretch(time_s))


def duty_cycle(*, period_s: float, on_s: float, offsets_s: Sequence[float]) -> Patterned:
    """Return clients that are on for *on_s* of every *period_s*; one stretch of client i starts at *offsets_s[i]*.

    The cycle has always been going on, so a client may be on at 0 s in a stretch that began before.

    Raises:
        ValueError: if on_s is not greater than 0 and at most period_s, or either it or the rest is shorter than 1 ms.
    """
    return Patterned([Pattern([(0.0, on_s)], period_s=period_s, offset_s=offset_s) for offset_s in offsets_s])


def random_offsets(*, clients: int, period_s: float, seed: int) -> list[float]:
    """Return where in the period each client's cycle starts, drawn uniformly."""
    return [period_s * float(stream(seed, "availability.offset", client=c).random()) for c in range(clients)]


class Markov(Availability):
    """Each client changes between on and off by itself; how long it stays is exponential with the state's mean.

    The chain is stationary: at any moment, 0 s included, a client is on with the probability
    mean_on_s / (mean_on_s + mean_off_s). A client's changes are drawn one after the other from its own stream, as far
    as anybody has asked, and kept.

    Raises:
        ValueError: if a mean is not greater than 0 and finite.
    """

    def __init__(self, *, mean_on_s: float, mean_off_s: float, seed: int) -> None:
        super().__init__()
        for name, mean_s in (("mean_on_s", mean_on_s), ("mean_off_s", mean_off_s)):
            if not 0 < mean_s < math.inf:
                raise ValueError(f"{name} must be greater than 0 and finite, got {mean_s}")
        self._mean_on_s, self._mean_off_s, self._seed = mean_on_s, mean_off_s, seed
        self._paths: dict[int, _Path] = {}

    def _stretch(self, client_id: int, time_s: float) -> Stretch:
        path = self._paths.get(client_id)
        if path is None:
            rng = stream(self._seed, "availability.markov", client=client_id)
            path = self._paths[client_id] = _Path(rng, self._mean_on_s, self._mean_off_s)
        return path.stretch(time_s)


class _Path:
    """One client's changes so far: *changes_s*, ascending; before the first it is as it started."""

    def __init__(self, rng: np.random.Generator, mean_on_s: float, mean_off_s: float) -> None:
        self._rng = rng
        self._starts_on = bool(rng.random() < mean_on_s / (mean_on_s + mean_off_s))
        # means_s[n % 2] is that of the stretch that ends at change n
        self._means_s = (mean_on_s, mean_off_s) if self._starts_on else (mean_off_s, mean_on_s)
        self._changes_s: list[float] = []

    def stretch(self, time_s: float) -> Stretch:
        changes_s = self._changes_s
        last_s = changes_s[-1] if changes_s else 0.0
        while last_s <= time_s:
            stay_s = float(self._rng.exponential(self._means_s[len(changes_s) % 2]))
            # a stay that is lost in rounding still separates two changes
            last_s = max(last_s + stay_s, math.nextafter(last_s, math.inf))
            changes_s.append(last_s)
        past = bisect_right(changes_s, time_s)
        return Stretch(self._starts_on == (past % 2 == 0), changes_s[past])
