"""Where a run stands: what is told of it to whoever watches, and what another scheduler needs to go on from there.

The engine tells the same course whenever it is started from the same state, so no queue of events has to be kept. A run
stands at a *boundary* of its course (`federation.boundary`), and so many steps behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.engine_state import EngineState
from fedknow_ray.federation.visit import VisitOrder, VisitReport
from fedknow_ray.federation.visit_record import order_of, plain_order, plain_report, report_of


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after a round or a task; *accuracy* is the own models' mean after the last finished task."""

    task_index: int
    tasks: int
    round_index: int
    task_finished: bool
    rounds_done: int
    rounds_total: int
    time_s: float
    transferred_bytes: int
    accuracy: float | None
    boundary: Boundary | None = None
    """The boundary that the run stands at; None between the rounds of a task."""


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """All that a scheduler knows where it has just told of progress: where it goes on.

    *boundary* the last one that the run has passed, None before the first; *engine* where the engine stood there, and
    *trained* the clients that had had a training visit in its task. *steps* how many the engine has told since, all
    carried out; *reports* of the visits among them whose rows are not yet recorded, *measured_s* the seconds that a
    measured clock has given it, and *refused* the visits whose updates the server did not take. *own_accuracy* the own
    models' scores so far, by the task that they were taken after.
    """

    boundary: Boundary | None
    engine: EngineState
    transferred_bytes: int
    accuracy: float | None
    trained: frozenset[int]
    steps: int = 0
    time_s: float = 0.0
    reports: tuple[tuple[VisitOrder, VisitReport], ...] = ()
    measured_s: tuple[float, ...] = ()
    refused: frozenset[VisitOrder] = frozenset()
    own_accuracy: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def at_boundary(self) -> bool:
        """Whether the run stands at its boundary itself, where runs of another method may go on from it."""
        return self.boundary is not None and self.steps == 0

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold; see `of_plain`."""
        return {
            "boundary": None if self.boundary is None else asdict(self.boundary),
            "engine": self.engine.plain(),
            "transferred_bytes": self.transferred_bytes,
            "accuracy": self.accuracy,
            "trained": sorted(self.trained),
            "steps": self.steps,
            "time_s": self.time_s,
            "reports": [[plain_order(order), plain_report(report)] for order, report in self.reports],
            "measured_s": list(self.measured_s),
            "refused": [plain_order(order) for order in sorted(self.refused, key=_place)],
            "own_accuracy": [[task_index, list(values)] for task_index, values in self.own_accuracy.items()],
        }

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> SchedulerState:
        """Return the state that `plain` gave.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        return SchedulerState(
            boundary=None if plain["boundary"] is None else Boundary(**plain["boundary"]),
            engine=EngineState.of_plain(plain["engine"]),
            transferred_bytes=plain["transferred_bytes"],
            accuracy=plain["accuracy"],
            trained=frozenset(plain["trained"]),
            steps=plain["steps"],
            time_s=plain["time_s"],
            reports=tuple((order_of(order), report_of(report)) for order, report in plain["reports"]),
            measured_s=tuple(plain["measured_s"]),
            refused=frozenset(map(order_of, plain["refused"])),
            own_accuracy={task_index: tuple(values) for task_index, values in plain["own_accuracy"]},
        )


def _place(order: VisitOrder) -> tuple[int, int, int]:
    facts = order.facts
    return facts.task_index, facts.round_index, facts.client_id
