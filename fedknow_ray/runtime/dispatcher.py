"""Hands jobs to actors so that at most one trains on each processor, and an actor has at most one job at a time.

Jobs wait here and not in the actors' queues, because Ray's processors are logical: 20 actors with a job each would all
run at once on two cores. Jobs start in the order in which they came, where their actor and its node are free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Ref = TypeVar("Ref")


@dataclass(frozen=True, slots=True)
class Job(Generic[Ref]):
    """*start* sends the call to the actor and returns the reference whose arrival ends the job."""

    key: Hashable
    actor: int
    start: Callable[[], Ref]


class Dispatcher(Generic[Ref]):
    """Keeps jobs in flight.

    *node_of* the node of each actor, *slots* how many jobs a node may have at once. *wait(refs)* blocks until at least
    one of some references is ready and returns those that are.
    """

    def __init__(
        self, node_of: Mapping[int, str], slots: Mapping[str, int], wait: Callable[[list[Ref]], list[Ref]]
    ) -> None:
        self._node_of, self._slots, self._wait = node_of, slots, wait
        self._waiting: list[Job[Ref]] = []
        self._flying: dict[Ref, Job[Ref]] = {}
        self._done: dict[Hashable, Ref] = {}

    def add(self, job: Job[Ref]) -> None:
        """Take a job and start what can be started."""
        self._waiting.append(job)
        self._start_ready()

    def result(self, key: Hashable) -> Ref:
        """Wait until the job of a key is done and return its reference; others are started meanwhile.

        Raises:
            KeyError: if there is no such job, or its reference has been taken already.
        """
        while key not in self._done:
            if not self._flying:
                raise KeyError(f"no job {key!r} is under way")
            for ref in self._wait(list(self._flying)):
                self._done[self._flying.pop(ref).key] = ref
            self._start_ready()
        return self._done.pop(key)

    def _start_ready(self) -> None:
        busy = {job.actor for job in self._flying.values()}
        load = Counter(self._node_of[job.actor] for job in self._flying.values())
        left: list[Job[Any]] = []
        for job in self._waiting:
            node = self._node_of[job.actor]
            if job.actor in busy or load[node] >= self._slots[node]:
                left.append(job)
                continue
            busy.add(job.actor)
            load[node] += 1
            self._flying[job.start()] = job
        self._waiting = left
