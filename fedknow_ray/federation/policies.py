"""Policies in rounds: synchronous, and with a deadline. Pure decisions from a seed; no input or output.

A round starts a cohort and merges its updates, weighted by training images. *Synchronous*: the round ends when the last
visit has ended. *Deadline* (as in Bonawitz et al., "Towards federated learning at scale", MLSys 2019): more clients are
started than are needed, and the round ends with the last update that is needed, or at the deadline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedknow_ray.errors import UserError
from fedknow_ray.federation.decisions import Alarm, Decision, EndRound, EndTask, Merge, Start, Stop, View
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.selection import Selection, Turn


class NobodyComes(UserError):
    """A run that cannot go on: no client that could visit is ever on again."""


def turn_of(view: View, round_index: int, free: Sequence[int]) -> Turn:
    """Return what the selection is told that picks from some clients which make no visit now."""
    return Turn(
        task_index=view.task_index,
        round_index=round_index,
        time_s=view.now_s,
        free=free,
        planned_s=view.planned_s,
        last_visit_s=view.last_visit_s,
    )


def next_chance_s(client_ids: Sequence[int], view: View) -> float:
    """Return when the first of some clients is on; infinity where that turns on visits which are on their way.

    Where none of them ever is, and nobody is on the way: when the first of all clients is on.

    Raises:
        NobodyComes: if nobody ever is.
    """
    at_s = view.next_on_s(client_ids)
    if at_s < math.inf or view.visiting:
        return at_s
    at_s = view.next_on_s(())
    if at_s == math.inf:
        raise NobodyComes(
            f"task_index {view.task_index}: from {view.now_s:.6g} s on no client that could visit is ever on again; "
            f"give availability that comes back, or fewer tasks"
        )
    return at_s


@dataclass(frozen=True, slots=True)
class RoundRules:
    """How a round goes. *needed* updates are waited for; *started* clients are asked, as many or more.

    *rounds_per_task* None where tasks come to each client by time: until no client has more to come. *deadline_s* from
    the round's start, None for none. *late* updates are dropped, or kept for the next merge.
    """

    rounds_per_task: int | None
    needed: int
    started: int
    deadline_s: float | None = None
    late: Literal["drop", "keep"] = "drop"


class Rounds:
    """A synchronous policy, or one with a deadline: see `RoundRules`.

    *cohorts* names the clients of each round, used again from the front; without it *selection* picks them.
    """

    in_rounds = True

    def __init__(self, rules: RoundRules, selection: Selection, cohorts: Sequence[Sequence[int]] | None = None) -> None:
        self._rules, self._selection, self._cohorts = rules, selection, cohorts
        self._round = 0
        self._open = self._asleep = False
        self._flights: tuple[Flight, ...] = ()
        self._awaited: set[Flight] = set()
        self._updates: list[Flight] = []
        self._own_updates = 0
        self._deadline_s = math.inf

    def rounds_of_a_task(self) -> int:
        """Return how many rounds a task has.

        Raises:
            ValueError: if its end is not the policy's affair.
        """
        if self._rules.rounds_per_task is None:
            raise ValueError("where tasks come by time a policy does not know how many rounds they have")
        return self._rules.rounds_per_task

    def task_begins(self, view: View) -> list[Decision]:
        """Start round 0."""
        self._round, self._updates = 0, []
        self._open = self._asleep = False
        return self._begin_round(view)

    def arrived(self, flight: Flight, view: View) -> list[Decision]:
        """Take an update; close the round if it was the last that is needed."""
        self._updates.append(flight)
        self._own_updates += flight in self._awaited
        return self._ended(flight, view)

    def lost(self, flight: Flight, view: View) -> list[Decision]:
        """Close the round if nobody is left to wait for."""
        return self._ended(flight, view)

    def woken(self, view: View) -> list[Decision]:
        """Close the round at its deadline; or begin it, now that somebody is on."""
        if self._asleep:
            return self._begin_round(view)
        return self._close() if self._open and view.now_s >= self._deadline_s else []

    def freed(self, view: View) -> list[Decision]:
        """Begin the round, if it was waited for somebody to be free."""
        return self._begin_round(view) if self._asleep else []

    def round_closed(self, view: View) -> list[Decision]:
        """Start the next round, or end the task."""
        self._round += 1
        return [EndTask()] if self._round == self._rules.rounds_per_task else self._begin_round(view)

    def began(self, flights: Sequence[Flight]) -> None:
        """Learn the flights of the clients that were started."""
        self._flights, self._awaited = tuple(flights), set(flights)
        self._own_updates, self._open = 0, True

    def _begin_round(self, view: View) -> list[Decision]:
        if not view.more_to_come:
            self._asleep = False
            return [EndTask()]
        cohort = self._cohort(view)
        # now where nobody of the cohort ever is on and others are: its round brings nothing, and the next one may
        at_s = view.now_s if view.on(cohort) else next_chance_s(self._named(view) or cohort, view)
        self._asleep = at_s > view.now_s
        if self._asleep:
            return [Alarm(at_s)] if at_s < math.inf else []
        if not cohort:
            self.began(())
            self._deadline_s = view.now_s
            return [Alarm(view.now_s)]
        decisions: list[Decision] = [Start(cohort, self._round)]
        self._deadline_s = math.inf
        if self._rules.deadline_s is not None:
            self._deadline_s = view.now_s + self._rules.deadline_s
            decisions.append(Alarm(self._deadline_s))
        return decisions

    def _cohort(self, view: View) -> tuple[int, ...]:
        if self._cohorts is None:
            return self._selection.pick(turn_of(view, self._round, view.free()), self._rules.started)
        free = set(view.free())
        return tuple(client_id for client_id in self._named(view) if client_id in free)

    def _named(self, view: View) -> tuple[int, ...]:
        """Return the clients that are named for the round, whether they take part now or not."""
        if self._cohorts is None:
            return ()
        turn = view.task_index * (self._rules.rounds_per_task or 0) + self._round
        return tuple(sorted(self._cohorts[turn % len(self._cohorts)]))

    def _ended(self, flight: Flight, view: View) -> list[Decision]:
        self._awaited.discard(flight)
        if self._asleep:
            # the round could not begin because all that are on were busy
            return self._begin_round(view)
        complete = self._own_updates >= self._rules.needed or not self._awaited
        return self._close() if self._open and complete else []

    def _close(self) -> list[Decision]:
        self._open = False
        late = tuple(flight for flight in self._flights if flight in self._awaited)
        decisions: list[Decision] = []
        if late and self._rules.late == "drop":
            decisions.append(Stop(late))
        if self._updates:
            updates = tuple(sorted(self._updates, key=lambda f: (f.client_id, f.start_s)))
            decisions.append(Merge(updates, tuple(float(flight.images) for flight in updates)))
        self._updates = []
        return [*decisions, EndRound(self._round, self._flights)]
