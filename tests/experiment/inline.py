"""Workers that make runs in this process, one after the other: what a comparison does, without its processes."""

from __future__ import annotations

from collections.abc import Callable

from fedknow_ray.experiment.workers import Failure, RunOrder, make_run


class InlineWorkers:
    """Makes a run when it is waited for; *orders* are all that were started, in order."""

    def __init__(self, make: Callable[[RunOrder], Failure | None] = make_run) -> None:
        self.orders: list[RunOrder] = []
        self._make = make
        self._under_way: list[RunOrder] = []

    def has_room(self) -> bool:
        return not self._under_way

    def start(self, order: RunOrder) -> None:
        self.orders.append(order)
        self._under_way.append(order)

    def wait(self, timeout_s: float | None) -> list[tuple[RunOrder, Failure | None]]:
        order = self._under_way.pop()
        return [(order, self._make(order))]
