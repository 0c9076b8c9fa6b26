"""What a policy sees of an engine: the `View` on its clock, its clients and its merges."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from fedknow_ray.federation.engine_state import EngineState, Unfinished
from fedknow_ray.federation.eviction import Evicted, Evictions
from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.traffic import Conditions, Traffic
from fedknow_ray.federation.visit import VisitKind


class Outlook(ABC):
    """Where a run stands that an engine tells, as far as decisions depend on it. See `federation.decisions.View`."""

    def __init__(self, traffic: Traffic, conditions: Conditions, evictions: Evictions, state: EngineState) -> None:
        self._traffic, self._conditions, self._evictions = traffic, conditions, evictions
        self._merges, self._dropped = state.merges, set(state.dropped)
        self._last_visit_s = dict(state.last_visit_s)
        self._task_index = 0
        self._trained = set[int]()
        self._planned: dict[tuple[int, int, bool, Evicted], float] = {}

    @property
    def now_s(self) -> float:
        """The virtual time."""
        return self._traffic.now_s

    @property
    def task_index(self) -> int:
        """The task that is being learnt."""
        return self._task_index

    @property
    def merges(self) -> int:
        """Merges so far: the version of the present broadcast."""
        return self._merges

    @property
    def last_visit_s(self) -> Mapping[int, float]:
        """When each client's last visit ended."""
        return self._last_visit_s

    @property
    def more_to_come(self) -> bool:
        """Whether a client has, or will have, more training visits to make than those that are on their way."""
        return True

    def free(self) -> Sequence[int]:
        """Return the clients that take part and make no visit now, ascending."""
        return self._conditions.availability.members_at(self._traffic.idle, self.now_s)

    def on(self, client_ids: Sequence[int]) -> Sequence[int]:
        """Return those of some clients that are on now, in their order."""
        return self._conditions.availability.on_at(client_ids, self.now_s)

    @property
    def visiting(self) -> int:
        """How many clients make a visit now."""
        return len(self._traffic.busy)

    def next_on_s(self, client_ids: Sequence[int]) -> float:
        """Return when the first of some clients that make no visit is on; of none given, the first of all."""
        asked = [c for c in client_ids if c not in self._traffic.busy and c not in self._dropped]
        return min(map(self._next_on_s, asked if client_ids else self._traffic.idle), default=math.inf)

    def planned_s(self, client_id: int) -> float:
        """Return how long the client's next training visit would take if nothing happened to it."""
        key = (client_id, self._place(client_id), client_id in self._trained, self._evictions.of(client_id))
        if key not in self._planned:
            visit = self._evictions.foreseen(self._priced(VisitKind.TRAIN, client_id, 0))
            self._planned[key] = self._traffic.undisturbed_s(visit)
        return self._planned[key]

    def _place(self, client_id: int) -> int:
        """Return which of its tasks a client learns now."""
        return self._task_index

    def _next_on_s(self, client_id: int) -> float:
        """Return when a client that makes no visit could begin one."""
        return self._conditions.availability.next_on(client_id, self.now_s)

    @abstractmethod
    def _priced(self, kind: VisitKind, client_id: int, round_index: int, past: Unfinished | None = None) -> PricedVisit:
        """Return a visit with its prices: of a client's task at hand, or of one that it has not finished."""
