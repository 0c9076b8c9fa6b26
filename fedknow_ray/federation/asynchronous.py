"""Policies without rounds: FedAsync and FedBuff. Pure decisions from a seed; no input or output.

A number of clients train at any time; when one has ended another is started, until the task's budget of visits is used.
The staleness tau of an update is the number of merges since its visit began, and it counts for s(tau) = (1 + tau)^-a.

FedAsync (Xie, Koyejo, Gupta, "Asynchronous federated optimization", arXiv:1903.03934), for each update u:

    w <- (1 - m s(tau)) w + m s(tau) u                         m `mixing`; the paper's polynomial discount, a = 0.5

FedBuff (Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS 2022), for each K updates,
b_i the broadcast that visit i started from:

    w <- w + (eta / K) sum_i s(tau_i) (u_i - b_i)              eta `server_lr`, K `buffer_size`; a = 0.5 as in the paper

What the buffer holds when a task's last visit has ended is merged as it is, with the number held in place of K.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from fedknow_ray.federation.decisions import Alarm, Decision, EndRound, EndTask, Merge, Start, View
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.policies import next_chance_s, turn_of
from fedknow_ray.federation.selection import Selection


@dataclass(frozen=True, slots=True)
class Pace:
    """How many work at once, and for how long: *concurrency* clients, until *budget* visits of a task have begun.

    *budget* None where tasks come to each client by time: until no client has more to come. *staleness_exponent* is a
    of the discount.
    """

    budget: int | None
    concurrency: int
    staleness_exponent: float


class Asynchronous(ABC):
    """Keeps clients at work at a pace.

    A visit's `round_index` is its number within the task; a row of `rounds` is one merge.
    """

    in_rounds = False

    def __init__(self, selection: Selection, pace: Pace) -> None:
        self._selection, self._pace = selection, pace
        self._begun = self._merges = 0
        self._flying: set[Flight] = set()
        self._buffer: list[Flight] = []
        self._since: list[Flight] = []
        self._wakes_s = math.inf

    def rounds_of_a_task(self) -> int:
        """Return the budget: each visit has an index of its own.

        Raises:
            ValueError: if it is not the policy's affair.
        """
        if self._pace.budget is None:
            raise ValueError("where tasks come by time a policy does not know how many visits they have")
        return self._pace.budget

    def task_begins(self, view: View) -> list[Decision]:
        """Start as many clients as may work at once."""
        self._begun = self._merges = 0
        self._flying, self._buffer, self._since, self._wakes_s = set(), [], [], math.inf
        return self._fill(view)

    def arrived(self, flight: Flight, view: View) -> list[Decision]:
        """Take an update, merge if enough have come, and start the next client."""
        self._buffer.append(flight)
        return self._ended(flight, view)

    def lost(self, flight: Flight, view: View) -> list[Decision]:
        """Start another client: the visit is spent all the same."""
        return self._ended(flight, view)

    def woken(self, view: View) -> list[Decision]:
        """Somebody may be on again; an alarm that another has come before changes nothing."""
        if view.now_s < self._wakes_s:
            return []
        self._wakes_s = math.inf
        return self._go_on(view)

    def freed(self, view: View) -> list[Decision]:
        """Start those that have come free, if there is a place for them."""
        return self._go_on(view)

    def round_closed(self, view: View) -> list[Decision]:
        """Go on: a row of `rounds` ends nothing here."""
        return []

    def began(self, flights: Sequence[Flight]) -> None:
        """Learn the flights of the clients that were started."""
        self._flying.update(flights)

    @abstractmethod
    def _merge(self, updates: Sequence[Flight], view: View) -> Merge:
        """Return the merge of the updates that have been waiting."""

    @abstractmethod
    def _enough(self) -> bool:
        """Return whether the waiting updates are to be merged."""

    def _discount(self, flight: Flight, view: View) -> float:
        return float((1 + view.merges - flight.version) ** -self._pace.staleness_exponent)

    def _ended(self, flight: Flight, view: View) -> list[Decision]:
        self._flying.discard(flight)
        self._since.append(flight)
        return self._go_on(view)

    def _go_on(self, view: View) -> list[Decision]:
        """Merge what there is to merge, and start the next clients or end the task."""
        spent = self._begun == self._pace.budget or not view.more_to_come
        over = spent and not self._flying
        decisions: list[Decision] = []
        if self._buffer and (over or self._enough()):
            decisions.append(self._merge(self._buffer, view))
        if decisions or (over and self._since):
            decisions.append(EndRound(self._merges, tuple(self._since), refine=False))
            self._buffer, self._since = [], []
            self._merges += 1
        return [*decisions, EndTask()] if over else [*decisions, *self._fill(view)]

    def _fill(self, view: View) -> list[Decision]:
        """Start one client for each free place, of those that are on: a server without rounds hears of no others.

        Each has a draw of its own, by the number of its visit.
        """
        left = math.inf if self._pace.budget is None else self._pace.budget - self._begun
        places = min(self._pace.concurrency - len(self._flying), left)
        if places <= 0:
            return []
        on: Sequence[int] = view.on(view.free())
        decisions: list[Decision] = []
        while on:
            picked = self._selection.pick(turn_of(view, self._begun, on), 1)
            decisions.append(Start(picked, self._begun))
            self._begun += 1
            if len(decisions) == places:
                break
            place = bisect_left(on, picked[0])
            on = [*on[:place], *on[place + 1 :]]
        return decisions if len(decisions) == places else [*decisions, *self._wake(view, bool(decisions))]

    def _wake(self, view: View, started: bool) -> list[Decision]:
        """Look again when the next client is on, for the places that are left; if some start now, after they have."""
        at_s = view.now_s if started else next_chance_s((), view)
        if at_s >= self._wakes_s:
            return []
        self._wakes_s = at_s
        return [Alarm(at_s)]


class FedAsync(Asynchronous):
    """Merges each update as it comes; *mixing* m is the weight of a fresh one."""

    def __init__(self, selection: Selection, pace: Pace, *, mixing: float) -> None:
        super().__init__(selection, pace)
        self._mixing = mixing

    def _enough(self) -> bool:
        return True

    def _merge(self, updates: Sequence[Flight], view: View) -> Merge:
        weight = self._mixing * self._discount(updates[0], view)
        return Merge(tuple(updates), (weight,), keep=1.0 - weight)


class FedBuff(Asynchronous):
    """Merges *buffer_size* updates at a time; *server_lr* eta scales the mean of what they changed."""

    def __init__(self, selection: Selection, pace: Pace, *, buffer_size: int, server_lr: float) -> None:
        super().__init__(selection, pace)
        self._buffer_size, self._server_lr = buffer_size, server_lr

    def _enough(self) -> bool:
        return len(self._buffer) >= self._buffer_size

    def _merge(self, updates: Sequence[Flight], view: View) -> Merge:
        ordered = tuple(sorted(updates, key=lambda f: (f.client_id, f.start_s)))
        share = self._server_lr / len(ordered)
        return Merge(ordered, tuple(share * self._discount(f, view) for f in ordered), keep=1.0, from_base=True)
