"""A FedKNOW client without its oldest tasks: what is gone, what is left, and what that makes of plans and visits."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from workbench import DRY, INTEGRATIONS, Bench, steps_of

from fedknow_ray.federation.visit import VisitKind, VisitReport, plan_visit
from fedknow_ray.methods.fedknow.knowledge import FedKnowMemory, hears
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.method import VisitFacts

TRAIN, REFINE, FINISH = VisitKind.TRAIN, VisitKind.REFINE, VisitKind.FINISH_TASK


def checked(bench: Bench, kind: VisitKind, task_index: int, **where: Any) -> VisitReport:
    """Make a visit whose counted work must be the planned one."""
    order, _, report = bench.visit(kind, task_index, **where)
    assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work), order
    return report


def learn(bench: Bench, tasks: int) -> None:
    """Learn so many tasks without evicting anything."""
    for task_index in range(tasks):
        checked(bench, TRAIN, task_index)
        checked(bench, FINISH, task_index, round_index=1, trained=True)


def memory(bench: Bench) -> FedKnowMemory:
    held = bench.state().memory
    assert isinstance(held, FedKnowMemory)
    return held


def tasks_of(held: FedKnowMemory) -> list[int]:
    return [one.task_index for one in held.knowledge]


@pytest.mark.parametrize(
    ("variant", "k", "masks", "selection"),
    [
        *product(["paper", "tuned"], [1, 2, 10], ["overlapping", "disjoint"], ["wasserstein"]),
        *product(["tuned"], [1, 2], ["overlapping"], ["wasserstein_sorted", "cosine", "oldest", "random"]),
    ],
)
def test_the_work_counted_is_the_work_planned(variant: str, k: int, masks: str, selection: str):
    """Tasks go between tasks, before and after a task's first visit, in a row, and at its end; then all are gone."""
    hyper = {"variant": variant, "signature_tasks": k, "masks": masks, "selection": selection}
    bench = Bench("fedknow", {**hyper, "retained_fraction": 0.1, "second_use": "on_receive"}, images=12, tasks=6)
    learn(bench, 4)
    checked(bench, TRAIN, 4, evicted_tasks=1)
    checked(bench, TRAIN, 4, round_index=1, trained=True, evicted_tasks=2, newly_evicted=1)
    checked(bench, TRAIN, 4, round_index=2, trained=True, evicted_tasks=3, newly_evicted=1)
    checked(bench, TRAIN, 4, round_index=3, trained=True, evicted_tasks=3)
    assert memory(bench).chosen == (3,)
    checked(bench, FINISH, 4, round_index=4, trained=True, evicted_tasks=4)
    assert tasks_of(memory(bench)) == [4]
    checked(bench, TRAIN, 5, evicted_tasks=5)
    checked(bench, TRAIN, 5, round_index=1, trained=True, evicted_tasks=5)
    checked(bench, FINISH, 5, round_index=2, trained=True, evicted_tasks=5)
    assert tasks_of(memory(bench)) == [5]


@pytest.mark.parametrize("past_heads", ["frozen", "trained"])
@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_the_work_counted_is_the_work_planned_for_each_integration(integration: str, past_heads: str):
    """A refining visit throws away, too, and the training visit after it knows."""
    hyper = {"integration": integration, "past_heads": past_heads, "second_use": "after_aggregation"}
    bench = Bench("fedknow", {**hyper, "signature_tasks": 2}, images=12)
    learn(bench, 3)
    checked(bench, TRAIN, 3)
    checked(bench, REFINE, 3, trained=True, evicted_tasks=2)
    checked(bench, TRAIN, 3, round_index=1, trained=True, evicted_tasks=2, newly_evicted=2)
    assert memory(bench).chosen == (2,)
    checked(bench, FINISH, 3, round_index=2, trained=True, evicted_tasks=2)


def test_the_labels_of_evicted_tasks_go_with_them_and_the_others_stay():
    """All three past tasks were heard, so nothing is labelled anew."""
    bench = Bench("fedknow")
    learn(bench, 3)
    checked(bench, TRAIN, 3)
    labels = memory(bench).labels_NC
    report = checked(bench, TRAIN, 3, round_index=1, trained=True, evicted_tasks=2, newly_evicted=2)
    assert (memory(bench).chosen, tasks_of(memory(bench))) == ((2,), [2])
    assert memory(bench).labels_NC[0] is labels[2]
    assert not any(item.phase == "teach" for item in report.work.items)


def test_where_only_some_were_heard_those_that_are_left_are_heard_anew():
    """Of three past tasks the oldest one was heard, which is gone: the labels are those of a first visit."""
    bench, other = (Bench("fedknow", {"signature_tasks": 1, "selection": "oldest"}) for _ in range(2))
    for each in (bench, other):
        learn(each, 3)
    checked(bench, TRAIN, 3)
    assert memory(bench).chosen == (0,)
    checked(bench, TRAIN, 3, round_index=1, trained=True, evicted_tasks=2, newly_evicted=2)
    checked(other, TRAIN, 3, evicted_tasks=2)
    assert memory(bench).chosen == memory(other).chosen == (2,)
    torch.testing.assert_close(memory(bench).labels_NC, memory(other).labels_NC, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("trained", "evicted", "newly", "hears_anew"),
    [
        (False, 0, 0, True),
        (False, 3, 0, True),
        (True, 0, 0, False),
        (True, 3, 0, False),
        (True, 3, 3, True),
        (True, 4, 1, False),
    ],
)
def test_who_hears(trained: bool, evicted: int, newly: int, hears_anew: bool):
    """Of five past tasks two are heard: those that are left after three went from five, or one from two."""
    facts = VisitFacts(0, 5, 1, 12, 2, trained, evicted_tasks=evicted, newly_evicted=newly)
    assert hears(facts, FedKnowSettings(signature_tasks=2)) is hears_anew


def test_each_task_that_is_left_keeps_its_own_head_rows():
    """Those of the newest of three past tasks are trained, and no others."""
    bench = Bench("fedknow", {"past_heads": "trained"}, spec=DRY)
    learn(bench, 3)
    before = bench.state().head_CF
    checked(bench, TRAIN, 3, evicted_tasks=2)
    moved = [not np.array_equal(bench.state().head_CF[row], before[row]) for row in range(8)]
    assert moved == [False] * 4 + [True] * 4


@pytest.mark.parametrize("variant", ["tuned", "paper"])
def test_without_any_past_task_a_visit_is_fedavgs_to_the_bit(variant: str):
    fedknow, fedavg = Bench("fedknow", {"variant": variant}), Bench("fedavg")
    learn(fedknow, 3)
    fedavg.states = {0: fedknow.state()}
    _, expected, _ = fedavg.visit(TRAIN, 3)
    _, update, report = fedknow.visit(TRAIN, 3, evicted_tasks=3)
    assert update is not None
    assert expected is not None
    np.testing.assert_array_equal(update.features_S, expected.features_S)
    assert report.integrated_steps is None
    assert memory(fedknow).knowledge == ()


def test_with_disjoint_masks_the_weights_of_evicted_tasks_are_free_again():
    """A tenth of 267 weights, 27, belongs to each of two tasks; without the first its weights may be taken."""
    kept = []
    for evicted in (0, 2):
        bench = Bench("fedknow", {"variant": "paper", "masks": "disjoint", "retained_fraction": 0.4}, tasks=3)
        learn(bench, 2)
        checked(bench, TRAIN, 2)
        checked(bench, FINISH, 2, round_index=1, trained=True, evicted_tasks=evicted)
        kept.append(memory(bench).knowledge[-1].values.numel())
    # ceil(0.4 * 267) = 107 a task: of 267 the third finds 53 free, and 107 where nothing is taken; 8 biases beside
    assert kept == [53 + 8, 107 + 8]


def test_what_is_kept_shrinks_by_a_knowledge_and_its_labels():
    """137 bytes of weights and two head rows of 6 a past task, and 20 images with 2 probabilities for each of two."""
    bench = Bench("fedknow", {"signature_tasks": 2})
    facts = [bench.order(TRAIN, 4, evicted_tasks=n).facts for n in range(5)]
    assert [bench.method.stored_bytes(one) for one in facts] == [185 * n for n in (4, 3, 2, 1, 0)]
    labels = [bench.method.kept_bytes(one) - bench.method.stored_bytes(one) for one in facts]
    assert labels == [4 * 20 * 2 * n for n in (2, 2, 2, 1, 0)]


@pytest.mark.parametrize("variant", ["tuned", "paper"])
@pytest.mark.parametrize("k", [1, 2, 10])
@pytest.mark.parametrize("kind", [TRAIN, FINISH])
def test_the_peak_never_grows_as_tasks_go(variant: str, k: int, kind: VisitKind):
    bench = Bench("fedknow", {"variant": variant, "signature_tasks": k})
    peaks = [
        plan_visit(bench.order(kind, 4, trained=trained, evicted_tasks=n), bench.method).peak_memory_bytes
        for trained in (False, True)
        for n in range(5)
    ]
    for each in (peaks[:5], peaks[5:]):
        assert each == sorted(each, reverse=True)
        # the end of a task of `tuned` is its largest where it trains the head, without labels
        assert each[0] > each[-1] or (variant, kind) == ("tuned", FINISH)


def test_the_papers_peak_falls_by_a_gradient_and_labels_for_each_task():
    """4 x 275 bytes of a gradient, 4 x 20 x 2 of labels; the last one leaves no row for g either."""
    bench = Bench("fedknow", {"variant": "paper", "second_use": "off"})
    peaks = [
        bench.method.plan_train(bench.order(TRAIN, 3, trained=True, evicted_tasks=n).facts).peak_memory_bytes
        for n in range(4)
    ]
    assert np.diff(peaks).tolist() == [-(1100 + 160), -(1100 + 160), -(2200 + 160)]


def test_only_restoring_variants_evict():
    hypers = ({"variant": "tuned"}, {"variant": "paper"}, {"variant": "authors_code"})
    assert [Bench("fedknow", hyper).method.evicts for hyper in hypers] == [True, True, False]
    assert [Bench(name).method.evicts for name in ("fedavg", "local")] == [False, False]
