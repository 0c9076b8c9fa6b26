"""The course of a task on the virtual clock, without training: what happens, told as steps.

A visit's seconds follow from its plan, so all that happens can be told before any visit is made: who visits when, what
is lost, whose updates make which broadcast. The scheduler has the executor do the work behind the steps, and of that
only what arrives; forecasts and replays run the engine alone. Pure: no ray, no disk, no model.

A client that is off at the end of a task has not finished it. It does so when it is next asked to train, before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from fedknow_ray.errors import FedKnowError
from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Alarm, Decision, EndRound, EndTask, Merge, Policy, Start, Stop
from fedknow_ray.federation.engine_state import EngineState, Unfinished
from fedknow_ray.federation.eviction import Evictions
from fedknow_ray.federation.flight import Flight, Phase, Status
from fedknow_ray.federation.ledger import PricedVisit, Prices
from fedknow_ray.federation.outlook import Outlook
from fedknow_ray.federation.steps import Arrived, Began, Closed, Happened, Merged, RoundClosed, Step
from fedknow_ray.federation.traffic import Conditions, OnOutOfMemory, Rang, Traffic
from fedknow_ray.federation.visit import VisitKind, VisitOrder

#: Alarms in a row, with nobody on the way and nothing decided, after which a policy is stuck.
MOST_IDLE_ALARMS = 10_000


class StuckPolicy(FedKnowError):
    """A policy that waits for something that will never happen."""


class Engine(Outlook):
    """Tells one task after another; `state` is where it stands in between.

    *measure* gives the compute seconds of a flight that has begun; without it they are the planned ones.
    """

    def __init__(
        self,
        course: Course,
        ledger: Prices,
        policy: Policy,
        conditions: Conditions,
        state: EngineState | None = None,
        measure: Callable[[Flight], float] | None = None,
    ) -> None:
        state = state or EngineState()
        clients = (client_id for client_id in course.clients if client_id not in state.dropped)
        evicting = conditions.on_out_of_memory is OnOutOfMemory.EVICT_OLDEST_KNOWLEDGE
        evictions = Evictions(ledger, state.evicted, evicting=evicting)
        super().__init__(Traffic(conditions, clients, state.now_s, measure), conditions, evictions, state)
        self._course, self._ledger, self._policy = course, ledger, policy
        self._round_start_s = state.now_s
        self._unfinished = {client: list(tasks) for client, tasks in state.unfinished.items()}
        self._ended = False
        self._follows: dict[Flight, Flight] = {}
        self._last_flight: dict[int, Flight] = {}
        self._stragglers = set[Flight]()
        self._landed_late: list[Flight] = []
        self._idle_alarms = 0
        self._refining: tuple[EndRound, list[Flight]] | None = None
        self._steps: list[Step] = []

    # The course of a task.

    def tell(self) -> Iterator[Step]:
        """Tell a run from its first task to the end of its last.

        Raises:
            NobodyComes: if no client is ever on again.
            StuckPolicy: if nothing is left to happen and the policy has not ended a task.
        """
        for task_index in range(self._course.tasks):
            yield from self.rounds(task_index)
            yield from self.finish(task_index, self.trained)

    @property
    def state(self) -> EngineState:
        """Where the engine stands, between two tasks or before a task's end."""
        unfinished = {client: tuple(tasks) for client, tasks in self._unfinished.items() if tasks}
        dropped, evicted = frozenset(self._dropped), self._evictions.clients
        return EngineState(self.now_s, self._merges, unfinished, dropped, dict(self._last_visit_s), evicted)

    @property
    def trained(self) -> frozenset[int]:
        """The clients that have had a training visit in the present task."""
        return frozenset(self._trained)

    def rounds(self, task_index: int) -> Iterator[Step]:
        """Tell a task from its first training visit to its last.

        Raises:
            NobodyComes: if no client is ever on again.
            StuckPolicy: if nothing is left to happen and the policy has not ended the task.
        """
        self._task_index, self._trained, self._planned = task_index, set(), {}
        self._round_start_s, self._ended = self.now_s, False
        self._landed_late, self._idle_alarms = [], 0
        self._decide(self._policy.task_begins(self))
        yield from self._told()
        while not self._ended:
            occurrence = self._traffic.next()
            if occurrence is None:
                raise self._stuck()
            if not isinstance(occurrence, Rang):
                self._landed(occurrence)
            elif occurrence.tag == task_index:
                self._decide(self._policy.woken(self))
                self._refuse_to_wait_for_ever()
            yield from self._told()

    def finish(self, task_index: int, trained: frozenset[int]) -> Iterator[Step]:
        """Tell the end of a task: a visit of each client that is on, for each task that it has not finished."""
        self._task_index, self._trained = task_index, set(trained)
        for client_id in self._course.clients:
            if client_id not in self._dropped:
                self._unfinished.setdefault(client_id, []).append(Unfinished(task_index, client_id in trained))
        made = [flight for c in self.on(self.free()) if (flight := self._finishing(c))]
        self._begin(made)
        yield from self._told()
        while self._traffic.busy and (occurrence := self._traffic.next()) is not None:
            if isinstance(occurrence, Rang):
                continue
            self._note(occurrence)
            if occurrence.arrived and (more := self._finishing(occurrence.client_id)):
                self._begin([more])
                made.append(more)
            yield from self._told()
        self._close(made)
        yield from self._told()

    def _stuck(self) -> StuckPolicy:
        return StuckPolicy(
            f"task_index {self._task_index}: at {self.now_s:.6g} s nothing is left to happen, and the policy "
            f"{type(self._policy).__name__} has not ended the task"
        )

    def _refuse_to_wait_for_ever(self) -> None:
        """Count the alarms that came to nothing while nobody was on the way.

        Raises:
            StuckPolicy: if there were more of them than a policy with a reason to wait has.
        """
        self._idle_alarms = 0 if self._steps or self._traffic.busy else self._idle_alarms + 1
        if self._idle_alarms > MOST_IDLE_ALARMS:
            raise StuckPolicy(
                f"task_index {self._task_index}: up to {self.now_s:.6g} s the policy {type(self._policy).__name__} "
                f"was woken {self._idle_alarms} times while nobody was on the way, and decided nothing but to be woken "
                f"again"
            )

    def _told(self) -> list[Step]:
        steps, self._steps = self._steps, []
        return steps

    # Decisions.

    def _decide(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Start(client_ids, round_index):
                    self._start(client_ids, round_index)
                case Alarm(at_s):
                    self._traffic.ring(at_s, self._task_index)
                case Stop(flights):
                    self._stop(flights)
                case Merge():
                    self._merge(decision)
                case EndRound():
                    self._end_round(decision)
                case EndTask():
                    self._end_task()

    def _end_task(self) -> None:
        self._ended = True
        self._stop([self._follows.get(f, f) for f in self._traffic.busy.values()])

    def _start(self, client_ids: Sequence[int], round_index: int) -> None:
        """Begin training visits; a client that has missed the end of a task finishes that first."""
        self._refuse_too_many(round_index)
        flights = [Flight(self._priced(VisitKind.TRAIN, c, self._index_of(c, round_index))) for c in client_ids]
        self._policy.began(flights)
        first = []
        for flight in flights:
            flight.start_s = flight.end_s = self.now_s
            behind = self._unfinished.get(flight.client_id) and self._traffic.is_on(flight.client_id)
            catching_up = self._finishing(flight.client_id) if behind else None
            if catching_up is not None:
                self._follows[catching_up] = flight
            first.append(catching_up or flight)
        self._begin(first)

    def _refuse_too_many(self, round_index: int) -> None:
        """Compare the index of a start with what a task has.

        Raises:
            StuckPolicy: if a task goes on for more rounds than it has.
        """
        if round_index >= self._policy.rounds_of_a_task():
            raise StuckPolicy(
                f"task_index {self._task_index}: the policy {type(self._policy).__name__} started clients with the "
                f"index {round_index}, but by its own account a task has {self._policy.rounds_of_a_task()}"
            )

    def _stop(self, flights: Sequence[Flight]) -> None:
        """End training visits that are too late, and what their clients had to do before them."""
        before = {waiting: first for first, waiting in self._follows.items()}
        for flight in flights:
            first = before.get(flight, flight)
            self._traffic.lose(first, Status.LATE)
            self._note(first)
            if first is not flight:
                del self._follows[first]
                self._close([first])
                self._lose_unbegun(flight, Status.LATE)
            self._close_straggler(flight)

    def _merge(self, merge: Merge) -> None:
        if not self._ledger.method.federated:
            return
        for flight in merge.flights:
            flight.used_in = self._merges
        self._steps.append(Merged(self._merges, merge))
        self._merges += 1

    def _end_round(self, decision: EndRound) -> None:
        done = [flight for flight in decision.flights if not flight.flying]
        self._stragglers.update(flight for flight in decision.flights if flight.flying)
        self._close(done)
        again = [f for f in done if f.arrived and f.client_id not in self._traffic.busy]
        if decision.refine and self._ledger.method.refines and again:
            refined = [self._refining_of(flight) for flight in again]
            self._refining = decision, refined
            self._begin(refined)
        else:
            self._round_is_over(decision, [])

    def _refining_of(self, flight: Flight) -> Flight:
        """Return the further visit of a client whose training visit went into the merge."""
        facts = flight.priced.order.facts
        return Flight(self._priced(VisitKind.REFINE, flight.client_id, facts.round_index))

    def _round_is_over(self, decision: EndRound, refined: Sequence[Flight]) -> None:
        self._close(refined)
        flights = sorted(decision.flights, key=lambda flight: flight.client_id)
        on_time = [f for f in flights if f not in self._stragglers and f not in self._landed_late]
        counted = [*on_time, *refined, *self._landed_late]
        self._landed_late = []
        self._steps.append(
            RoundClosed(
                round_index=decision.round_index,
                start_s=self._round_start_s,
                end_s=self.now_s,
                clients=tuple(flight.client_id for flight in flights),
                upload_bytes=sum(flight.upload_bytes for flight in counted),
                download_bytes=sum(flight.download_bytes for flight in counted),
            )
        )
        self._round_start_s = self.now_s
        self._between_rounds()
        self._decide(self._policy.round_closed(self))

    def _between_rounds(self) -> None:
        """Begin what comes before the next round."""

    def _close(self, flights: Sequence[Flight]) -> None:
        """Say of flights that have ended how long their clients waited, in the order of clients."""
        now_s = self.now_s
        for flight in flights:
            flight.wait_s = min(now_s, flight.next_start_s) - flight.end_s if flight.arrived else 0.0
        if flights:
            self._steps.append(Closed(tuple(sorted(flights, key=lambda f: (f.client_id, f.start_s)))))

    def _close_straggler(self, flight: Flight) -> None:
        if flight in self._stragglers:
            self._stragglers.discard(flight)
            self._landed_late.append(flight)
            self._close([flight])

    # Visits.

    def _index_of(self, client_id: int, round_index: int) -> int:
        """Return the `round_index` of the visit that a client makes in a policy's round, or start."""
        return round_index

    @property
    def _last_index(self) -> int:
        """The `round_index` of the visits at the end of a task."""
        return self._policy.rounds_of_a_task()

    def _priced(self, kind: VisitKind, client_id: int, round_index: int, past: Unfinished | None = None) -> PricedVisit:
        task_index = self._place(client_id) if past is None else past.task_index
        trained = client_id in self._trained if past is None else past.trained
        facts = self._course.facts(client_id, task_index, round_index, trained_this_task=trained)
        return self._ledger.price(self._evictions.as_it_is(VisitOrder(kind, facts, self._course.seed)))

    def _finishing(self, client_id: int) -> Flight | None:
        """Return the visit that finishes the first task whose end a client has not seen, if there is one."""
        tasks = self._unfinished.get(client_id)
        if not tasks:
            return None
        visit = self._priced(VisitKind.FINISH_TASK, client_id, self._last_index, tasks[0])
        return Flight(visit, attempt=tasks[0].tries)

    def _begin(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            made_room = self._evictions.begin(flight, self.now_s, self._traffic.is_on)
            self._steps += [made_room] if made_room else []
        if flights:
            self._steps.append(Began(tuple(flights)))
        now_s, last = self.now_s, self._last_flight
        for flight in flights:
            if (before := last.get(flight.client_id)) is not None:
                before.next_start_s = now_s
            last[flight.client_id] = flight
            flight.version = self._merges
            self._traffic.begin(flight)

    def _landed(self, flight: Flight) -> None:
        """Go on from a flight that has ended, in the rounds of a task."""
        self._note(flight)
        kind = flight.priced.order.kind
        if kind is VisitKind.TRAIN:
            self._trained_or_lost(flight)
        elif kind is VisitKind.REFINE:
            self._refined()
        else:
            self._caught_up(flight)

    def _trained_or_lost(self, flight: Flight) -> None:
        self._close_straggler(flight)
        react = self._policy.arrived if flight.arrived else self._policy.lost
        self._decide(react(flight, self))

    def _refined(self) -> None:
        if self._refining is not None and not any(flight.flying for flight in self._refining[1]):
            (decision, refined), self._refining = self._refining, None
            self._round_is_over(decision, refined)

    def _caught_up(self, flight: Flight) -> None:
        """Go on to the next task that a client has to finish, or to the training that it was asked for."""
        waiting = self._follows.pop(flight)
        self._close([flight])
        if not flight.arrived:
            self._lose_unbegun(waiting, flight.status)
            self._trained_or_lost(waiting)
            return
        following = self._finishing(flight.client_id)
        if following is not None:
            self._follows[following] = waiting
        self._begin([following or waiting])

    def _lose_unbegun(self, flight: Flight, status: Status) -> None:
        """Lose a training visit whose client did not get through what it had to finish before."""
        self._evictions.reprice(flight)
        flight.start_s = flight.end_s = self.now_s
        flight.phase, flight.status = Phase.DONE, status

    def _note(self, flight: Flight) -> None:
        """Take down what the end of a flight means for its client, and for the table of events."""
        client_id, order = flight.client_id, flight.priced.order
        self._last_visit_s[client_id] = self.now_s
        if flight.arrived:
            self._steps.append(Arrived(flight))
            if order.kind is VisitKind.FINISH_TASK:
                self._unfinished[client_id].pop(0)
            elif order.kind is VisitKind.TRAIN:
                self._trained.add(client_id)
                self._evictions.trained(client_id)
            return
        if order.kind is VisitKind.FINISH_TASK:
            first = self._unfinished[client_id][0]
            self._unfinished[client_id][0] = replace(first, tries=first.tries + 1)
        if flight.status is Status.OUT_OF_MEMORY:
            sizes = {
                "peak_memory_bytes": flight.priced.plan.peak_memory_bytes,
                "device_memory_bytes": flight.priced.device.memory_bytes,
                **self._evictions.tried(flight.priced),
            }
            self._steps.append(Happened(self.now_s, "memory_exceeded", client_id, {**order.indices, **sizes}))
            if self._conditions.on_out_of_memory is OnOutOfMemory.DROP_CLIENT:
                self._dropped.add(client_id)
                self._traffic.retire(client_id)
                self._unfinished.pop(client_id, None)
                self._steps.append(Happened(self.now_s, "client_dropped", client_id, order.indices))
        else:
            self._steps.append(Happened(self.now_s, f"visit_{flight.status}", client_id, order.indices))
