"""Hands jobs to actors so that at most one trains on each processor.

Jobs wait here and not in the actors' queues, because Ray's processors are logical: 20 actors with a job each would all
run at once on two cores. Jobs start in the order in which they came, where their actor and its node are free. Only an
actor that nobody is waiting to take turns with gets one job behind its running one, so that it need not stand still
while this process reacts.
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

    *node_of* the node of each actor, *slots* how many actors of a node may be at work at once. An actor does the jobs
    that it has in their order. *wait(refs)* blocks until at least
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
        jobs = Counter(job.actor for job in self._flying.values())
        working = Counter(self._node_of[actor] for actor in jobs)
        left: list[Job[Any]] = []
        contested: set[str] = set()
        for job in self._waiting:
            node = self._node_of[job.actor]
            if jobs[job.actor] == 0 and working[node] < self._slots[node]:
                jobs[job.actor] += 1
                working[node] += 1
                self._start(job)
                continue
            left.append(job)
            if jobs[job.actor] == 0:
                contested.add(node)
        self._waiting = [job for job in left if not self._queued_behind(job, jobs, contested)]

    def _queued_behind(self, job: Job[Any], jobs: Counter[int], contested: set[str]) -> bool:
        """Give the job to its actor as the next one, if there is none yet and no idle actor waits for the processor."""
        if jobs[job.actor] != 1 or self._node_of[job.actor] in contested:
            return False
        jobs[job.actor] += 1
        self._start(job)
        return True

    def _start(self, job: Job[Any]) -> None:
        self._flying[job.start()] = job
