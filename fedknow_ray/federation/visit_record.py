"""Orders and reports of visits as values that JSON can hold, and back: what a checkpoint says of visits under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.simulation.work import Work, WorkItem


def plain_order(order: VisitOrder) -> dict[str, Any]:
    """Return an order as plain values; see `order_of`."""
    facts = {**asdict(order.facts), "past_images": list(order.facts.past_images)}
    return {"kind": str(order.kind), "facts": facts, "seed": order.seed}


def order_of(plain: Mapping[str, Any]) -> VisitOrder:
    """Return the order that `plain_order` gave.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    facts = {**plain["facts"], "past_images": tuple(plain["facts"].get("past_images", ()))}
    return VisitOrder(VisitKind(plain["kind"]), VisitFacts(**facts), plain["seed"])


def plain_report(report: VisitReport) -> dict[str, Any]:
    """Return a report as plain values; see `report_of`."""
    own = {field.name: getattr(report, field.name) for field in fields(report)}
    return {**own, "work": report.work.plain(), "notes": dict(report.notes)}


def report_of(plain: Mapping[str, Any]) -> VisitReport:
    """Return the report that `plain_report` gave.

    Raises:
        KeyError, TypeError, ValueError: if it is none.
    """
    return VisitReport(**{**plain, "work": Work(tuple(WorkItem(**item) for item in plain["work"]))})
