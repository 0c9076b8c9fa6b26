"""FedWEIT: what a client keeps, sends and is scored with; the arithmetic itself is tested in test_decomposition."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from workbench import DRY, NORMED, TINY, Bench, training

from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.run import read_config
from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.fedweit import FedWeitMemory, FedWeitSettings
from fedknow_ray.models.network import feature_layout
from fedknow_ray.transport.rows import ChangedRows
from fedknow_ray.transport.update_layout import UpdateLayout

SHARED = {"height": 8, "width": 8, "channels": 1}


def memory_of(bench: Bench) -> FedWeitMemory:
    return cast(FedWeitMemory, bench.state().memory)


def live(bench: Bench, tasks: int) -> None:
    """Every task with two training visits and its end."""
    for task_index in range(tasks):
        for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.TRAIN, True), (VisitKind.FINISH_TASK, True)):
            bench.visit(kind, task_index, trained=trained)


def test_the_own_model_for_each_task_is_b_m_plus_a():
    """For the task just learnt it is the own model to the bit; for those before with the last B, not theta*."""
    bench = Bench("fedweit", spec=NORMED)
    live(bench, 3)
    memory, state = memory_of(bench), bench.state()
    assert len(memory.past) == 3
    restored = [bench.method.features_of_task(bench.learner, state, task_index) for task_index in range(3)]
    np.testing.assert_array_equal(restored[2], state.own_S)
    layout, P = bench.learner.network.layout, bench.learner.network.P
    for parts, features_S in zip(memory.past, restored, strict=True):
        assert features_S is not None
        unit = 0
        for piece in layout:
            rows = piece.shape[0]
            gate = torch.sigmoid(parts.mask_M[unit : unit + rows]).numpy().repeat(piece.size // rows)
            place = slice(piece.start, piece.stop)
            expected = memory.base_P.numpy()[place] * gate + parts.adaptive_P.numpy()[place]
            np.testing.assert_array_equal(features_S[place], expected)
            unit += rows
        np.testing.assert_array_equal(features_S[P:], parts.statistics_B.numpy())
    assert memory.past[0].target_P is not None
    assert not np.array_equal(restored[0][:P], memory.past[0].target_P.numpy())
    assert bench.method.features_of_task(bench.learner, state, 3) is None


def test_current_evaluation_is_the_present_model_for_all_tasks_and_trains_the_same():
    benches = [Bench("fedweit", {"evaluation": name}) for name in ("restored", "current")]
    for bench in benches:
        live(bench, 2)
    np.testing.assert_array_equal(benches[0].state().own_S, benches[1].state().own_S)
    assert [benches[1].method.features_of_task(bench.learner, bench.state(), 0) for bench in benches] == [None, None]


def test_a_client_that_was_never_sampled_keeps_the_final_model():
    """B * sigma(0) + B / 2 is B, to the bit."""
    bench = Bench("fedweit")
    bench.visit(VisitKind.FINISH_TASK)
    restored_S = bench.method.features_of_task(bench.learner, bench.state(), 0)
    np.testing.assert_array_equal(restored_S, bench.broadcast.features_S)
    np.testing.assert_array_equal(restored_S, bench.state().own_S)


def test_a_task_begins_from_the_start_that_is_set_and_goes_on_from_where_it_was():
    bench = Bench("fedweit", {"adaptive_start": 0.5}, config=training(local_epochs=1))
    bench.visit(VisitKind.TRAIN)
    first = memory_of(bench)
    bench.visit(VisitKind.TRAIN, trained=True)
    second = memory_of(bench)
    assert first.current is not None and second.current is not None
    # 3 steps of Adam at a rate of 0.01: no value is further than that from its start
    start_P = torch.from_numpy(bench.broadcast.features_S[: bench.learner.network.P]) / 2
    assert (first.current.adaptive_P - start_P).abs().max() < 0.031
    assert first.current.mask_M.abs().max() < 0.031
    assert 0 < (second.current.adaptive_P - first.current.adaptive_P).abs().max() < 0.031
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    bench.visit(VisitKind.TRAIN, 1)
    third = memory_of(bench)
    assert third.current is not None
    assert (third.current.adaptive_P - start_P).abs().max() < 0.031


def test_past_tasks_adapt_so_as_to_stay_what_they_were():
    """A of task 0 moves in task 1, and with lambda_2 the restored model stays nearer to theta* than without."""
    away = []
    for strength in (0.0, 100.0):
        bench = Bench("fedweit", {"lambda_2": strength, "lambda_1": 0.0}, spec=DRY)
        live(bench, 1)
        before_P = memory_of(bench).past[0].adaptive_P
        live_task_1(bench)
        task = memory_of(bench).past[0]
        assert torch.equal(task.adaptive_P, before_P) is False
        restored_S = bench.method.features_of_task(bench.learner, bench.state(), 0)
        assert restored_S is not None and task.target_P is not None
        away.append(float(np.linalg.norm(restored_S - task.target_P.numpy())))
    assert away[1] < 0.5 * away[0]


def live_task_1(bench: Bench) -> None:
    for trained in (False, True, True):
        bench.visit(VisitKind.TRAIN, 1, trained=trained)


def compressor_of(bench: Bench) -> ChangedRows:
    pieces = feature_layout(bench.spec, **SHARED)
    layout = UpdateLayout(tuple(piece.size for piece in pieces), bench.learner.network.B)
    compressor = bench.method.compressor(pieces, layout)
    assert isinstance(compressor, ChangedRows)
    return compressor


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
def test_the_rows_of_the_smallest_masks_stay_as_they_came(sparsity: float):
    """What is sent is B where it is sent, and it goes through its compressor without loss, at the planned length."""
    bench = Bench("fedweit", {"client_sparsity": sparsity}, spec=NORMED)
    live(bench, 1)
    _, update, _ = bench.visit(VisitKind.TRAIN, 1)
    assert update is not None
    memory, P = memory_of(bench), bench.learner.network.P
    assert memory.current is not None
    own_P, sent_P, came_P = memory.base_P.numpy(), update.features_S[:P], bench.broadcast.features_S[:P]
    unit = 0
    for piece in bench.learner.network.layout:
        rows, place = piece.shape[0], slice(piece.start, piece.stop)
        own, sent, came = (values[place].reshape(rows, -1) for values in (own_P, sent_P, came_P))
        sizes = memory.current.mask_M[unit : unit + rows].abs().numpy()
        left_out = np.argsort(-sizes, kind="stable")[rows - int(np.floor(round(sparsity * rows, 9))) :]
        np.testing.assert_array_equal(sent[left_out], came[left_out])
        kept = np.setdiff1d(np.arange(rows), left_out)
        np.testing.assert_array_equal(sent[kept], own[kept])
        unit += rows
    np.testing.assert_array_equal(update.features_S[P:], memory.current.statistics_B.numpy())
    compressor = compressor_of(bench)
    arrays, owed = compressor.compress(update.arrays(), bench.broadcast.arrays(), None)
    assert owed is None
    restored = compressor.restore(arrays, bench.broadcast.arrays())
    np.testing.assert_array_equal(restored["features"], update.features_S)


def test_the_own_model_is_theta_and_the_update_is_b():
    bench = Bench("fedweit", {"client_sparsity": 0.0})
    _, update, _ = bench.visit(VisitKind.TRAIN)
    memory = memory_of(bench)
    assert update is not None
    np.testing.assert_array_equal(update.features_S, memory.base_P.numpy())
    assert not np.array_equal(bench.state().own_S, update.features_S)


def test_what_is_kept_grows_by_two_models_a_task():
    """A and theta*, m, and statistics; and the client's own B once: as large as the arrays that are there."""
    bench = Bench("fedweit", spec=NORMED)
    for task_index in range(3):
        facts = bench.order(VisitKind.TRAIN, task_index).facts
        memory = bench.state().memory
        assert bench.method.kept_bytes(facts) == (0 if memory is None else held(memory))
        for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.FINISH_TASK, True)):
            bench.visit(kind, task_index, trained=trained)


def held(memory: FedWeitMemory) -> int:
    tensors = [memory.base_P]
    for parts in memory.past:
        assert parts.target_P is not None
        tensors += [parts.adaptive_P, parts.mask_M, parts.statistics_B, parts.target_P]
    return sum(tensor.nbytes for tensor in tensors)


def test_a_training_visit_holds_the_vector_that_it_trains():
    """Beside the network with theta and its gradient: B, head, m and t + 1 times A, their gradients, Adam's states."""
    bench, fedavg = Bench("fedweit"), Bench("fedavg")
    footprint, t = bench.method.costs.footprint, 2
    order = bench.order(VisitKind.TRAIN, t)
    network = footprint.P + 2 * (footprint.F + 1)
    values = network + footprint.units + (t + 1) * footprint.P
    kept = t * (2 * footprint.P + footprint.units) + footprint.P
    present = footprint.P + footprint.units
    more = plan_visit(order, bench.method).peak_memory_bytes - plan_visit(order, fedavg.method).peak_memory_bytes
    # FedAvg counts the gradient and the states of its own vector, which is the network's
    assert more == 4 * (4 * values - 3 * network + network + kept + present)
    assert footprint.units == sum(piece.shape[0] for piece in feature_layout(TINY, **SHARED))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lambda_1": -1},
        {"lambda_2": float("nan")},
        {"client_sparsity": 1},
        {"adaptive_start": 1.5},
        {"knowledge_base": "on"},
        {"evaluation": "both"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError):
        FedWeitSettings(**wrong)


def test_a_second_way_to_shorten_updates_is_refused(tmp_path: Path):
    file = tmp_path / "weit.yaml"
    file.write_text(
        "scenario: {dataset: digits, tasks: 2, classes_per_task: 2, clients: 2}\n"
        "method: {name: fedweit}\nfleet: [{device: jetson-nano, count: 2}]\n"
    )
    assert read_config(file).compression.name == "none"
    with pytest.raises(ConfigError, match=r"compression.name: 'int8' does not go with fedweit"):
        read_config(file, ["compression.name=int8"])
