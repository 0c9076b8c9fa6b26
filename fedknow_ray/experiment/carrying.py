"""Carries a run through its course: rows are written after each round, the run is saved, and losses are made good.

What the backend cannot make good itself, since what it would take is gone (`runtime.ray_backend`), takes the run back
to its last checkpoint: the rounds since then are told and made again, to the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedknow_ray.errors import WorkerLost
from fedknow_ray.experiment.assembly import Parts
from fedknow_ray.experiment.run_checkpoints import RunCheckpoints
from fedknow_ray.federation.executor import Executor, Saved
from fedknow_ray.federation.scheduler import Scheduler
from fedknow_ray.federation.standing import Progress, SchedulerState
from fedknow_ray.results.schema import TABLES, EventRow, PlacementRow
from fedknow_ray.results.store import ResultStore
from fedknow_ray.runtime.care import Care
from fedknow_ray.transport.payload import Buffer


class PlacedExecutor(Executor, Protocol):
    """An executor that knows where its clients live, and hands out the global model."""

    def placement(self) -> list[PlacementRow]:
        """Return one row a client."""

    def global_model(self) -> Buffer:
        """Return the present broadcast: the one way by which a model reaches the driver, taken only when asked."""

    def global_parameters_sha256(self) -> str:
        """Return the digest of the present broadcast's arrays, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run has come to: its virtual time, and the digest of the global model."""

    time_s: float
    parameters_sha256: str


@dataclass
class Carrier:
    """Carries one run; *checkpoints* None saves nothing."""

    parts: Parts
    store: ResultStore
    checkpoints: RunCheckpoints | None
    _start: SchedulerState | None = field(default=None, init=False)
    _begun_with: Saved | None = field(default=None, init=False)
    _scheduler: Scheduler | None = field(default=None, init=False)
    _rows_at_start: dict[str, int] = field(default_factory=dict, init=False)

    def begin_with(self, saved: Saved, state: SchedulerState) -> None:
        """Have the run go on from a past, whose rows are in the store."""
        self._begun_with, self._start = saved, state

    def care(self, waiting: Callable[[str], None]) -> Care | None:
        """Return what a backend makes lost actors good with; None where the run is not saved."""
        if self.checkpoints is None:
            return None
        return Care(
            self.checkpoints.states,
            lambda loss: self.happened("actor_lost", loss.detail(), loss.clients),
            waiting,
        )

    def happened(self, kind: str, detail: str, clients: Sequence[int] = ()) -> None:
        """Record something that has happened to the run's machines."""
        client_id = clients[0] if len(clients) == 1 else None
        self.store.append(EventRow(self._now_s, kind, client_id, detail))

    def carry(
        self, executor: PlacedExecutor, saved: Callable[[Progress, Scheduler], None], told: Callable[[Progress], None]
    ) -> Ended:
        """Carry the run to its end, and return what it has come to.

        Raises:
            WorkerLost: if something is lost and the run is not saved, or is lost again and again.
        """
        self._rows_at_start = {name: self.store.rows(name) for name in TABLES if name != "placement"}
        try:
            if self._begun_with is not None and self._start is not None:
                executor.restore(self._begun_with)
                self.store.flush()
                if self.checkpoints is not None and self.checkpoints.latest is None:
                    self.checkpoints.begin_from(self._begun_with, self._start, self.store)
            return self._carry(executor, saved, told)
        except KeyboardInterrupt:
            self._close("interrupted", "stopped by the user; no summary was written")
            raise
        except Exception as error:
            self._close("failed", f"{type(error).__name__}: {error}")
            raise

    def _carry(
        self, executor: PlacedExecutor, saved: Callable[[Progress, Scheduler], None], told: Callable[[Progress], None]
    ) -> Ended:
        start, losses, lost = self._start, 0, None
        while True:
            try:
                if lost is not None:
                    # something may be lost again on the way back
                    start, lost = self._go_back(executor, lost), None
                scheduler = self._scheduler = self._begin(executor, start)
                for progress in scheduler.run():
                    self.store.flush()
                    if self.checkpoints is not None:
                        self.checkpoints.after(progress, scheduler.state, executor, self.store)
                        losses = 0
                    saved(progress, scheduler)
                    told(progress)
                return Ended(scheduler.now_s, executor.global_parameters_sha256())
            except WorkerLost as loss:
                losses += 1
                if self.checkpoints is None or losses > self.parts.assembly.config.recovery.losses_in_a_row:
                    raise
                lost = loss

    def _begin(self, executor: PlacedExecutor, start: SchedulerState | None) -> Scheduler:
        parts = self.parts
        return Scheduler(
            parts.course,
            parts.ledger,
            parts.make_policy(),
            parts.conditions,
            executor,
            self.store.append,
            start,
            parts.slow_down,
        )

    def _go_back(self, executor: PlacedExecutor, loss: WorkerLost) -> SchedulerState | None:
        """Put the run back to where it was last saved, or where it began."""
        now_s = self._now_s
        latest = None if self.checkpoints is None else self.checkpoints.latest
        if latest is None:
            rows, state = self._rows_at_start, self._start
            saved = self._begun_with or Saved(self.parts.broadcast, {})
        else:
            rows, state = {name: rows for name, (rows, _) in latest.header.stored.tables.items()}, latest.state
            saved = latest.contents().saved
        executor.restore(saved)
        self.store.cut(rows)
        to_s = 0.0 if state is None else state.time_s
        detail = {"cause": str(loss), "from_s": now_s, "checkpoint": None if latest is None else latest.path.name}
        self.store.append(EventRow(to_s, "rolled_back", None, json.dumps(detail)))
        return state

    @property
    def _now_s(self) -> float:
        if self._scheduler is not None:
            return self._scheduler.now_s
        return 0.0 if self._start is None else self._start.time_s

    def _close(self, kind: str, detail: str) -> None:
        self.happened(kind, detail)
        self.store.flush()
