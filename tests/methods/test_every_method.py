"""What holds for every method: the plan is the work, past head rows rest, and clients do not feel each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from workbench import ADAM, CLASSES, DRY, INTEGRATIONS, NORMED, SGD, Bench, steps_of, task_data, training

from fedknow_ray.federation.state_bytes import dump_state, load_state
from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.fedknow import rules, summing
from fedknow_ray.methods.fedknow.integrator import IntegrationResult
from fedknow_ray.methods.method import Method
from fedknow_ray.simulation.work import Work

#: Every registered method, and settings that change its work or what it moves.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS.names()},
    # its default of 100 is for Adam: the steepest slopes of the loss are then beyond what SGD can go at these rates
    "fedweit": ("fedweit", {"lambda_2": 1.0}),
    "fedweit/current": ("fedweit", {"lambda_2": 1.0, "evaluation": "current", "client_sparsity": 0.0}),
    "fedavg/final": ("fedavg", {"own_model": "final"}),
    "ewc/labels final": ("ewc", {"fisher": "labels", "own_model": "final"}),
    "ags_cl/final": ("ags_cl", {"sparsity": 0.1, "own_model": "final"}),
    "replay/half": ("replay", {"memory_fraction": 0.5, "replay_ratio": 0.5}),
    "gem/final": ("gem", {"memory_fraction": 0.5, "margin": 0.0, "own_model": "final"}),
    "co2l/final": ("co2l", {"memory_fraction": 0.5, "own_model": "final"}),
    "co2l/frozen": ("co2l", {"past_heads": "frozen", "distillation_weight": 0.0}),
    "fedknow/last_visit": ("fedknow", {"own_model": "last_visit"}),
    "fedknow/k=1": ("fedknow", {"signature_tasks": 1}),
    "fedknow/k=2 random": ("fedknow", {"signature_tasks": 2, "selection": "random"}),
    "fedknow/retraining": ("fedknow", {"retained_fraction": 0.5, "retrain_epochs": 2}),
    "fedknow/hard": ("fedknow", {"labels": "hard", "margin": 0.5}),
    "fedknow/layer disjoint": ("fedknow", {"retained_fraction": 0.1, "threshold": "layer", "masks": "disjoint"}),
    "fedknow/8 bits": ("fedknow", {"retained_fraction": 0.1, "stored_bits": 8}),
    "fedknow/displacement": ("fedknow", {"second_use": "displacement"}),
    "fedknow/feature_projection": ("fedknow", {"integration": "feature_projection", "signature_tasks": 1}),
    "fedknow/sum_then_projection": ("fedknow", {"integration": "sum_then_projection"}),
    "fedknow/preconditioned": ("fedknow", {"integration": "preconditioned", "second_use": "on_receive"}),
    "fedknow/paper": ("fedknow", {"variant": "paper"}),
    "fedknow/paper off": ("fedknow", {"variant": "paper", "second_use": "off"}),
    "fedknow/paper after_aggregation": ("fedknow", {"variant": "paper", "second_use": "after_aggregation"}),
    "fedknow/paper k=1 cosine": ("fedknow", {"variant": "paper", "signature_tasks": 1, "selection": "cosine"}),
    "fedknow/authors_code": ("fedknow", {"variant": "authors_code"}),
    "fedknow/authors_code k=2": ("fedknow", {"variant": "authors_code", "signature_tasks": 2, "retrain_epochs": 0}),
}
#: Those that learn earlier tasks again, and their head rows with them.
TRAINS_PAST_HEADS = ("joint",)
every_method = pytest.mark.parametrize("variant", VARIANTS)

#: Whose way to classify is a head trained anew for every task, on what is kept of it.
TRAIN_PAST_ROWS = {"co2l", "co2l/final"}


def bench_of(variant: str, **settings: Any) -> Bench:
    name, hyper = VARIANTS[variant]
    return Bench(name, hyper, **settings)


@every_method
@pytest.mark.parametrize(("images", "batch_size", "epochs"), [(20, 8, 2), (16, 8, 1), (7, 20, 2)])
def test_the_work_counted_is_the_work_planned(variant: str, images: int, batch_size: int, epochs: int):
    """Step for step: first and later visits of a task, its end for clients that were and were not sampled."""
    bench = bench_of(variant, config=training(batch_size=batch_size, local_epochs=epochs), images=images)
    done = bench.live_through(4)
    assert len(done) >= 10
    for order, report in done:
        assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work), order


@every_method
def test_the_plan_holds_for_sgd_with_batch_norm(variant: str):
    bench = bench_of(variant, config=training(optimizer=SGD), spec=NORMED)
    for order, report in bench.live_through(3):
        assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work), order


def test_planned_flops_are_those_that_torch_counts():
    """FlopCounterMode around the whole training of FedAvg: every product of it, none forgotten, none invented."""
    bench = Bench("fedavg", spec=DRY)
    order = bench.order(VisitKind.TRAIN)
    with FlopCounterMode(display=False) as counter:
        bench.visit(VisitKind.TRAIN)
    assert counter.get_total_flops() == plan_visit(order, bench.method).work.flops


@pytest.mark.parametrize("past_heads", ["frozen", "trained"])
@pytest.mark.parametrize("integration", INTEGRATIONS)
@pytest.mark.parametrize("selection", ["wasserstein", "oldest"])
def test_planned_flops_of_restoring_are_those_that_torch_counts(
    integration: str, past_heads: str, selection: str, monkeypatch: pytest.MonkeyPatch
):
    """All of FedKNOW's network passes; the integration is left out, whose work is planned whether needed or not."""

    def skip(G_RP: torch.Tensor, margin: float, out: torch.Tensor | None = None) -> IntegrationResult:
        g_P = G_RP[0] if out is None else out.copy_(G_RP[0])
        return IntegrationResult(g_P, np.zeros(len(G_RP) - 1), 0, np.ones(len(G_RP) - 1))

    hyper = {"integration": integration, "past_heads": past_heads, "selection": selection, "signature_tasks": 2}
    bench = Bench("fedknow", hyper, spec=DRY)
    bench.live_through(3)
    order = bench.order(VisitKind.TRAIN, 3)
    for module in (rules, summing):
        monkeypatch.setattr(module, "integrate", skip)
    with FlopCounterMode(display=False) as counter:
        bench.visit(VisitKind.TRAIN, 3)
    network = [item for item in plan_visit(order, bench.method).work.items if item.phase != "integrate"]
    assert counter.get_total_flops() == Work(tuple(network)).flops


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant not in TRAINS_PAST_HEADS])
@pytest.mark.parametrize("head_global", [False, True], ids=["local head", "global head"])
def test_past_head_rows_rest_while_another_task_is_learnt(variant: str, head_global: bool):
    """Bitwise, with momentum and weight decay about."""
    bench = bench_of(variant, config=training(optimizer=SGD), head_global=head_global)
    for task_index in range(3):
        for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.TRAIN, True), (VisitKind.FINISH_TASK, True)):
            from_server = head_global and bench.method.federated and kind is VisitKind.TRAIN
            before = bench.head_CF if from_server else bench.state().head_CF
            bench.visit(kind, task_index, trained=trained)
            after = bench.state().head_CF
            least = task_index if variant in TRAIN_PAST_ROWS else 0
            others = [row for row in range(least * CLASSES, 8) if row // CLASSES != task_index]
            np.testing.assert_array_equal(after[others], before[others])


@every_method
def test_a_training_visit_changes_the_rows_of_its_task(variant: str):
    bench = bench_of(variant)
    bench.visit(VisitKind.TRAIN, 1)
    assert not np.array_equal(bench.state().head_CF[2:4], bench.head_CF[2:4])


@every_method
@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_clients_that_share_a_learner_do_not_feel_each_other(variant: str, optimizer: Any):
    """Client 0 alone, and client 0 with client 1 in between: the same bits."""
    alone, shared = (bench_of(variant, config=training(optimizer=optimizer), spec=NORMED) for _ in range(2))
    for task_index in range(2):
        for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.TRAIN, True), (VisitKind.FINISH_TASK, True)):
            _, expected, _ = alone.visit(kind, task_index, trained=trained)
            shared.visit(kind, task_index, trained=trained, client_id=1)
            _, update, report = shared.visit(kind, task_index, trained=trained)
            assert (update is None) is (expected is None)
            if update is not None and expected is not None:
                np.testing.assert_array_equal(update.features_S, expected.features_S)
            np.testing.assert_array_equal(shared.state().head_CF, alone.state().head_CF)
            assert report.loss is None or np.isfinite(report.loss)


@every_method
def test_a_visit_is_a_function_of_its_arguments(variant: str):
    """State, broadcast, data and order decide; torch's global generator and earlier runs do not."""
    states = []
    for noise in range(2):
        bench = bench_of(variant)
        torch.manual_seed(noise)
        bench.live_through(3)
        states.append(bench.state())
    np.testing.assert_array_equal(states[0].own_S, states[1].own_S)
    np.testing.assert_array_equal(states[0].head_CF, states[1].head_CF)


@every_method
def test_a_state_that_was_stored_goes_on_as_if_it_had_not_been(variant: str):
    """After a training visit and after each end of a task, which is when runs are saved: to the bit, order in memory
    and all, and the next visits too. Its memory is made of what the method declares."""
    living, stored = bench_of(variant, spec=NORMED), bench_of(variant, spec=NORMED)
    types = living.method.memory_types
    after = [(VisitKind.REFINE, True)] if living.method.refines else []
    for task_index in range(4):
        sampled = task_index != 2
        training_visits = [(VisitKind.TRAIN, False), *after, (VisitKind.TRAIN, True)] if sampled else []
        for kind, trained in [*training_visits, (VisitKind.FINISH_TASK, sampled)]:
            _, expected, _ = living.visit(kind, task_index, trained=trained)
            _, update, _ = stored.visit(kind, task_index, trained=trained)
            assert (update is None) is (expected is None)
            if update is not None and expected is not None:
                assert update.features_S.tobytes() == expected.features_S.tobytes()
            data = dump_state(stored.state(), types)
            assert data == dump_state(living.state(), types)
            stored.states[0] = load_state(data, types)


@every_method
def test_the_memory_of_a_state_is_dense(variant: str):
    """A tensor with gaps would come back without them, in another order of summing perhaps."""
    bench = bench_of(variant, spec=NORMED)
    bench.live_through(3)
    bench.visit(VisitKind.TRAIN, 3)

    def look(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            assert value.is_contiguous()
        for part in value if isinstance(value, tuple) else ():
            look(part)
        for name in getattr(type(value), "__dataclass_fields__", ()):
            look(getattr(value, name))

    look(bench.state().memory)


@every_method
def test_a_method_keeps_no_less_as_tasks_go_by(variant: str):
    bench = bench_of(variant)
    kept = [bench.method.kept_bytes(bench.order(VisitKind.TRAIN, t).facts) for t in range(4)]
    assert kept[0] == 0
    assert kept == sorted(kept)


@every_method
def test_the_peak_of_a_visit_is_at_least_what_is_resident(variant: str):
    """A payload takes room only where one is downloaded."""
    bench = bench_of(variant)
    for order, _ in bench.live_through(3):
        plan, costs = plan_visit(order, bench.method), bench.method.costs
        payload_bytes = 0 if bench.method.federated else costs.model_bytes
        assert plan.peak_memory_bytes + payload_bytes >= costs.resident_bytes(order.facts)


def test_a_method_that_does_not_refine_refuses_to():
    method: Method = Bench("fedavg").method
    facts = Bench("fedavg").order(VisitKind.REFINE).facts
    with pytest.raises(NotImplementedError, match="FedAvg does not refine"):
        method.plan_refine(facts)
    with pytest.raises(NotImplementedError, match="FedAvg does not refine"):
        method.refine(Bench("fedavg").learner, Bench("fedavg").state(), task_data(), facts)


def test_local_sends_nothing():
    bench = Bench("local")
    _, update, _ = bench.visit(VisitKind.TRAIN)
    assert (update, bench.method.federated) == (None, False)


def test_fedavg_keeps_nothing_of_a_task():
    bench = Bench("fedavg")
    bench.live_through(2)
    assert bench.state().memory is None
