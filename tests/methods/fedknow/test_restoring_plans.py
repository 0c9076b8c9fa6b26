"""What visits of FedKNOW's variants `tuned` and `paper` are planned to cost: work, kept bytes, and memory."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
from workbench import DRY, INTEGRATIONS, Bench, steps_of, training

from fedknow_ray.config.model import SgdOptimizer
from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.method import Method, VisitFacts


@pytest.mark.parametrize(
    ("integration", "past_heads", "second_use", "selection"),
    list(
        product(
            INTEGRATIONS,
            ["frozen", "trained"],
            ["on_receive", "after_aggregation", "displacement", "off"],
            ["wasserstein", "oldest"],
        )
    ),
)
def test_the_work_counted_is_the_work_planned(integration: str, past_heads: str, second_use: str, selection: str):
    """With none, one and two past tasks of which one is heard, in first and later visits; two sizes of batches."""
    hyper = {"integration": integration, "past_heads": past_heads, "second_use": second_use, "selection": selection}
    bench = Bench("fedknow", {**hyper, "signature_tasks": 1, "retrain_epochs": 0}, images=12)
    for task_index in range(3):
        for round_index, kind in enumerate(
            [VisitKind.TRAIN, *([VisitKind.REFINE] if bench.method.refines else []), VisitKind.TRAIN]
        ):
            order, _, report = bench.visit(kind, task_index, round_index=round_index, trained=round_index > 0)
            assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work), order
        order, _, report = bench.visit(VisitKind.FINISH_TASK, task_index, round_index=3, trained=True)
        assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work), order


@pytest.mark.parametrize("selection", ["wasserstein", "wasserstein_sorted", "cosine", "oldest", "random"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_work_counted_is_the_work_planned_for_each_choice(selection: str, k: int):
    """With up to four past tasks, in first and later visits."""
    bench = Bench("fedknow", {"selection": selection, "signature_tasks": k}, tasks=5)
    for task_index in range(5):
        for round_index in range(2):
            order, _, report = bench.visit(
                VisitKind.TRAIN, task_index, round_index=round_index, trained=round_index > 0
            )
            assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work), order
        bench.visit(VisitKind.FINISH_TASK, task_index, round_index=2, trained=True)


@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_one_past_task_more_costs_a_first_visit_one_batch_and_later_ones_nothing(integration: str):
    """With k chosen of t: its model read (w = 4 x 275 bytes, stored in 137 and a head of 48), 8 images forward, a
    backward pass from its 2 head rows of 5 weights, and a distance that reads two gradients."""
    bench = Bench("fedknow", {"integration": integration, "signature_tasks": 2}, spec=DRY)
    f, w = bench.method.costs.footprint, 4 * 275
    further = [
        ("teach", 0, w, 185),
        ("teach", 8 * f.forward_flops + 2 * 8 * 5 * 2, w + 8 * (f.input_bytes + f.kept_bytes)),
        ("select", 8 * f.backward_flops + 4 * 8 * 5 * 2, 2 * w + 8 * f.kept_bytes),
        ("select", 0, 2 * w),
    ]

    def planned(t: int, *, later: bool) -> Counter[tuple[str, int, int]]:
        return steps_of(bench.method.plan_train(bench.order(VisitKind.TRAIN, t, trained=later).facts).work)

    for t in (3, 4, 8):
        assert planned(t + 1, later=False) == planned(t, later=False) + Counter(further)
        assert planned(t + 1, later=True) == planned(t, later=True)


@pytest.mark.parametrize("selection", ["oldest", "random"])
def test_without_distances_work_is_flat_in_the_number_of_past_tasks(selection: str):
    bench = Bench("fedknow", {"selection": selection, "signature_tasks": 2})
    works = [bench.method.plan_train(bench.order(VisitKind.TRAIN, t).facts).work for t in (2, 3, 9)]
    assert works[0] == works[1] == works[2]


def test_a_displacement_is_planned_once_a_visit_in_second_use():
    """Two vectors read and one written, of 275 weights: 3300 bytes; none in the first visit of a task."""
    bench = Bench("fedknow", {"second_use": "displacement"})
    for later in (False, True):
        facts = bench.order(VisitKind.TRAIN, 1, trained=later).facts
        steps = steps_of(bench.method.plan_train(facts).work)
        assert steps["second_use", 0, 3300] == later


def test_kept_bytes_count_the_labels_of_signature_tasks_alone():
    """137 bytes of weights and two head rows of 6 a past task; 20 images with 2 probabilities for each of two."""
    bench = Bench("fedknow", {"signature_tasks": 2})
    kept = [bench.method.kept_bytes(bench.order(VisitKind.TRAIN, t).facts) for t in range(5)]
    assert kept == [(137 + 48) * t + 4 * 20 * 2 * min(t, 2) for t in range(5)]


@pytest.mark.parametrize(
    ("variant", "weights"), [("tuned", 137), ("paper", 4 * 28 + 34)], ids=["all at 4 bits", "a tenth at 32"]
)
def test_kept_bytes_grow_by_a_knowledge_and_its_labels_with_each_task(variant: str, weights: int):
    """Of 275 weights all in half a byte each, or 28 in 4 bytes and a bit for each of all; two head rows of 6; 20 images
    with 2 probabilities."""
    bench = Bench("fedknow", {"variant": variant})
    kept = [bench.method.kept_bytes(bench.order(VisitKind.TRAIN, t).facts) for t in range(4)]
    assert np.diff(kept).tolist() == [weights + 48 + 4 * 20 * 2] * 3


@pytest.mark.parametrize(
    ("settings", "vectors"),
    [
        ({"integration": "sum"}, 0),
        ({"integration": "sum", "signature_tasks": 2}, 0),
        ({"integration": "feature_projection"}, 0),
        ({"integration": "projection"}, 4),
        ({"integration": "projection", "signature_tasks": 2}, 3),
        ({"integration": "projection", "signature_tasks": 1}, 2),
        ({"integration": "sum_then_projection"}, 4),
        ({"integration": "preconditioned"}, 5),
        ({"integration": "sum", "second_use": "on_receive"}, 2),
        ({"integration": "sum", "second_use": "displacement"}, 2),
        ({"integration": "projection", "second_use": "on_receive"}, 4),
    ],
    ids=str,
)
def test_the_peak_is_that_of_training_with_so_many_vectors_of_all_weights_and_the_labels(
    settings: dict[str, Any], vectors: int
):
    """Of a later visit with 3 past tasks. A sum has none; the buffers of the past tasks and of the second use (g and
    its constraint) never exist at once. The knowledge lies on storage."""
    method, facts = (bench := Bench("fedknow", settings)).method, bench.order(VisitKind.TRAIN, 3, trained=True).facts
    expected = method.costs.training_bytes(facts) + vectors * 4 * 275 + labels_of(method, facts)
    assert method.plan_train(facts).peak_memory_bytes == expected


def labels_of(method: Method, facts: VisitFacts) -> int:
    return method.kept_bytes(facts) - method.stored_bytes(facts)


@pytest.mark.parametrize(
    ("settings", "vectors"), [({}, 1), ({"signature_tasks": 2}, 3), ({"signature_tasks": 2, "selection": "oldest"}, 1)]
)
def test_the_first_visit_holds_one_past_model_and_its_knowledge_as_it_was_read(settings: dict[str, Any], vectors: int):
    """More than plain training with SGD, which has but a gradient; measuring distances takes two gradients more."""
    config = training(optimizer=SgdOptimizer(lr=0.1))
    method = (bench := Bench("fedknow", {"integration": "sum", **settings}, config=config)).method
    facts = bench.order(VisitKind.TRAIN, 3).facts
    resident, activations = method.costs.resident_bytes(facts), 8 * method.costs.footprint.kept_bytes
    hearing = resident + vectors * 4 * 275 + (137 + 48) + activations
    expected = max(hearing, method.costs.training_bytes(facts)) + labels_of(method, facts)
    assert method.plan_train(facts).peak_memory_bytes == expected
    assert vectors == 1 or expected > method.costs.training_bytes(facts) + labels_of(method, facts)


def test_without_past_and_second_use_the_peak_is_that_of_plain_training():
    bench = Bench("fedknow", {"integration": "projection"})
    facts = bench.order(VisitKind.TRAIN, 0, trained=True).facts
    assert bench.method.plan_train(facts).peak_memory_bytes == bench.method.costs.training_bytes(facts)


@pytest.mark.parametrize(("masks", "vectors"), [("overlapping", 1), ("disjoint", 2)])
def test_the_end_of_a_task_holds_masks_besides_retraining_and_the_labels(masks: str, vectors: int):
    bench = Bench("fedknow", {"variant": "paper", "masks": masks})
    facts = bench.order(VisitKind.FINISH_TASK, 2, trained=True).facts
    expected = bench.method.costs.training_bytes(facts) + labels_of(bench.method, facts) + vectors * 275
    assert bench.method.plan_finish(facts).peak_memory_bytes == expected


def test_without_retraining_the_end_of_a_task_holds_the_knowledge_that_is_stored():
    bench = Bench("fedknow", {"retrain_epochs": 0})
    facts = bench.order(VisitKind.FINISH_TASK, 2, trained=True).facts
    expected = bench.method.costs.resident_bytes(facts) + (137 + 48) + 275 + labels_of(bench.method, facts)
    assert bench.method.plan_finish(facts).peak_memory_bytes == expected
