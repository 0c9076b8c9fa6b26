"""A visit on its way: what it was planned to be, and what has become of it on the virtual clock.

    offline? -> download -> compute -> upload -> done        lost in any of them; its update then reaches nobody

A flight that has ended knows the seconds and bytes that were really spent. Its update exists only once the executor has
made the visit, which it does for flights that arrive and for no others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.visit import VisitReport
from fedknow_ray.results.schema import VisitRow
from fedknow_ray.simulation.cost import energy_j


class Status(StrEnum):
    """What became of a visit: `ok`, or why it brought nothing."""

    OK = "ok"
    OFFLINE = "offline"
    """The client was off when the server called, or went off on the way."""
    FAILED = "failed"
    LATE = "late"
    """The server closed the round without it."""
    OUT_OF_MEMORY = "out_of_memory"
    REFUSED = "refused"
    """It came, and the server did not take its update."""


class Phase(StrEnum):
    """Where a visit is."""

    DOWNLOAD = "download"
    COMPUTE = "compute"
    UPLOAD = "upload"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Flight:
    """One visit; compared by identity.

    *version* counts the merges behind the broadcast that it starts from, *attempt*
    the visits of the same order that were lost before it. *used_in* is the number of the merge that its
    update went into, None where there was none. *next_start_s* is when its client began its next visit.
    """

    priced: PricedVisit
    client_id: int = field(init=False)
    """The client whose visit it is."""
    start_s: float = 0.0
    version: int = 0
    attempt: int = 0
    phase: Phase = Phase.DOWNLOAD
    phase_start_s: float = 0.0
    status: Status = Status.OK
    download_s: float = 0.0
    compute_s: float = 0.0
    upload_s: float = 0.0
    wait_s: float = 0.0
    download_bytes: int = 0
    upload_bytes: int = 0
    end_s: float = 0.0
    next_start_s: float = math.inf
    used_in: int | None = None

    def __post_init__(self) -> None:
        # kept, since it is asked for some ten times a visit
        self.client_id = self.priced.order.facts.client_id

    @property
    def images(self) -> int:
        """Training images behind its update: its weight in a mean."""
        return self.priced.order.facts.images

    @property
    def flying(self) -> bool:
        """Whether it is still on its way."""
        return self.phase is not Phase.DONE

    @property
    def arrived(self) -> bool:
        """Whether it came to its end."""
        return self.phase is Phase.DONE and self.status is Status.OK

    def row(self, report: VisitReport | None) -> VisitRow:
        """Return the visit's record; *report* None for one that was lost, and so was never made.

        Of a lost visit `flops` and `moved_bytes` are the planned ones in proportion to the time that it computed.

        Raises:
            PlanMismatch: if the counted work or bytes are not the planned ones.
        """
        if report is not None:
            self.priced.check(report)
        refused = report is not None and report.refusal is not None
        order, device, work = self.priced.order, self.priced.device, self.priced.plan.work
        planned_s = self.priced.compute_s
        done = 1.0 if report is not None else min(1.0, self.compute_s / planned_s) if planned_s else 0.0
        return VisitRow(
            client_id=order.client_id,
            device=device.name,
            task_index=order.facts.task_index,
            round_index=order.facts.round_index,
            kind=str(order.kind),
            status=str(Status.REFUSED if refused else self.status),
            download_s=self.download_s,
            compute_s=self.compute_s,
            upload_s=self.upload_s,
            wait_s=self.wait_s,
            download_bytes=self.download_bytes,
            upload_bytes=self.upload_bytes,
            flops=work.flops if report is not None else int(done * work.flops),
            moved_bytes=work.moved_bytes if report is not None else int(done * work.moved_bytes),
            peak_memory_bytes=self.priced.plan.peak_memory_bytes,
            energy_j=energy_j(device, compute_s=self.compute_s, idle_s=self.download_s + self.upload_s + self.wait_s),
            loss=None if report is None else report.loss,
            integrated_steps=None if report is None else report.integrated_steps,
            violated_steps=None if report is None else report.violated_steps,
            host_wall_s=0.0 if report is None else report.host_wall_s,
            host_cpu_s=0.0 if report is None else report.host_cpu_s,
            start_s=self.start_s,
            work=work.plain(),
            model_version=self.version,
            merge_index=None if refused else self.used_in,
        )
