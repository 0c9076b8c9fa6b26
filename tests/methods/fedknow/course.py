"""A short course of a federation of three clients, stage by stage, without scheduler, prices and disk.

Stage 2 t are the rounds of task t, stage 2 t + 1 its end. Client 2 misses the first of the two rounds and client 0 the
second, so that there are clients with and without a model of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from workbench import Bench, training

from fedknow_ray.federation.visit import SharedModel, VisitKind, VisitReport, plan_visit
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.fedknow.knowledge import FedKnowMemory

COHORTS = ((0, 1), (1, 2))
CLIENTS = 3


def past_settings(name: str, hyper: dict[str, Any], stage: int) -> dict[str, Any]:
    """What a method says of its past after a stage."""
    kind = METHODS.get(name)
    return kind.past_settings(kind.hyperparameters(**hyper), stage // 2, finished=stage % 2 == 1)


@dataclass
class Course:
    """Runs the stages of one method; `rows` has what each visit reported, and its plan."""

    name: str
    hyper: dict[str, Any]
    rows: list[tuple[VisitReport, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bench = Bench(self.name, self.hyper, training(batch_size=8, local_epochs=2), images=16)

    def go(self, stages: range) -> None:
        """Make some stages."""
        for stage in stages:
            if stage % 2 == 0:
                self._rounds(stage // 2)
            else:
                trained = {client for cohort in COHORTS for client in cohort}
                for client in range(CLIENTS):
                    self._visit(VisitKind.FINISH_TASK, stage // 2, client, len(COHORTS), trained=client in trained)

    def go_on_from(self, other: Course) -> None:
        """Take over where another course stands: states and broadcast, nothing else."""
        self.bench.states, self.bench.broadcast = dict(other.bench.states), other.bench.broadcast

    def bits(self) -> list[bytes]:
        """All that clients and server hold, the name of the method's memory apart."""
        held = [self.bench.broadcast.features_S]
        for _, state in sorted(self.bench.states.items()):
            memory = state.memory or FedKnowMemory()
            held += [state.head_CF, *([] if state.own_S is None else [state.own_S])]
            held += [array for one in memory.knowledge for array in one.to_arrays().values()]
            held += [np.array(memory.chosen), *(labels.numpy() for labels in memory.labels_NC)]
        return [array.tobytes() for array in held]

    def _rounds(self, task: int) -> None:
        trained: set[int] = set()
        for round_index, cohort in enumerate(COHORTS):
            updates = [
                self._visit(VisitKind.TRAIN, task, client, round_index, trained=client in trained) for client in cohort
            ]
            sent = [update.features_S for update in updates if update]
            if sent:
                self.bench.broadcast = SharedModel(np.mean(sent, axis=0), None)
            trained |= set(cohort)
            for client in cohort if self.bench.method.refines else ():
                self._visit(VisitKind.REFINE, task, client, round_index, trained=True)

    def _visit(self, kind: VisitKind, task: int, client: int, round_index: int, *, trained: bool) -> SharedModel | None:
        order, update, report = self.bench.visit(kind, task, client_id=client, round_index=round_index, trained=trained)
        self.rows.append((report, plan_visit(order, self.bench.method).peak_memory_bytes))
        return update
