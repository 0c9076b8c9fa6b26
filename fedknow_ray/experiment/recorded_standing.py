"""How the clients of a recorded run stood as each visit began: trained in its task or not, and what they had evicted.

A visit's work depends on it, so a replay asks for a visit by it. It meets the same visits that did not fit, too, and
needs to know what each of them would have taken: the events `knowledge_evicted` and `memory_exceeded` have that as
`tried_bytes`, with each further task evicted.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedknow_ray.federation.eviction import Evicted
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.results.run import Run

VisitKey = tuple[str, int, int, int]
"""Kind, client, task, round: what an order of a run is known by."""


class Standing(NamedTuple):
    """What the work of a client's visit depends on besides its kind and task; see `VisitFacts`."""

    trained: bool
    evicted_tasks: int = 0
    newly_evicted: int = 0

    @staticmethod
    def of(facts: VisitFacts) -> Standing:
        """Return how the client of a visit stands that is to be made."""
        return Standing(facts.trained_this_task, facts.evicted_tasks, facts.newly_evicted)


@dataclass(frozen=True, slots=True)
class _TooLarge:
    """The memory of a visit that did not fit: with *first* tasks evicted, and with each further one."""

    first: int
    peaks_bytes: tuple[int, ...]


class Standings:
    """Goes through the rows of a run's `visits` in their order."""

    def __init__(self, run: Run) -> None:
        self.evicts = True
        """False if a visit that did not fit shows that the run's method cannot evict."""
        self._evicted: dict[int, list[tuple[float, int]]] = {}
        self._too_large: dict[VisitKey, _TooLarge] = {}
        self._trained = set[tuple[int, int]]()
        self._at_training: dict[int, int] = {}
        evicting = run.config.get("on_out_of_memory") == "evict_oldest_knowledge"
        for event in run.events.to_pylist():
            if event["kind"] in ("knowledge_evicted", "memory_exceeded"):
                self._read(event, json.loads(event["detail"]), evicting=evicting)

    def of(self, row: Mapping[str, Any]) -> Standing:
        """Return how the client of a visit stood as it began."""
        times = self._evicted.get(row["client_id"], [])
        before = bisect_right(times, row["start_s"], key=lambda pair: pair[0])
        return self._standing(row, times[before - 1][1] if before else 0)

    def too_large(self, row: Mapping[str, Any]) -> Iterator[tuple[Standing, int]]:
        """Yield with which evictions a visit did not fit, and the bytes that it would have taken."""
        tried = self._too_large.get(visit_key(row), _TooLarge(0, ()))
        for tasks, peak_bytes in enumerate(tried.peaks_bytes, tried.first):
            yield self._standing(row, tasks), peak_bytes

    def go_past(self, row: Mapping[str, Any]) -> None:
        """Go on to the next row."""
        # the client of an update that the server refused has trained all the same
        if row["kind"] == "train" and row["status"] in ("ok", "refused"):
            self._at_training[row["client_id"]] = self.of(row).evicted_tasks
            self._trained.add((row["client_id"], row["task_index"]))

    def _standing(self, row: Mapping[str, Any], tasks: int) -> Standing:
        trained = (row["client_id"], row["task_index"]) in self._trained
        evicted = Evicted(tasks, self._at_training.get(row["client_id"], 0))
        return Standing(trained, tasks, evicted.newly(row["kind"], trained=trained))

    def _read(self, event: Mapping[str, Any], detail: Mapping[str, Any], *, evicting: bool) -> None:
        peaks_bytes, tasks = tuple(detail.get("tried_bytes", ())), detail.get("evicted_tasks", 0)
        key = visit_key({"client_id": event["client_id"], **detail})
        if event["kind"] == "knowledge_evicted":
            self._evicted.setdefault(event["client_id"], []).append((event["time_s"], tasks))
            self._too_large[key] = _TooLarge(tasks - len(peaks_bytes), peaks_bytes)
        else:
            self.evicts &= not evicting or bool(peaks_bytes)
            self._too_large[key] = _TooLarge(tasks, peaks_bytes)


def visit_key(row: Mapping[str, Any]) -> VisitKey:
    """Return the key of a row of `visits`, or of anything with its columns."""
    return row["kind"], row["client_id"], row["task_index"], row["round_index"]
