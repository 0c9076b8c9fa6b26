"""Prices of single steps, by hand for a network with round numbers; repeating and logging."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workbench import training

from fedknow_ray.config.model import AdamOptimizer, SgdOptimizer
from fedknow_ray.methods.costs import StepCosts, WorkLog, repeat
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.models.footprint import Footprint
from fedknow_ray.simulation.work import WorkItem

FOOTPRINT = Footprint(P=100, B=4, F=10, forward_flops=1000, backward_flops=1900, kept_bytes=50, input_bytes=7)
FACTS = VisitFacts(client_id=0, task_index=0, round_index=0, images=20, classes=2, trained_this_task=False)


def costs(optimizer: AdamOptimizer | SgdOptimizer | None = None, **changes: int) -> StepCosts:
    return StepCosts(FOOTPRINT, training(optimizer=optimizer or AdamOptimizer(), **changes))


def test_forward():
    """3 images: 3 x 1000 and a head of 2 x 3 x 10 x 2 FLOPs; weights once, images and activations once."""
    assert costs().forward("x", 3, 2) == WorkItem("x", 1, 3000 + 120, 400 + 3 * (7 + 50))


def test_forward_and_backward():
    """The head thrice; weights twice and gradients once; activations written and read."""
    assert costs().forward_backward("x", 3, 2) == WorkItem("x", 1, 3 * 2900 + 3 * 120, 3 * 400 + 3 * (7 + 100))


def test_one_more_backward():
    """Features only: a frozen head is multiplied forward and for the features."""
    assert costs().backward("x", 3, 2) == WorkItem("x", 1, 3 * 1900 + 2 * 120, 2 * 400 + 3 * 50)


def test_through_further_heads():
    """6 rows: logits and the gradient for 10 features, 2 x 3 x 10 x 6 FLOPs each; the rows of 11 read twice."""
    assert costs().through_heads("x", 3, 6) == WorkItem("x", 1, 360 + 360, 4 * 2 * 6 * 11)


@pytest.mark.parametrize(
    ("optimizer", "passes"),
    [(AdamOptimizer(), 7), (SgdOptimizer(), 3), (SgdOptimizer(momentum=0.9), 5)],
    ids=["adam", "sgd", "momentum"],
)
def test_updating_further_heads(optimizer: AdamOptimizer | SgdOptimizer, passes: int):
    """6 rows of 11: their gradient is one product and one write, then the optimizer's step."""
    assert costs(optimizer).update_head("x", 3, 6) == WorkItem("x", 1, 360, 4 * 6 * 11 * (1 + passes))


@pytest.mark.parametrize(
    ("optimizer", "passes"),
    [(AdamOptimizer(), 7), (SgdOptimizer(), 3), (SgdOptimizer(momentum=0.9), 5)],
    ids=["adam", "sgd", "momentum"],
)
def test_optimizer_step(optimizer: AdamOptimizer | SgdOptimizer, passes: int):
    """100 weights and two head rows of 11, 4 bytes each."""
    assert costs(optimizer).optimize(2) == WorkItem("optimize", 1, 0, passes * 4 * 122)


def test_passes_over_the_weights():
    assert costs().passes("prune", 4) == WorkItem("prune", 1, 0, 1600)


def test_head_step():
    """Head forward and its own gradient (not the features'); features twice, the head 2 + 7 times."""
    assert costs().head_step(3, 2) == WorkItem("head", 1, 120 + 120, 4 * 3 * 10 * 2 + 4 * 22 * 9)


@pytest.mark.parametrize(("images", "sizes"), [(20, [8, 8, 4]), (16, [8, 8]), (8, [8]), (5, [5]), (1, [1])])
def test_batches(images: int, sizes: list[int]):
    assert costs().batches(images) == sizes


def test_training_epochs_merge_equal_steps():
    """20 images in batches of 8, two epochs: 4 steps of 8, 2 of 4, 6 of the optimizer."""
    work = costs().training_epochs("train", 20, 2, 2)
    assert [(item.phase, item.count) for item in work.items] == [("train", 4), ("optimize", 6), ("train", 2)]


def test_evaluation_is_a_forward_pass_of_every_test_image():
    """20 images in batches of 8, 8 and 4; none, no work."""
    facts = replace(FACTS, test_images=20)
    expected = [costs().forward("evaluate", n, 2) for n in (8, 8, 4)]
    assert costs().evaluation(facts) == repeat(expected, 1)
    assert [item.count for item in costs().evaluation(facts).items] == [2, 1]
    assert costs().evaluation(FACTS).items == ()


def test_storage_stands_beside_the_passes_over_the_weights():
    assert costs().stored("store", 2, 77) == WorkItem("store", 1, 0, 800, 77)


def test_resident_bytes():
    """The model twice (working copy and payload), two head rows of 11, and 20 images."""
    assert costs().resident_bytes(FACTS) == 2 * 4 * 104 + 4 * 22 + 20 * 7


def test_a_client_that_has_a_model_of_its_own_holds_it_too():
    for facts, heads in ((replace(FACTS, trained_this_task=True), 2), (replace(FACTS, task_index=2), 6)):
        assert costs().resident_bytes(facts) == 3 * 4 * 104 + heads * 44 + 20 * 7


def test_head_training_bytes():
    """10 outputs of each of 20 images; then 8 images on their way to them are more than the head's three copies."""
    resident = costs().resident_bytes(FACTS)
    assert costs().head_training_bytes(FACTS) == resident + 20 * 40 + max(8 * 50, 3 * 88)
    assert costs(batch_size=4).head_training_bytes(FACTS) == resident + 20 * 40 + max(4 * 50, 3 * 88)


def test_evaluation_bytes():
    """A batch of 8 of the test images, or as many as there are."""
    resident = costs().resident_bytes(FACTS)
    assert costs().evaluation_bytes(replace(FACTS, test_images=30)) == resident + 8 * 57
    assert costs().evaluation_bytes(replace(FACTS, test_images=3)) == resident + 3 * 57


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [(AdamOptimizer(), 3), (SgdOptimizer(), 1), (SgdOptimizer(momentum=0.9), 2)],
    ids=["adam", "sgd", "momentum"],
)
def test_training_bytes(optimizer: AdamOptimizer | SgdOptimizer, copies: int):
    """Gradients and the optimizer's states, and the activations of one batch of 8."""
    assert costs(optimizer).training_bytes(FACTS) == 1060 + copies * 4 * 122 + 8 * 50


def test_activations_of_a_batch_larger_than_the_data_do_not_exist():
    few = VisitFacts(0, 0, 0, images=3, classes=2, trained_this_task=False)
    assert costs(SgdOptimizer()).training_bytes(few) == costs().resident_bytes(few) + 4 * 122 + 3 * 50


def test_repeating_no_times_is_no_work():
    assert repeat([WorkItem("x", 1, 2, 3)], 0).items == ()


few = st.integers(0, 2)
items = st.builds(WorkItem, st.sampled_from("ab"), st.integers(1, 3), few, few, few)


@given(st.lists(items, max_size=6), st.integers(0, 4))
def test_repeating_multiplies_the_totals(steps: list[WorkItem], times: int):
    work = repeat(steps, times)
    assert work.flops == times * sum(item.count * item.flops for item in steps)
    assert work.moved_bytes == times * sum(item.count * item.moved_bytes for item in steps)
    assert work.stored_bytes == times * sum(item.count * item.stored_bytes for item in steps)


@given(st.lists(items, max_size=6), st.randoms(use_true_random=False))
def test_a_log_counts_steps_in_any_order(steps: list[WorkItem], random: object):
    log, shuffled = WorkLog(), list(steps)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for item in shuffled:
        log.add(item)
    assert {i.step: i.count for i in log.work().items} == {i.step: i.count for i in repeat(steps, 1).items}
