"""What each visit costs on its device, known before it happens: its work in seconds, and its bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from fedknow_ray.errors import FedKnowError
from fedknow_ray.federation.sending import plan_sending
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport, plan_visit
from fedknow_ray.methods.method import Method, Plan
from fedknow_ray.simulation.cost import compute_s
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.work import Step, Work
from fedknow_ray.transport.compression import Compressor


class PlanMismatch(FedKnowError):
    """A method did other work than it planned: its virtual times would be wrong."""


@dataclass(frozen=True, slots=True)
class PricedVisit:
    """One visit with its plan, its seconds of computing and its bytes."""

    order: VisitOrder
    device: Device
    plan: Plan
    compute_s: float
    download_bytes: int
    upload_bytes: int

    @property
    def fits(self) -> bool:
        """Whether its device can hold it; one whose memory is not known holds everything."""
        limit = self.device.memory_bytes
        return limit is None or self.plan.peak_memory_bytes <= limit

    def check(self, report: VisitReport) -> None:
        """Compare plan and count step by step: seconds are a maximum a step, so equal totals may take other times.

        Of an update that was refused the length is not looked at: it may be of any.

        Raises:
            PlanMismatch: if the counted work or bytes are not the planned ones.
        """
        upload_bytes = self.upload_bytes if report.refusal is None else report.upload_bytes
        planned = (_steps(self.plan.work), self.download_bytes, upload_bytes)
        counted = (_steps(report.work), report.download_bytes, report.upload_bytes)
        if planned != counted:
            raise PlanMismatch(
                f"{self.order.kind} of client {self.order.client_id} in task {self.order.facts.task_index}: planned "
                f"({{(phase, flops, moved_bytes, stored_bytes): steps}}, download_bytes, upload_bytes) = {planned}, "
                f"counted {counted}"
            )


def _steps(work: Work) -> dict[Step, int]:
    counts: Counter[Step] = Counter()
    for item in work.items:
        counts[item.step] += item.count
    return {step: count for step, count in counts.items() if count}


class Traits(Protocol):
    """What the course of a run depends on of a method, besides its prices; see `methods.method.Method`."""

    @property
    def federated(self) -> bool:
        """Whether anything is sent."""

    @property
    def refines(self) -> bool:
        """Whether each client of a round makes a further visit right after aggregation."""

    @property
    def evicts(self) -> bool:
        """Whether a client can throw away what it knows of its oldest past tasks."""


class Prices(Protocol):
    """What the course of a run asks of a price list: a method's plans, or those that a run has recorded."""

    @property
    def method(self) -> Traits:
        """The method that the prices are of."""

    def price(self, order: VisitOrder) -> PricedVisit:
        """Return a visit's plan with its seconds and bytes."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Prices visits: *devices* one a client, *kind* of the network.

    *broadcast_bytes* of what comes down: the model, and what a server part adds to it. *model_bytes* of the model
    alone, and so of what goes up, unless a *compressor* shortens it.
    """

    method: Method
    devices: tuple[Device, ...]
    broadcast_bytes: int
    model_bytes: int
    kind: str
    compressor: Compressor | None = None

    @property
    def update_bytes(self) -> int:
        """Bytes of one update on the link."""
        return self.model_bytes if self.compressor is None else self.compressor.update_bytes

    def price(self, order: VisitOrder) -> PricedVisit:
        """Return a visit's plan with its seconds and bytes; methods that do not federate send nothing."""
        device = self.devices[order.client_id]
        plan = plan_sending(plan_visit(order, self.method), order, self.method, self.compressor)
        download_bytes = self.broadcast_bytes if self.method.federated else 0
        upload_bytes = self.update_bytes if self.method.federated and order.kind is VisitKind.TRAIN else 0
        return PricedVisit(
            order=order,
            device=device,
            plan=plan,
            compute_s=compute_s(plan.work, device, self.kind),
            download_bytes=download_bytes,
            upload_bytes=upload_bytes,
        )
