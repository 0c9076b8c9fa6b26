"""What a bad client sends: each kind is refused at the door for what it is, compressed or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_worker import DIGITS, make_assembly, order, start_model

from fedknow_ray.config.availability import BadUpdateConfig, FailuresConfig
from fedknow_ray.config.compression import Float16Compression, Int8Compression, NoCompression, TopKCompression
from fedknow_ray.federation.bad_updates import spoilt
from fedknow_ray.federation.visit import VisitOrder
from fedknow_ray.federation.worker import Assembly, ClientWorker
from fedknow_ray.transport.payload import Buffer, encode

REFUSED_AS = {"nan": "not_finite", "wrong_shape": "wrong_shape", "huge": "norm", "garbage": "garbage"}
COMPRESSIONS = [NoCompression(), Float16Compression(), Int8Compression(), TopKCompression(fraction=0.1)]


def assembly_with(compression: Any, *bad_updates: BadUpdateConfig) -> Assembly:
    assembly = make_assembly()
    changes = {"compression": compression, "failures": FailuresConfig(bad_updates=bad_updates)}
    return replace(assembly, config=assembly.config.model_copy(update=changes))


def visit(assembly: Assembly, client_id: int, task_index: int = 0) -> tuple[Any, Buffer, VisitOrder]:
    start, broadcast = start_model()
    asked = order(assembly, client_id, task_index)
    report, update = ClientWorker(assembly, DIGITS, start, [0, 1]).visit(asked, broadcast)
    assert update is not None
    return report, update, asked


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda compression: compression.name)
@pytest.mark.parametrize("sends", REFUSED_AS)
def test_a_bad_update_is_refused_for_what_it_is(compression: Any, sends: Any) -> None:
    """The client's report is that of an honest visit: the link is charged for the agreed length."""
    bad = assembly_with(compression, BadUpdateConfig(client=0, task=0, round=0, sends=sends))
    report, update, _ = visit(bad, 0)
    honest_report, honest, _ = visit(assembly_with(compression), 0)
    broadcast = start_model()[1]
    door = bad.door(broadcast)
    refusal = door.refusal(update, broadcast)
    assert refusal is not None
    assert refusal.kind == REFUSED_AS[sends]
    assert door.refusal(honest, broadcast) is None
    assert report == honest_report


def test_only_the_visit_that_is_named_brings_one() -> None:
    bad = assembly_with(NoCompression(), BadUpdateConfig(client=0, task=1, round=0, sends="garbage"))
    for client_id, task_index in ((0, 0), (1, 1)):
        assert bytes(visit(bad, client_id, task_index)[1]) == bytes(visit(make_assembly(), client_id, task_index)[1])
    assert bytes(visit(bad, 0, 1)[1]) != bytes(visit(make_assembly(), 0, 1)[1])


def test_garbage_follows_from_the_order_and_has_another_length() -> None:
    payload = encode({"features": np.zeros(100, np.float32)})
    asked = order(make_assembly(), 0)
    first, again = (spoilt(payload, "garbage", asked) for _ in range(2))
    assert bytes(first) == bytes(again)
    assert first.nbytes != payload.nbytes
    assert bytes(spoilt(payload, "garbage", replace(asked, seed=2))) != bytes(first)


def test_the_update_itself_stays_as_it_was() -> None:
    payload = encode({"features": np.zeros(100, np.float32)})
    payload.flags.writeable = False
    before = bytes(payload)
    for sends in REFUSED_AS:
        spoilt(payload, sends, order(make_assembly(), 0))  # type: ignore[arg-type]
    assert bytes(payload) == before
