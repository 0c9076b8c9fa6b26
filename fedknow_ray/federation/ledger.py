"""What each visit costs on its device and link, known before it happens: seconds, bytes and joules.

download_s -> compute_s -> upload_s, then wait_s until the round ends
energy_j = busy watts * compute_s + idle watts * (download_s + upload_s + wait_s)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fedknow_ray.errors import FedKnowError
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport, plan_visit
from fedknow_ray.methods.method import Method, Plan
from fedknow_ray.results.schema import VisitRow
from fedknow_ray.simulation.cost import compute_s, energy_j
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.link import Link
from fedknow_ray.simulation.work import Work


class PlanMismatch(FedKnowError):
    """A method did other work than it planned: its virtual times would be wrong."""


@dataclass(frozen=True, slots=True)
class PricedVisit:
    """One visit with its plan and its planned seconds and bytes."""

    order: VisitOrder
    device: Device
    plan: Plan
    download_s: float
    compute_s: float
    upload_s: float
    download_bytes: int
    upload_bytes: int

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the download to the end of the upload."""
        return self.download_s + self.compute_s + self.upload_s

    def row(self, report: VisitReport, *, start_s: float, wait_s: float) -> VisitRow:
        """Return the record of the visit that began at *start_s*.

        Raises:
            PlanMismatch: if the counted work or bytes are not the planned ones.
        """
        self._check(report)
        idle_s = self.download_s + self.upload_s + wait_s
        facts = self.order.facts
        return VisitRow(
            client_id=facts.client_id,
            device=self.device.name,
            task_index=facts.task_index,
            round_index=facts.round_index,
            kind=str(self.order.kind),
            status="ok",
            start_s=start_s,
            download_s=self.download_s,
            compute_s=self.compute_s,
            upload_s=self.upload_s,
            wait_s=wait_s,
            download_bytes=report.download_bytes,
            upload_bytes=report.upload_bytes,
            flops=report.work.flops,
            moved_bytes=report.work.moved_bytes,
            work=self.plan.work.plain(),
            peak_memory_bytes=self.plan.peak_memory_bytes,
            energy_j=energy_j(self.device, compute_s=self.compute_s, idle_s=idle_s),
            loss=report.loss,
            integrated_steps=report.integrated_steps,
            violated_steps=report.violated_steps,
            host_wall_s=report.host_wall_s,
            host_cpu_s=report.host_cpu_s,
        )

    def _check(self, report: VisitReport) -> None:
        """Compare step by step, not the totals: seconds are a maximum a step, so equal totals may take other times."""
        planned = (_steps(self.plan.work), self.download_bytes, self.upload_bytes)
        counted = (_steps(report.work), report.download_bytes, report.upload_bytes)
        if planned != counted:
            raise PlanMismatch(
                f"{self.order.kind} of client {self.order.client_id} in task {self.order.facts.task_index}: planned "
                f"({{(phase, flops, moved_bytes): steps}}, download_bytes, upload_bytes) = {planned}, counted {counted}"
            )


def _steps(work: Work) -> dict[tuple[str, int, int], int]:
    counts: Counter[tuple[str, int, int]] = Counter()
    for item in work.items:
        counts[item.phase, item.flops, item.moved_bytes] += item.count
    return {step: count for step, count in counts.items() if count}


@dataclass(frozen=True, slots=True)
class Ledger:
    """Prices visits: *devices* one a client, *payload_bytes* of one model on the link, *kind* of the network."""

    method: Method
    devices: tuple[Device, ...]
    link: Link
    payload_bytes: int
    kind: str

    def price(self, order: VisitOrder) -> PricedVisit:
        """Return a visit's plan with its seconds and bytes; methods that do not federate send nothing."""
        device = self.devices[order.client_id]
        plan = plan_visit(order, self.method)
        download_bytes = self.payload_bytes if self.method.federated else 0
        upload_bytes = download_bytes if order.kind is VisitKind.TRAIN else 0
        return PricedVisit(
            order=order,
            device=device,
            plan=plan,
            download_s=self.link.download_s(download_bytes),
            compute_s=compute_s(plan.work, device, self.kind),
            upload_s=self.link.upload_s(upload_bytes),
            download_bytes=download_bytes,
            upload_bytes=upload_bytes,
        )
