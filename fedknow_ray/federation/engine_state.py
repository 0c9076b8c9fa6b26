"""Where an engine stands between two tasks: all that it has to know of what was before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedknow_ray.federation.eviction import Evicted


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A task that a client has not finished: whether it had a training visit in it, and how often it tried to."""

    task_index: int
    trained: bool
    tries: int = 0


@dataclass(frozen=True, slots=True)
class EngineState:
    """Where the engine stands between tasks. *unfinished* what clients have yet to finish; *dropped* who has left;
    *evicted* what clients have thrown away."""

    now_s: float = 0.0
    merges: int = 0
    unfinished: Mapping[int, tuple[Unfinished, ...]] = field(default_factory=dict)
    dropped: frozenset[int] = frozenset()
    last_visit_s: Mapping[int, float] = field(default_factory=dict)
    evicted: Mapping[int, Evicted] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold; see `of_plain`."""
        return {
            "now_s": self.now_s,
            "merges": self.merges,
            "unfinished": [
                [c, [[t.task_index, t.trained, t.tries] for t in tasks]] for c, tasks in self.unfinished.items()
            ],
            "dropped": sorted(self.dropped),
            "last_visit_s": [[client_id, time_s] for client_id, time_s in self.last_visit_s.items()],
            "evicted": [[client_id, of.tasks, of.at_training] for client_id, of in self.evicted.items()],
        }

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> EngineState:
        """Return the state that `plain` gave."""
        return EngineState(
            now_s=plain["now_s"],
            merges=plain["merges"],
            unfinished={c: tuple(Unfinished(*task) for task in tasks) for c, tasks in plain["unfinished"]},
            dropped=frozenset(plain["dropped"]),
            last_visit_s=dict(plain["last_visit_s"]),
            evicted={client_id: Evicted(*of) for client_id, *of in plain["evicted"]},
        )
