"""Compressed updates of real visits: planned work, bytes and memory, the residual as a part of the client's state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_worker import DIGITS, make_assembly, order
from workbench import NORMED, TINY, steps_of

from fedknow_ray.config.compression import Float16Compression, Int8Compression, NoCompression, TopKCompression
from fedknow_ray.config.model import ModelConfig
from fedknow_ray.errors import DivergenceError, UserError
from fedknow_ray.experiment.catalogue import DEVICES
from fedknow_ray.federation.ledger import Ledger
from fedknow_ray.federation.sending import compression_work, plan_sending, send
from fedknow_ray.federation.visit import SharedModel, VisitKind, VisitOrder, plan_visit, shared_shapes
from fedknow_ray.federation.worker import Assembly, ClientWorker
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.method import ClientState
from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.network import initial_model
from fedknow_ray.simulation.work import Work
from fedknow_ray.transport.compression import Compressor, read_updates
from fedknow_ray.transport.payload import Buffer, decode, encoded_bytes
from fedknow_ray.transport.update_layout import FEATURES

SIZE = {"height": 8, "width": 8, "channels": 1}
CHOICES = {"float16": Float16Compression(), "int8": Int8Compression(), "topk": TopKCompression(fraction=0.1)}
each_choice = pytest.mark.parametrize("name", CHOICES)
with_feedback = pytest.mark.parametrize("name", ["int8", "topk"])
each_head = pytest.mark.parametrize("head", ["local", "global"])
each_model = pytest.mark.parametrize("model", [TINY, NORMED], ids=["plain", "batch norm"])


def assembly_of(name: str, model: ModelSpec = TINY, head: str = "local", method: str = "fedavg") -> Assembly:
    made = make_assembly()
    config = made.config.model_copy(
        update={"compression": CHOICES.get(name, NoCompression()), "model": ModelConfig(head=head)}  # type: ignore[arg-type]
    )
    return replace(made, config=config, model=model, method=METHODS.get(method))


def start_of(assembly: Assembly) -> tuple[Buffer, Buffer]:
    features_S, head_CF = initial_model(assembly.model, **SIZE, classes=4, seed=1)
    shared = SharedModel(features_S, head_CF if assembly.config.model.head == "global" else None)
    return SharedModel(features_S, head_CF).payload(), shared.payload()


def compressor_of(assembly: Assembly) -> Compressor:
    compressor = assembly.compressor()
    assert compressor is not None
    return compressor


def ledger_of(assembly: Assembly) -> Ledger:
    features_S, head_CF = initial_model(assembly.model, **SIZE, classes=4, seed=1)
    head_global = assembly.config.model.head == "global"
    shapes = shared_shapes(features_S.size, 4, head_CF.shape[1] - 1, head_global=head_global)
    payload_bytes = encoded_bytes(shapes)
    return Ledger(
        method=assembly.make_method(),
        devices=(DEVICES.get("jetson-nano"),) * 3,
        broadcast_bytes=payload_bytes,
        model_bytes=payload_bytes,
        kind="small_cnn",
        compressor=assembly.compressor(),
    )


def state_of(worker: ClientWorker, client_id: int = 0) -> ClientState:
    return worker._state(client_id)


@each_choice
@each_model
@each_head
def test_work_and_bytes_are_as_planned(name: str, model: ModelSpec, head: str):
    """Two visits, so that the second has a residual; `check` refuses counts that are not the plan's."""
    assembly = assembly_of(name, model, head)
    start, broadcast = start_of(assembly)
    ledger, worker = ledger_of(assembly), ClientWorker(assembly, DIGITS, start, [0])
    for _ in range(2):
        report, update = worker.visit(order(assembly, 0), broadcast)
        priced = ledger.price(order(assembly, 0))
        priced.check(report)
        assert update is not None
        assert priced.upload_bytes == update.nbytes == compressor_of(assembly).update_bytes < broadcast.nbytes
        assert priced.download_bytes == broadcast.nbytes
        assert [item for item in report.work.items if item.phase == "compress"] == [
            *compression_work(assembly.compressor()).items
        ]


def test_without_compression_there_is_no_such_work_and_the_bytes_are_the_models():
    assembly = assembly_of("none")
    start, broadcast = start_of(assembly)
    report, update = ClientWorker(assembly, DIGITS, start, [0]).visit(order(assembly, 0), broadcast)
    priced = ledger_of(assembly).price(order(assembly, 0))
    assert assembly.compressor() is None
    assert "compress" not in {item.phase for item in report.work.items}
    assert update is not None
    assert priced.upload_bytes == update.nbytes == broadcast.nbytes
    assert decode(update)[FEATURES].dtype == np.float32


@each_choice
@pytest.mark.parametrize("kind", [VisitKind.FINISH_TASK, VisitKind.REFINE])
def test_visits_that_send_nothing_compress_nothing_but_hold_the_residual(name: str, kind: VisitKind):
    assembly = assembly_of(name)
    method, compressor, visit = assembly.make_method(), compressor_of(assembly), order(assembly, 0, kind=kind)
    bare = plan_visit(replace(visit, kind=VisitKind.FINISH_TASK), method)
    plan = plan_sending(bare, visit, method, compressor)
    assert plan.work == bare.work
    assert plan.peak_memory_bytes == bare.peak_memory_bytes + compressor.residual_bytes


@with_feedback
def test_the_residual_is_charged_as_memory_of_275_weights(name: str):
    assembly = assembly_of(name)
    method, visit = assembly.make_method(), order(assembly, 0)
    bare = plan_visit(visit, method)
    plan = plan_sending(bare, visit, method, compressor_of(assembly))
    assert plan.peak_memory_bytes == bare.peak_memory_bytes + 4 * 275


def test_an_update_that_is_longer_than_what_training_holds_sets_the_peak():
    """Of all values with their places, where training holds 100 bytes more than what is resident."""
    assembly = assembly_of("topk")
    config = assembly.config.model_copy(update={"compression": TopKCompression(fraction=1.0)})
    compressor, method, visit = (
        compressor_of(replace(assembly, config=config)),
        assembly.make_method(),
        order(assembly, 0),
    )
    resident = method.costs.resident_bytes(visit.facts)
    bare = replace(plan_visit(visit, method), peak_memory_bytes=resident + 100)
    plan = plan_sending(bare, visit, method, compressor)
    assert plan.peak_memory_bytes == resident + compressor.update_bytes + 4 * 275


@each_choice
def test_a_method_that_does_not_federate_compresses_nothing(name: str):
    assembly = assembly_of(name, method="local")
    start, broadcast = start_of(assembly)
    report, update = ClientWorker(assembly, DIGITS, start, [0]).visit(order(assembly, 0), broadcast)
    priced = ledger_of(assembly).price(order(assembly, 0))
    assert (update, priced.upload_bytes, report.upload_bytes) == (None, 0, 0)
    assert steps_of(priced.plan.work) == steps_of(report.work)
    assert priced.plan == plan_visit(order(assembly, 0), assembly.make_method())


@each_choice
@each_model
@each_head
def test_the_server_reads_what_the_client_has_trained_but_for_what_it_still_owes(
    name: str, model: ModelSpec, head: str
):
    assembly = assembly_of(name, model, head)
    start, broadcast = start_of(assembly)
    worker, compressor = ClientWorker(assembly, DIGITS, start, [0]), compressor_of(assembly)
    _, update = worker.visit(order(assembly, 0), broadcast)
    assert update is not None
    state, layout = state_of(worker), compressor.layout
    own = {FEATURES: state.own_S, **({"head": state.head_CF} if head == "global" else {})}
    (read,) = read_updates(compressor, [update], [broadcast])
    trained_N, statistics_B = layout.split(own)
    read_N, read_B = layout.split(read)
    residual_N = np.zeros(layout.N, np.float32) if state.residual_N is None else state.residual_N
    np.testing.assert_allclose(read_N + residual_N, trained_N, rtol=0, atol=1e-3 if name == "float16" else 1e-6)
    np.testing.assert_array_equal(read_B, statistics_B)
    assert (layout.statistics > 0) is (model is NORMED)
    assert layout.split(own)[0].size == layout.N


@with_feedback
def test_the_residual_is_sent_with_the_next_update(name: str):
    """Client 0 trains from the same broadcast with and without a residual of ones."""
    assembly = assembly_of(name)
    start, broadcast = start_of(assembly)
    owing, compressor = ClientWorker(assembly, DIGITS, start, [0]), compressor_of(assembly)
    owing._states[0] = replace(state_of(owing), residual_N=np.ones(275, np.float32))
    clear = ClientWorker(assembly, DIGITS, start, [0])
    both = []
    for worker in (owing, clear):
        _, update = worker.visit(order(assembly, 0), broadcast)
        assert update is not None
        left_N = state_of(worker).residual_N
        assert left_N is not None
        (read,) = read_updates(compressor, [update], [broadcast])
        both.append(read[FEATURES] + left_N)
    np.testing.assert_allclose(both[0], both[1] + 1, rtol=0, atol=1e-5)


@with_feedback
def test_the_residual_goes_with_the_clients_state(name: str):
    """Saved after the first visit and gone on elsewhere: the second update has the same bytes."""
    assembly = assembly_of(name)
    start, broadcast = start_of(assembly)
    first, second = (ClientWorker(assembly, DIGITS, start, [0]) for _ in range(2))
    first.visit(order(assembly, 0), broadcast)
    second.adopt(first.states())
    residual_N, adopted_N = state_of(first).residual_N, state_of(second).residual_N
    assert residual_N is not None and adopted_N is not None
    assert adopted_N.tobytes() == residual_N.tobytes()
    again = VisitOrder(VisitKind.TRAIN, replace(order(assembly, 0).facts, round_index=1), seed=1)
    updates = [worker.visit(again, broadcast)[1] for worker in (first, second)]
    assert updates[0] is not None and updates[1] is not None
    assert updates[0].tobytes() == updates[1].tobytes()


@with_feedback
def test_the_end_of_a_task_leaves_the_residual_as_it_is(name: str):
    assembly = assembly_of(name)
    start, broadcast = start_of(assembly)
    worker = ClientWorker(assembly, DIGITS, start, [0])
    worker.visit(order(assembly, 0), broadcast)
    before_N = state_of(worker).residual_N
    worker.visit(order(assembly, 0, kind=VisitKind.FINISH_TASK), broadcast)
    assert state_of(worker).residual_N is before_N is not None


@pytest.mark.parametrize(
    ("name", "value", "error", "told"),
    [
        ("int8", np.nan, DivergenceError, "no finite number"),
        ("float16", 1e6, UserError, "beyond float16"),
    ],
)
def test_what_cannot_be_sent_is_told_with_its_visit(name: str, value: float, error: Any, told: str):
    assembly = assembly_of(name)
    _, broadcast = start_of(assembly)
    base = SharedModel.of(decode(broadcast))
    update = SharedModel(np.full_like(base.features_S, value), None)
    with pytest.raises(error, match=f"client 1, task_index 0, round_index 0: .*{told}"):
        send(order(assembly, 1), ClientState(np.zeros((4, 6), np.float32)), update, base, assembly.compressor())


def test_no_work_without_compression():
    assert compression_work(None) == Work.none()
