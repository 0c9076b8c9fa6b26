"""The record of a visit: what arrived as counted, what was lost in proportion."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import DEVICES, PAYLOAD_BYTES, FakeMethod, make_ledger, moving

from fedknow_ray.federation.flight import Flight, Phase, Status
from fedknow_ray.federation.ledger import Ledger, PlanMismatch
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.methods.method import VisitFacts


def order() -> VisitOrder:
    return VisitOrder(VisitKind.TRAIN, VisitFacts(0, 1, 2, images=10, classes=2, trained_this_task=True), seed=1)


def report(**changes: object) -> VisitReport:
    counted = VisitReport(moving("train", 6), 0.5, 7, 3, PAYLOAD_BYTES, PAYLOAD_BYTES, host_wall_s=0.1, host_cpu_s=0.2)
    return replace(counted, **changes)  # type: ignore[arg-type]


def landed(ledger: Ledger, status: Status = Status.OK, **spent: float) -> Flight:
    flight = Flight(ledger.price(order()), start_s=1.5, version=3, phase=Phase.DONE, status=status, used_in=4)
    for name, value in spent.items():
        setattr(flight, name, value)
    return flight


def test_a_row_holds_what_was_spent_counted_and_drawn():
    """10 W for 6 s, 1 W for 2.5 s of download, 4.5 s of upload and 3 s of waiting."""
    flight = landed(make_ledger(), download_s=2.5, compute_s=6.0, upload_s=4.5, wait_s=3.0)
    row = flight.row(report())
    assert (row.client_id, row.device, row.task_index, row.round_index, row.kind) == (0, "slow", 1, 2, "train")
    assert (row.download_s, row.compute_s, row.upload_s, row.wait_s) == (2.5, 6.0, 4.5, 3.0)
    assert (row.flops, row.moved_bytes, row.peak_memory_bytes) == (0, 6 * 10**6, 1000)
    assert (row.loss, row.integrated_steps, row.violated_steps) == (0.5, 7, 3)
    assert (row.host_wall_s, row.host_cpu_s, row.status) == (0.1, 0.2, "ok")
    assert row.energy_j == 60 + 10
    assert (row.start_s, row.model_version, row.merge_index) == (1.5, 3, 4)
    assert [(step["phase"], step["count"], step["moved_bytes"]) for step in row.work] == [("train", 1, 6 * 10**6)]


def test_a_visit_that_was_lost_half_way_has_half_of_its_work_and_no_figures():
    row = landed(make_ledger(), Status.FAILED, download_s=2.5, compute_s=3.0).row(None)
    assert (row.status, row.moved_bytes, row.compute_s, row.upload_s) == ("failed", 3 * 10**6, 3.0, 0.0)
    assert (row.loss, row.integrated_steps, row.violated_steps, row.host_cpu_s) == (None, None, None, 0.0)
    assert row.energy_j == 30 + 2.5


def test_energy_is_unknown_where_watts_are():
    unknown = replace(DEVICES[0], busy_w=None)
    ledger = Ledger(FakeMethod(), (unknown,), PAYLOAD_BYTES, PAYLOAD_BYTES, "small_cnn")
    assert landed(ledger).row(report()).energy_j is None


def test_other_work_than_planned_is_refused():
    with pytest.raises(PlanMismatch, match="train of client 0 in task 1"):
        landed(make_ledger()).row(report(work=moving("train", 5)))
