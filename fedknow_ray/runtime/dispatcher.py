"""Hands jobs to actors so that at most one trains on each processor.

Jobs wait here and not in the actors' queues, because Ray's processors are logical: 20 actors with a job each would all
run at once on two cores. A free processor goes to the idle actor with the most jobs left, else the longest queue would
be the last to be worked off, by one processor (8 of 20 clients in 4 actors on 2 cores: 4.6 visits' time a round in the
order of clients, 4.0 like this). An actor that needs to share with nobody gets one job behind its running one, so that
it need not stand still while this process reacts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fedknow_ray.runtime.timing import now_s

Ref = TypeVar("Ref")


@dataclass(frozen=True, slots=True)
class Job(Generic[Ref]):
    """*start* sends the call to the actor and returns the reference whose arrival ends the job.

    *wanted* False: nobody will ask for the result.
    """

    key: Hashable
    actor: int
    start: Callable[[], Ref]
    wanted: bool = True


class Dispatcher(Generic[Ref]):
    """Keeps jobs in flight.

    *node_of* the node of each actor, *slots* how many actors of a node may be at work at once. An actor does the jobs
    that it has in their order. *wait(refs)* blocks until at least one of some references is ready and returns those
    that are. *now* is a clock in seconds.
    """

    def __init__(
        self,
        node_of: Mapping[int, str],
        slots: Mapping[str, int],
        wait: Callable[[list[Ref]], list[Ref]],
        now: Callable[[], float] = now_s,
    ) -> None:
        self._node_of, self._slots, self._wait, self._now = dict(node_of), dict(slots), wait, now
        self._waiting: dict[int, deque[Job[Ref]]] = {}
        self._flying: dict[Ref, Job[Ref]] = {}
        self._done: dict[Hashable, tuple[int, Ref]] = {}
        self._busy_since: dict[int, float] = {}

    def add(self, *jobs: Job[Ref]) -> None:
        """Take jobs and start what can be started."""
        for job in jobs:
            self._waiting.setdefault(job.actor, deque()).append(job)
        self._start_ready()

    def result(self, key: Hashable) -> Ref:
        """Wait until the job of a key is done and return its reference; others are started meanwhile.

        Raises:
            KeyError: if there is no such job, or its reference has been taken already.
        """
        while key not in self._done:
            if not self._flying:
                raise KeyError(f"no job {key!r} is under way")
            self._go_on()
        return self._done.pop(key)[1]

    def settle(self, actor: int) -> None:
        """Wait until an actor has done all its jobs."""
        while actor in self._waiting or any(job.actor == actor for job in self._flying.values()):
            self._go_on()

    def overdue(self, limit_s: float) -> list[int]:
        """Return the actors that have been at one job for longer than a limit."""
        at_work = {job.actor for job in self._flying.values()}
        return sorted(actor for actor in at_work if self._now() - self._busy_since[actor] > limit_s)

    def move(self, actor: int, node: str, slots: int) -> None:
        """Note that an actor is made anew, on a node with so many slots, and drop all its jobs."""
        self.drop(actor)
        self._node_of[actor] = node
        self._slots.setdefault(node, slots)

    def drop(self, actor: int | None = None) -> None:
        """Forget the jobs of an actor, or of all, done or not, as if they had never been."""
        self._flying = {ref: job for ref, job in self._flying.items() if actor not in (None, job.actor)}
        for other in list(self._waiting) if actor is None else [actor]:
            self._waiting.pop(other, None)
        self._done = {key: done for key, done in self._done.items() if actor not in (None, done[0])}

    def _go_on(self) -> None:
        for ref in self._wait(list(self._flying)):
            job = self._flying.pop(ref)
            self._busy_since[job.actor] = self._now()
            if job.wanted:
                self._done[job.key] = job.actor, ref
        self._start_ready()

    def _start_ready(self) -> None:
        jobs = Counter(job.actor for job in self._flying.values())
        working = Counter(self._node_of[actor] for actor in jobs)
        contested: set[str] = set()
        # sorting is stable: of queues of one length, the one that came first
        for actor in sorted(self._waiting, key=lambda actor: -len(self._waiting[actor])):
            node = self._node_of[actor]
            if jobs[actor] == 0 and working[node] < self._slots[node]:
                jobs[actor], working[node] = 1, working[node] + 1
                self._start_next(actor)
            elif jobs[actor] == 0:
                contested.add(node)
        for actor in list(self._waiting):
            if jobs[actor] == 1 and self._node_of[actor] not in contested:
                self._start_next(actor)

    def _start_next(self, actor: int) -> None:
        job = self._waiting[actor].popleft()
        if not self._waiting[actor]:
            del self._waiting[actor]
        self._flying[job.start()] = job
        if sum(other.actor == actor for other in self._flying.values()) == 1:
            self._busy_since[actor] = self._now()
