"""Prices of visits, by hand, and the check of the plan against the count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import PAYLOAD_BYTES, Lonely, Refining, make_ledger, moving

from fedknow_ray.federation.ledger import PlanMismatch
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.simulation.work import Work, WorkItem


def order(kind: VisitKind = VisitKind.TRAIN, client_id: int = 0, trained: bool = True) -> VisitOrder:
    return VisitOrder(kind, VisitFacts(client_id, 1, 2, images=10, classes=2, trained_this_task=trained), seed=1)


def test_training_downloads_computes_and_uploads():
    """6 MB of traffic at 1 MB/s."""
    visit = make_ledger().price(order())
    assert visit.compute_s == 6.0
    assert (visit.download_bytes, visit.upload_bytes) == (PAYLOAD_BYTES, PAYLOAD_BYTES)


def test_a_faster_device_computes_faster():
    assert make_ledger().price(order(client_id=1)).compute_s == 2.0


@pytest.mark.parametrize(("trained", "compute_s"), [(True, 1.0), (False, 3.0)])
def test_the_end_of_a_task_sends_nothing_and_trains_the_head_of_who_was_not_sampled(trained: bool, compute_s: float):
    visit = make_ledger().price(order(VisitKind.FINISH_TASK, trained=trained))
    assert visit.compute_s == compute_s
    assert (visit.download_bytes, visit.upload_bytes) == (PAYLOAD_BYTES, 0)


def test_refining_downloads_and_sends_nothing():
    visit = make_ledger(Refining()).price(order(VisitKind.REFINE))
    assert (visit.compute_s, visit.download_bytes, visit.upload_bytes) == (3.0, PAYLOAD_BYTES, 0)


@pytest.mark.parametrize("kind", [VisitKind.TRAIN, VisitKind.FINISH_TASK])
def test_without_federation_nothing_crosses_the_link(kind: VisitKind):
    visit = make_ledger(Lonely()).price(order(kind))
    assert (visit.download_bytes, visit.upload_bytes) == (0, 0)


def report(**changes: object) -> VisitReport:
    counted = VisitReport(moving("train", 6), 0.5, 7, 3, PAYLOAD_BYTES, PAYLOAD_BYTES, host_wall_s=0.1, host_cpu_s=0.2)
    return replace(counted, **changes)  # type: ignore[arg-type]


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
    planned = (
        r"train of client 0 in task 1: planned .* = \(\{\('train', 0, 6000000, 0\): 1\}, 4000000, 4000000\), counted"
    )
    with pytest.raises(PlanMismatch, match=planned):
        make_ledger().price(order()).check(report(**wrong))
