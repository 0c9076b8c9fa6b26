"""What a backend is told of a run besides its parts: how large it gets, and what to do when something is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedknow_ray.runtime.losses import Loss


@dataclass(frozen=True, slots=True)
class Sizes:
    """*client_bytes* of one client's state at the end of a run, *visit_bytes* of what one visit holds at most."""

    client_bytes: int
    visit_bytes: int


@dataclass(frozen=True, slots=True)
class Care:
    """How lost actors are made good.

    *states(client_ids)* returns what clients were last saved with, by client; one that is absent is as at the start.
    *lost* is told of each actor that was made anew, *waiting* of what is waited for, if it takes long.
    """

    states: Callable[[Sequence[int]], Mapping[int, bytes]]
    lost: Callable[[Loss], None]
    waiting: Callable[[str], None]
