"""What a FedKNOW client keeps: exact shares, pruned weights that stay 0, what its signature tasks say once a task."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from twins import kept, past_learner, present
from workbench import ADAM, CLASSES, DRY, NORMED, SGD, TINY, Bench, make_learner, steps_of, task_data, training

from fedknow_ray.config.model import AdamOptimizer, SgdOptimizer
from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.extractor import Knowledge, keep_mask, pack, restore_mask, restore_weights
from fedknow_ray.methods.fedknow.knowledge import (
    FedKnowMemory,
    extract,
    hear_past_tasks,
    plan_hearing,
)
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.storage import knowledge_bytes
from fedknow_ray.methods.fedknow.teaching import labels_of
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.models.catalogue import MODELS, ModelSpec
from fedknow_ray.models.footprint import measure_footprint
from fedknow_ray.models.network import FlatNetwork

PRUNABLE, BIASES = 27 + 240, 3 + 5


#: A tenth of the weights, exactly, trained again for two epochs.
PAPER: dict[str, Any] = {"variant": "paper"}


def paper(**settings: Any) -> FedKnowSettings:
    return FedKnowSettings(**{**PAPER, **settings})


def facts(task_index: int = 0) -> VisitFacts:
    return VisitFacts(0, task_index, 0, 20, CLASSES, trained_this_task=True)


def extracted(learner: Learner, memory: FedKnowMemory | None = None, task_index: int = 0, **settings: Any) -> Knowledge:
    return extract(learner, memory or FedKnowMemory(), task_data(), facts(task_index), paper(**settings))[0]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_exactly_the_asked_share_is_kept(fraction: float, optimizer: AdamOptimizer | SgdOptimizer):
    knowledge = extracted(make_learner(config=training(optimizer=optimizer)), retained_fraction=fraction)
    assert int(restore_mask(knowledge, 275).sum()) == math.ceil(fraction * PRUNABLE) + BIASES
    assert knowledge.values.numel() == math.ceil(fraction * PRUNABLE) + BIASES


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("spec", [TINY, NORMED], ids=lambda spec: spec.name)
def test_pruned_weights_stay_zero_while_the_kept_ones_train(optimizer: AdamOptimizer | SgdOptimizer, spec: ModelSpec):
    """With weight decay and momentum, which would move them."""
    learner = make_learner(spec, training(optimizer=optimizer))
    before = learner.network.theta.clone()
    knowledge = extracted(learner)
    P = learner.network.P
    mask_P = restore_mask(knowledge, P)
    assert not bool(learner.network.theta[:P][~mask_P].any())
    moved = learner.network.theta[:P][mask_P] != before[:P][mask_P]
    assert float(moved.float().mean()) > 0.5
    assert not torch.equal(learner.network.head, before[P:].view(CLASSES, 6))


def test_without_retraining_the_kept_weights_are_the_models():
    learner = make_learner()
    before = learner.network.theta.clone()
    knowledge = extracted(learner, retrain_epochs=0)
    mask_P = restore_mask(knowledge, 275)
    torch.testing.assert_close(restore_weights(knowledge, 275), before[:275] * mask_P, rtol=0, atol=0)
    torch.testing.assert_close(knowledge.head, before[275:].view(CLASSES, 6), rtol=0, atol=0)


def test_what_is_stored_is_the_retrained_model():
    learner = make_learner(NORMED)
    knowledge = extracted(learner)
    network = learner.network
    torch.testing.assert_close(restore_weights(knowledge, network.P), network.theta[: network.P], rtol=0, atol=0)
    torch.testing.assert_close(knowledge.head, network.head, rtol=0, atol=0)
    torch.testing.assert_close(knowledge.statistics, network.buffers, rtol=0, atol=0)


def test_the_kept_weights_are_the_largest_of_the_network():
    learner = make_learner()
    size = learner.network.theta[:275].abs().clone()
    mask_P = restore_mask(extracted(learner, retrain_epochs=0), 275)
    prunable = torch.ones(275, dtype=torch.bool)
    prunable[27:30] = prunable[270:] = False
    assert size[mask_P & prunable].min() >= size[~mask_P & prunable].max()


def test_a_threshold_for_each_layer_keeps_the_share_in_each():
    mask_P = restore_mask(extracted(make_learner(), threshold="layer", retained_fraction=0.1), 275)
    assert (int(mask_P[:27].sum()), int(mask_P[30:270].sum())) == (3, 24)


def test_disjoint_masks_share_no_prunable_weight():
    first = extracted(make_learner(), masks="disjoint")
    second = extracted(make_learner(), FedKnowMemory((first,)), 1, masks="disjoint")
    both = restore_mask(first, 275) & restore_mask(second, 275)
    assert int(both.sum()) == BIASES
    assert second.values.numel() == first.values.numel()


def hearing(task_index: int = 4, **settings: Any) -> tuple[Learner, FedKnowMemory, FedKnowMemory]:
    """A learner that has heard its past tasks at its first visit in a task, and its memory before and after."""
    learner = make_learner(DRY)
    memory = FedKnowMemory(tuple(kept(past_learner(task=task), task) for task in range(task_index)))
    return learner, memory, hear_past_tasks(learner, memory, present(task_index), facts(task_index), paper(**settings))


@pytest.mark.parametrize("selection", ["wasserstein", "wasserstein_sorted", "cosine", "oldest", "random"])
def test_only_the_chosen_tasks_label_all_images(selection: str):
    """In their order; a choice by gradients has each past task label one batch besides."""
    learner, memory, heard = hearing(signature_tasks=2, selection=selection)
    assert heard.labelled_task == 4
    assert len(heard.chosen) == len(heard.labels_NC) == 2
    assert list(heard.chosen) == sorted(heard.chosen)
    for task, labels_NC in zip(heard.chosen, heard.labels_NC, strict=True):
        expected = labels_of(make_learner(DRY), memory.knowledge[task], present(4), paper())
        assert torch.equal(labels_NC, expected)
    last_batch = learner.costs.forward("teach", 20 % 8, CLASSES)
    assert steps_of(learner.log.work())["teach", last_batch.flops, last_batch.moved_bytes] == 2


@pytest.mark.parametrize(("task_index", "k"), [(0, 2), (1, 2), (2, 2), (4, 10)])
def test_no_more_past_tasks_than_wanted_are_all_heard(task_index: int, k: int):
    _, _, heard = hearing(task_index, signature_tasks=k)
    assert heard.chosen == tuple(range(task_index))
    assert len(heard.labels_NC) == task_index


def test_hearing_keeps_all_knowledge():
    _, memory, heard = hearing(signature_tasks=2)
    assert heard.knowledge is memory.knowledge


def test_past_tasks_are_heard_once_a_task():
    """With work at the first visit alone."""
    learner, _, heard = hearing(signature_tasks=2)
    done = steps_of(learner.log.work())
    settings = paper(signature_tasks=2)
    assert hear_past_tasks(learner, heard, present(4), facts(4), settings) is heard
    assert steps_of(learner.log.work()) == done


def test_the_next_task_has_a_choice_of_its_own():
    learner, _, heard = hearing(3, signature_tasks=2, selection="random")
    memory = replace(heard, knowledge=(*heard.knowledge, kept(past_learner(task=3), 3)))
    learner.begin(np.random.default_rng(11))
    anew = hear_past_tasks(learner, memory, present(4), facts(4), paper(signature_tasks=2, selection="random"))
    expected = np.random.default_rng(11).choice(4, size=2, replace=False)
    assert anew.labelled_task == 4
    assert anew.chosen == tuple(sorted(expected.tolist()))


@pytest.mark.parametrize("selection", ["wasserstein", "wasserstein_sorted", "cosine", "oldest", "random"])
@pytest.mark.parametrize(("task_index", "k"), [(0, 2), (1, 2), (2, 2), (4, 2), (4, 1)])
def test_the_work_counted_in_hearing_is_the_work_planned(selection: str, task_index: int, k: int):
    learner, _, _ = hearing(task_index, signature_tasks=k, selection=selection)
    planned = plan_hearing(learner.costs, facts(task_index), paper(signature_tasks=k, selection=selection))
    assert steps_of(learner.log.work()) == steps_of(planned)


def test_the_end_of_a_task_drops_its_labels_and_adds_its_knowledge():
    bench = Bench("fedknow")
    bench.live_through(2)
    memory = bench.state().memory
    assert [knowledge.task_index for knowledge in memory.knowledge] == [0, 1]
    assert [knowledge.class_rows for knowledge in memory.knowledge] == [(0, 2), (2, 4)]
    assert (memory.labelled_task, memory.chosen, memory.labels_NC) == (-1, (), ())


def test_extraction_leaves_the_clients_own_model_whole():
    """Knowledge is a pruned copy; the model that is scored is not pruned."""
    bench = Bench("fedknow", PAPER)
    bench.visit(VisitKind.TRAIN)
    before = bench.state()
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    np.testing.assert_array_equal(bench.state().own_S, before.own_S)
    np.testing.assert_array_equal(bench.state().head_CF, before.head_CF)


def test_stored_bytes_are_about_those_that_are_priced():
    """Priced: 27 values of 4 bytes, 275 bits, 12 head values; stored besides: 8 biases and three indices."""
    learner = make_learner(DRY)
    settings = FedKnowSettings(variant="paper")
    priced = knowledge_bytes(learner.costs, CLASSES, settings)
    assert priced == 4 * round(0.1 * 275) + 275 // 8 + 4 * 12
    assert abs(extracted(learner).stored_bytes - priced) <= 4 * BIASES + 4 * 8 + 1


@pytest.mark.parametrize(("fraction", "bits"), [(0.1, 32), (0.5, 32), (1.0, 32), (0.5, 8), (1.0, 4)])
def test_for_cnn6_priced_and_stored_bytes_agree_within_a_percent(fraction: float, bits: int):
    """10 classes of 32 x 32 images in colour, as CIFAR-100 in ten tasks."""
    size = {"height": 32, "width": 32, "channels": 3}
    cnn6 = MODELS.get("cnn6")
    network = FlatNetwork(cnn6, **size, rows=10)
    costs = StepCosts(measure_footprint(cnn6, **size), training())
    w_P, layout = network.theta[: network.P], network.layout
    mask_P = keep_mask(w_P, layout, fraction)
    stored = pack(0, (0, 10), w_P, mask_P, network.head, network.buffers, layout=layout, bits=bits).stored_bytes
    settings = FedKnowSettings(retained_fraction=fraction, stored_bits=bits)
    assert knowledge_bytes(costs, 10, settings) == pytest.approx(stored, rel=0.01)


def test_the_loss_of_the_last_retraining_epoch_says_how_good_the_knowledge_is():
    """Without retraining there is none; more epochs make it smaller."""
    losses = []
    for epochs in (0, 1, 8):
        learner = make_learner(DRY)
        settings = FedKnowSettings(retrain_epochs=epochs)
        losses.append(extract(learner, FedKnowMemory(), task_data(), facts(0), settings)[1])
    assert losses[0] is None
    assert losses[2] < losses[1]
