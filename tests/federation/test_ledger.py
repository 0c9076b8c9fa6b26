"""Prices of visits, by hand, and the check of the plan against the count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import DEVICES, PAYLOAD_BYTES, FakeMethod, Lonely, Refining, make_ledger, moving

from fedknow_ray.federation.ledger import Ledger, PlanMismatch, PricedVisit
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.simulation.work import Work, WorkItem


def order(kind: VisitKind = VisitKind.TRAIN, client_id: int = 0, trained: bool = True) -> VisitOrder:
    return VisitOrder(kind, VisitFacts(client_id, 1, 2, images=10, classes=2, trained_this_task=trained), seed=1)


def seconds(visit: PricedVisit) -> tuple[float, float, float, float]:
    return visit.download_s, visit.compute_s, visit.upload_s, visit.duration_s


def test_training_downloads_computes_and_uploads():
    """4 MB at 2 MB/s and 0.5 s; 6 MB of traffic at 1 MB/s; 4 MB at 1 MB/s and 0.5 s."""
    visit = make_ledger().price(order())
    assert seconds(visit) == (2.5, 6.0, 4.5, 13.0)
    assert (visit.download_bytes, visit.upload_bytes) == (PAYLOAD_BYTES, PAYLOAD_BYTES)


def test_a_faster_device_computes_faster():
    assert seconds(make_ledger().price(order(client_id=1))) == (2.5, 2.0, 4.5, 9.0)


@pytest.mark.parametrize(("trained", "compute_s"), [(True, 1.0), (False, 3.0)])
def test_the_end_of_a_task_sends_nothing_and_trains_the_head_of_who_was_not_sampled(trained: bool, compute_s: float):
    visit = make_ledger().price(order(VisitKind.FINISH_TASK, trained=trained))
    assert seconds(visit) == (2.5, compute_s, 0.0, 2.5 + compute_s)
    assert (visit.download_bytes, visit.upload_bytes) == (PAYLOAD_BYTES, 0)


def test_refining_downloads_and_sends_nothing():
    visit = make_ledger(Refining()).price(order(VisitKind.REFINE))
    assert seconds(visit) == (2.5, 3.0, 0.0, 5.5)


@pytest.mark.parametrize("kind", [VisitKind.TRAIN, VisitKind.FINISH_TASK])
def test_without_federation_nothing_crosses_the_link(kind: VisitKind):
    visit = make_ledger(Lonely()).price(order(kind))
    assert (visit.download_s, visit.upload_s, visit.download_bytes, visit.upload_bytes) == (0, 0, 0, 0)


def report(**changes: object) -> VisitReport:
    counted = VisitReport(moving("train", 6), 0.5, 7, 3, PAYLOAD_BYTES, PAYLOAD_BYTES, host_wall_s=0.1, host_cpu_s=0.2)
    return replace(counted, **changes)  # type: ignore[arg-type]


def test_a_row_holds_plan_count_and_energy():
    """10 W for 6 s, 1 W for 2.5 s of download, 4.5 s of upload and 3 s of waiting."""
    row = make_ledger().price(order()).row(report(), start_s=1.5, wait_s=3.0)
    assert (row.client_id, row.device, row.task_index, row.round_index, row.kind) == (0, "slow", 1, 2, "train")
    assert (row.download_s, row.compute_s, row.upload_s, row.wait_s) == (2.5, 6.0, 4.5, 3.0)
    assert (row.flops, row.moved_bytes, row.peak_memory_bytes) == (0, 6 * 10**6, 1000)
    assert (row.loss, row.integrated_steps, row.violated_steps) == (0.5, 7, 3)
    assert (row.host_wall_s, row.host_cpu_s, row.status) == (0.1, 0.2, "ok")
    assert row.energy_j == 60 + 10
    assert row.start_s == 1.5
    assert row.work == [{"phase": "train", "count": 1, "flops": 0, "moved_bytes": 6 * 10**6}]


def test_energy_is_unknown_where_watts_are():
    unknown = replace(DEVICES[0], busy_w=None)
    ledger = Ledger(FakeMethod(), (unknown,), make_ledger().link, PAYLOAD_BYTES, "small_cnn")
    assert ledger.price(order()).row(report(), start_s=0.0, wait_s=0.0).energy_j is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"work": moving("train", 7)},
        {"work": Work((WorkItem("train", 2, 0, 3 * 10**6),))},
        {"upload_bytes": PAYLOAD_BYTES - 1},
        {"download_bytes": 0},
    ],
    ids=["work", "steps of equal total", "bytes up", "bytes down"],
)
def test_other_work_or_bytes_than_planned_are_refused(wrong: dict[str, object]):
    """Two steps of 3 MB are not one of 6 MB: the time is a maximum a step."""
    planned = r"train of client 0 in task 1: planned .* = \(\{\('train', 0, 6000000\): 1\}, 4000000, 4000000\), counted"
    with pytest.raises(PlanMismatch, match=planned):
        make_ledger().price(order()).row(report(**wrong), start_s=0.0, wait_s=0.0)
