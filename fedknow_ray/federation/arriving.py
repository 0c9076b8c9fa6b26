"""The course of a run in which tasks come to each client by time, told as steps like one in lockstep.

A client has a sequence of tasks, and each comes to it at a time. It makes so many training visits for the task at hand,
finishes it, and takes up the next one, or waits until that has come; what comes meanwhile waits in a row. So a slow
board is still on its third task when others have reached their seventh, and what the server merges is of several tasks.

    come -> training visits -> finish_task -> the next one

Each visit that the client is asked for counts, whatever becomes of it, but for one for which it was off when it was
called. With a policy in rounds a client finishes a task when the round of its last visit is closed, else when that
visit has ended; where it is off then, as soon as it is on. A finish that is lost is made up for before the next
training, as in lockstep. A client is through with a task, and is scored, when it has finished it or has tried to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Policy
from fedknow_ray.federation.engine import Engine
from fedknow_ray.federation.engine_state import EngineState, Unfinished
from fedknow_ray.federation.flight import Flight, Status
from fedknow_ray.federation.ledger import Prices
from fedknow_ray.federation.steps import Happened, Learnt, Step
from fedknow_ray.federation.traffic import Conditions, Rang
from fedknow_ray.federation.visit import VisitKind

#: The tag of alarms that are the engine's own; those of the policy have the index of a task.
_LOOK = -1


class ArrivalEngine(Engine):
    """Tells a run whose `Course.arrives_s` says when tasks come. Its policy sees one task, number 0.

    There is no boundary between tasks at which it could be saved.
    """

    def __init__(
        self,
        course: Course,
        ledger: Prices,
        policy: Policy,
        conditions: Conditions,
        measure: Callable[[Flight], float] | None = None,
    ) -> None:
        super().__init__(course, ledger, policy, conditions, None, measure)
        if course.arrives_s is None:
            raise ValueError("the course does not say when tasks come")
        self._arrives_s = course.arrives_s
        self._at = [0 for _ in course.clients]
        self._left = [course.rounds_per_task for _ in course.clients]
        self._due, self._released = set[int](), set[int]()
        self._looks_s = set[float]()
        places = ((at_s, c, place) for c, times_s in enumerate(self._arrives_s) for place, at_s in enumerate(times_s))
        self._to_come = sorted(places, reverse=True)

    # What a policy sees.

    @property
    def more_to_come(self) -> bool:
        """Whether a client has, or will have, more training visits to make than those that are on their way."""
        return any(map(self._has_more, self._course.clients))

    def free(self) -> list[int]:
        """Return the clients that have a task at hand and make no visit now, ascending."""
        return [client_id for client_id in super().free() if self._ready(client_id)]

    def _has_more(self, client_id: int) -> bool:
        """Return whether a client will be there to begin another training visit."""
        if client_id in self._dropped:
            return False
        busy = self._traffic.busy.get(client_id)
        on_its_way = busy is not None and (busy in self._follows or busy.priced.order.kind is VisitKind.TRAIN)
        place = self._at[client_id] + (client_id in self._due or self._left[client_id] == on_its_way)
        return self._could_begin_s(client_id, place) < math.inf

    def _ready(self, client_id: int) -> bool:
        place, times_s = self._at[client_id], self._arrives_s[client_id]
        return client_id not in self._due and place < len(times_s) and times_s[place] <= self.now_s

    def _next_on_s(self, client_id: int) -> float:
        if client_id in self._due:
            return self._conditions.availability.next_on(client_id, self.now_s)
        return self._could_begin_s(client_id, self._at[client_id])

    def _could_begin_s(self, client_id: int, place: int) -> float:
        """Return when a client could begin on a place of its sequence; infinity if there is none, or it is gone."""
        times_s = self._arrives_s[client_id]
        if place >= len(times_s):
            return math.inf
        return self._conditions.availability.next_on(client_id, max(self.now_s, times_s[place]))

    # The course of a run.

    def tell(self) -> Iterator[Step]:
        """Tell the run, until every client is through with its tasks or is gone.

        Raises:
            NobodyComes: if no client is ever on again.
            StuckPolicy: if nothing is left to happen and the policy has not ended.
        """
        self._announce()
        for at_s in sorted({at_s for at_s, _, _ in self._to_come}):
            self._look_at(at_s)
        self._decide(self._policy.task_begins(self))
        yield from self._told()
        while not self._ended or self._traffic.busy or self._due:
            occurrence = self._traffic.next()
            if occurrence is None:
                raise self._stuck()
            if not isinstance(occurrence, Rang):
                self._landed(occurrence)
            elif occurrence.tag == _LOOK:
                self._look()
            elif not self._ended:
                self._decide(self._policy.woken(self))
                self._refuse_to_wait_for_ever()
            yield from self._told()

    def _announce(self) -> None:
        """Tell of the tasks that have come by now."""
        while self._to_come and self._to_come[-1][0] <= self.now_s:
            at_s, client_id, place = self._to_come.pop()
            self._steps.append(Happened(at_s, "task_arrived", client_id, {"task_index": place}))

    def _look_at(self, at_s: float) -> None:
        """Look again at a time, after all else that happens then."""
        if at_s not in self._looks_s:
            self._looks_s.add(at_s)
            self._traffic.ring(at_s, _LOOK)

    def _look(self) -> None:
        self._looks_s.discard(self.now_s)
        self._announce()
        self._begin_due()
        if not self._ended:
            self._decide(self._policy.freed(self))

    def _end_task(self) -> None:
        """End training; the visits at the ends of tasks go on."""
        self._ended = True
        busy = self._traffic.busy.values()
        self._stop([self._follows.get(f, f) for f in busy if f in self._follows or f.priced.order.kind == "train"])
        self._release()

    def _between_rounds(self) -> None:
        self._release()

    def _release(self) -> None:
        """Let clients end their tasks whose last updates wait for nothing any more."""
        self._released |= self._due
        self._begin_due()

    # Visits.

    def _place(self, client_id: int) -> int:
        return self._at[client_id]

    def _index_of(self, client_id: int, round_index: int) -> int:
        """Return which of its training visits of this task a client makes."""
        return self._course.rounds_per_task - self._left[client_id]

    @property
    def _last_index(self) -> int:
        return self._course.rounds_per_task

    def _refuse_too_many(self, round_index: int) -> None:
        """Let the policy start as often as it likes: each client's visits are counted here."""

    def _landed(self, flight: Flight) -> None:
        if flight.priced.order.kind is VisitKind.FINISH_TASK and flight not in self._follows:
            self._note(flight)
            self._finished(flight)
            return
        super()._landed(flight)
        if not self._policy.in_rounds:
            self._release()

    def _note(self, flight: Flight) -> None:
        super()._note(flight)
        did_not_come = flight.status is Status.OFFLINE and flight.end_s == flight.start_s
        if flight.priced.order.kind is VisitKind.TRAIN and not did_not_come:
            self._spend(flight.client_id)

    def _lose_unbegun(self, flight: Flight, status: Status) -> None:
        super()._lose_unbegun(flight, status)
        self._spend(flight.client_id)

    def _spend(self, client_id: int) -> None:
        """Count a training visit; after the last one of its task a client has to finish it."""
        self._left[client_id] -= 1
        if self._left[client_id] == 0 and client_id not in self._dropped:
            self._due.add(client_id)
            task = Unfinished(self._at[client_id], client_id in self._trained)
            self._unfinished.setdefault(client_id, []).append(task)

    def _begin_due(self) -> None:
        """Begin the ends of tasks that can begin now; look again when the others' clients are on."""
        begun: list[Flight] = []
        for client_id in sorted(self._released - self._traffic.busy.keys()):
            at_s = self._conditions.availability.next_on(client_id, self.now_s)
            if at_s == math.inf:
                self._through(client_id)
            elif at_s > self.now_s:
                self._look_at(at_s)
            elif (finishing := self._finishing(client_id)) is not None:
                begun.append(finishing)
        self._begin(begun)

    def _finished(self, flight: Flight) -> None:
        """Go on from the end of a task: to the next one that the client has to finish, or to its next task."""
        self._close([flight])
        following = self._finishing(flight.client_id) if flight.arrived else None
        if following is not None:
            self._begin([following])
        else:
            self._through(flight.client_id)

    def _through(self, client_id: int) -> None:
        """Take a client to the next place of its sequence."""
        self._due.discard(client_id)
        self._released.discard(client_id)
        self._steps.append(Learnt(self.now_s, client_id, self._at[client_id]))
        self._at[client_id] += 1
        self._left[client_id] = self._course.rounds_per_task
        self._trained.discard(client_id)
        self._look_at(self.now_s)


def make_engine(
    course: Course,
    ledger: Prices,
    policy: Policy,
    conditions: Conditions,
    state: EngineState | None = None,
    measure: Callable[[Flight], float] | None = None,
) -> Engine:
    """Return the engine of a course: in lockstep, from *state* on, or with tasks that come by time.

    Raises:
        ValueError: if a run of the second kind is to go on from a state: it has none between tasks.
    """
    if course.arrives_s is None:
        return Engine(course, ledger, policy, conditions, state, measure)
    if state is not None:
        raise ValueError("a run in which tasks come by time cannot go on from a state")
    return ArrivalEngine(course, ledger, policy, conditions, measure)
