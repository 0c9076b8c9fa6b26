"""Actors that were lost in a run: each is told of, and one that is lost again and again ends the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass

from fedknow_ray.errors import WorkerError


@dataclass(frozen=True, slots=True)
class Loss:
    """An actor that was lost and is there again: the *clients* that live in it, none for the server's.

    *visits_again* how many visits were made again for it; *wait_s* host seconds until another actor was ready.
    """

    what: str
    cause: str
    clients: tuple[int, ...] = ()
    visits_again: int = 0
    wait_s: float = 0.0

    def detail(self) -> str:
        """Return it as the detail of an event."""
        return json.dumps(asdict(self))


class Losses:
    """Counts the losses of each actor since it last did something, and hands each on."""

    def __init__(self, most_in_a_row: int, tell: Callable[[Loss], None]) -> None:
        self._most, self._tell = most_in_a_row, tell
        self._in_a_row: Counter[Hashable] = Counter()

    def survived(self, actor: Hashable) -> None:
        """Note that an actor has done what it was asked for."""
        self._in_a_row.pop(actor, None)

    def refuse_too_many(self, actor: Hashable, clients: Sequence[int], cause: Exception) -> None:
        """Count a loss.

        Raises:
            WorkerError: if the actor has been lost too often in a row.
        """
        self._in_a_row[actor] += 1
        if self._in_a_row[actor] > self._most:
            whose = f"of clients {list(clients)}" if clients else "of the server"
            raise WorkerError(
                f"the actor {whose} was lost {self._in_a_row[actor]} times in a row "
                f"(recovery.losses_in_a_row: {self._most}); the last time: {cause}"
            ) from cause

    def tell(self, loss: Loss) -> None:
        """Hand on a loss that is made good."""
        self._tell(loss)
