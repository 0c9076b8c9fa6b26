"""Whole visits of FedKNOW's variants `tuned` and `paper`: what they report, keep and change."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from choosing import choose
from torch import Tensor
from twins import batch_of, logits_of, obvious_gradient, obvious_own_gradient, soft_loss
from workbench import (
    ADAM,
    CLASSES,
    DRY,
    INTEGRATIONS,
    NORMED,
    SGD,
    Bench,
    flat_gradient,
    make_learner,
    steps_of,
    training,
    twin_of,
)

from fedknow_ray.config.model import SgdOptimizer
from fedknow_ray.federation.visit import VisitKind, VisitReport, plan_visit
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.teaching import labels_of
from fedknow_ray.methods.learner import Batch
from fedknow_ray.seeding import stream

PAPER: dict[str, Any] = {"variant": "paper"}
SECOND_USE = {
    "second_use_steps",
    "second_use_violated_steps",
    "second_use_violated_after_steps",
    "own_gradient_norm",
    "own_gradient_cosine",
}


def trained(bench: Bench, task_index: int = 0, **where: Any) -> VisitReport:
    return bench.visit(VisitKind.TRAIN, task_index, **where)[2]


def through(bench: Bench, tasks: int) -> None:
    """Every client's way of so many tasks: two training visits, refining where it is due, and the end."""
    for task_index in range(tasks):
        for round_index in range(2):
            trained(bench, task_index, round_index=round_index, trained=round_index > 0)
            if bench.method.refines:
                bench.visit(VisitKind.REFINE, task_index, round_index=round_index, trained=True)
        bench.visit(VisitKind.FINISH_TASK, task_index, round_index=2, trained=True)


def first_batch(bench: Bench, task_index: int) -> Batch:
    """The batch that a training visit in round 0 of a task begins with."""
    order = bench.order(VisitKind.TRAIN, task_index)
    data, where = bench.data(order), {"client": 0, "task": task_index, "round_index": 0}
    indices = stream(order.seed, "train/order", **where).permutation(20)[:8]
    x_NHWC = bench.learner.normalisation(data.images_NHWC)[torch.from_numpy(indices)]
    return Batch(indices, x_NHWC.permute(0, 3, 1, 2), torch.from_numpy(data.labels_N)[indices])


# What a visit does


def test_the_first_visit_of_a_task_has_no_second_use():
    """The own model is then of another task, whose loss it was trained for."""
    bench = Bench("fedknow", PAPER)
    trained(bench)
    assert trained(bench, round_index=0).notes == {}


@pytest.mark.parametrize("second_use", ["on_receive", "displacement"])
def test_second_use_is_one_epoch_of_a_later_visit(second_use: str):
    """20 images in batches of 8: three steps, which are checked against no past task."""
    bench = Bench("fedknow", {"second_use": second_use})
    trained(bench)
    bench.broadcast.features_S[:] *= 0.5  # an aggregate that is not the own model
    report = trained(bench, round_index=1, trained=True)
    assert report.notes.keys() == SECOND_USE
    assert report.notes["second_use_steps"] == 3
    assert (report.integrated_steps, report.violated_steps) == (None, None)


def test_second_use_and_past_tasks_are_counted_apart():
    """Three steps of the first epoch, three of the second."""
    bench = Bench("fedknow", PAPER)
    through(bench, 1)
    trained(bench, 1)
    report = trained(bench, 1, round_index=1, trained=True)
    assert (report.notes["second_use_steps"], report.integrated_steps) == (3, 3)


def test_a_single_local_epoch_is_all_second_use():
    bench = Bench("fedknow", PAPER, training(local_epochs=1))
    through(bench, 1)
    trained(bench, 1)
    report = trained(bench, 1, round_index=1, trained=True)
    assert (report.notes["second_use_steps"], report.integrated_steps) == (3, None)


def test_second_use_is_an_epoch_of_the_gradient_with_the_own_constraint(seen: list[Tensor]):
    """Through a whole visit: the displacement is the broadcast minus the own model of the round before."""
    bench = Bench("fedknow", {"second_use": "displacement"}, spec=DRY)
    trained(bench)
    bench.broadcast.features_S[:] *= 0.5
    expected_P = bench.broadcast.features_S - bench.state().own_S
    trained(bench, round_index=1, trained=True)
    assert len(seen) == 3
    for vectors in seen:
        np.testing.assert_array_equal(vectors[1].numpy(), expected_P)


@pytest.mark.parametrize("integration", ["projection", "preconditioned", "sum_then_projection"])
def test_later_tasks_integrate_in_every_step(integration: str):
    bench = Bench("fedknow", {"integration": integration})
    bench.live_through(2)
    report = trained(bench, 2)
    assert report.integrated_steps == 6
    assert 0 <= report.violated_steps <= 6
    assert report.notes.keys() == {"violated_after_steps"}


def test_a_projection_at_the_features_says_nothing_of_the_update():
    """It knows no gradients of past tasks to hold the update against."""
    bench = Bench("fedknow", {"integration": "feature_projection"})
    bench.live_through(2)
    report = trained(bench, 2)
    assert report.integrated_steps == 6
    assert report.notes == {}


def test_a_sum_checks_no_step():
    bench = Bench("fedknow")
    bench.live_through(2)
    report = trained(bench, 2)
    assert (report.integrated_steps, report.violated_steps, report.notes) == (None, None, {})


def test_notes_can_be_written_as_json():
    bench = Bench("fedknow", PAPER)
    trained(bench)
    report = trained(bench, round_index=1, trained=True)
    assert json.loads(json.dumps(dict(report.notes))) == dict(report.notes)


def test_the_end_of_a_task_notes_the_loss_of_the_knowledge_and_the_share_kept_of_each_prunable_tensor():
    """ceil(0.1 * 27) = 3 and ceil(0.1 * 240) = 24 with a threshold for each layer."""
    bench = Bench("fedknow", {**PAPER, "threshold": "layer"})
    trained(bench)
    notes = bench.visit(VisitKind.FINISH_TASK, trained=True)[2].notes
    shares = {name.removeprefix("kept_share/"): share for name, share in notes.items() if name != "knowledge_loss"}
    assert "knowledge_loss" in notes
    assert list(shares.values()) == [3 / 27, 24 / 240]
    assert all(name.endswith("weight") for name in shares)


def test_only_after_aggregation_refines():
    uses = ("on_receive", "after_aggregation", "displacement", "off")
    refining = {use: Bench("fedknow", {"second_use": use}).method.refines for use in uses}
    assert refining == {"on_receive": False, "after_aggregation": True, "displacement": False, "off": False}


def test_refining_changes_the_own_model_and_sends_nothing():
    bench = Bench("fedknow", {"second_use": "after_aggregation"})
    trained(bench)
    before = bench.state().own_S
    _, update, report = bench.visit(VisitKind.REFINE, trained=True)
    assert update is None
    assert report.notes["second_use_steps"] == 3
    assert report.notes.keys() == SECOND_USE
    assert not np.array_equal(bench.state().own_S, before)


# The two variants, and their limits


@pytest.mark.parametrize("settings", [{}, {"signature_tasks": 1, "second_use": "after_aggregation"}], ids=str)
def test_tuned_with_the_papers_settings_is_the_paper_to_the_bit(settings: dict[str, Any]):
    alike = {"variant": "tuned", "integration": "projection", "second_use": "on_receive", "retained_fraction": 0.1}
    alike |= {"retrain_epochs": 2, "stored_bits": 32, "own_model": "last_visit", **settings}
    paper, tuned = (Bench("fedknow", hyper, spec=NORMED) for hyper in ({**PAPER, **settings}, alike))
    for (_, expected), (_, report) in zip(paper.live_through(4), tuned.live_through(4), strict=True):
        assert report == expected
    np.testing.assert_array_equal(tuned.state().own_S, paper.state().own_S)
    np.testing.assert_array_equal(tuned.state().head_CF, paper.state().head_CF)


@pytest.mark.parametrize("integration", ["sum", "sum_then_projection"])
def test_a_sum_moves_away_from_fedavg_with_the_weight_of_past_tasks(integration: str):
    """With next to no weight a sum is FedAvg; a projection of it still minds who objects."""
    ends = {}
    fedavg = Bench("fedavg", config=training(optimizer=SGD))
    through(fedavg, 2)
    trained(fedavg, 2)
    for weight in (1e-9, 1.0):
        hyper = {"integration": integration, "restored_weight": weight}
        bench = Bench("fedknow", hyper, training(optimizer=SGD))
        through(bench, 2)
        trained(bench, 2)
        ends[weight] = float(np.abs(bench.state().own_S - fedavg.state().own_S).max())
    assert ends[1.0] > 1e-3
    assert (ends[1e-9] < 1e-6) is (integration == "sum")


def test_a_step_of_a_visit_is_that_of_one_sum_of_losses():
    """The first one of plain SGD, with the labels and head rows that the client has of each past task."""
    config = training(optimizer=SgdOptimizer(lr=0.1), local_epochs=1, batch_size=8)
    bench = Bench("fedknow", config=config, spec=DRY, images=8)
    through(bench, 3)
    head_CF = torch.tensor(bench.state().head_CF)
    trained(bench, 3)
    labels = bench.state().memory.labels_NC
    after_P = torch.tensor(bench.state().own_S)
    bench.learner.network.load(bench.broadcast.features_S)
    twin, data = twin_of(bench.learner, DRY), bench.data(bench.order(VisitKind.TRAIN, 3))
    z_NF = twin(bench.learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2))
    loss = torch.nn.functional.cross_entropy(logits_of(z_NF, head_CF[6:8]), torch.from_numpy(data.labels_N))
    for task in range(3):
        loss = loss + soft_loss(z_NF, head_CF[2 * task : 2 * task + 2], labels[task])
    loss.backward()
    step_P = 0.1 * flat_gradient(bench.learner.network, twin)
    torch.testing.assert_close(after_P, torch.tensor(bench.broadcast.features_S) - step_P, atol=1e-6, rtol=1e-5)


def test_the_method_hands_each_task_its_own_head_rows(seen: list[Tensor]):
    """The first step's restored gradients are those of the heads as they were left."""
    bench = Bench("fedknow", {"integration": "projection"}, spec=DRY)
    bench.live_through(3)
    seen.clear()
    head_CF = torch.tensor(bench.state().head_CF)
    trained(bench, 3)
    labels = bench.state().memory.labels_NC
    assert len(labels) == 3
    bench.learner.network.load(bench.broadcast.features_S)
    twin, batch = twin_of(bench.learner, DRY), first_batch(bench, 3)
    expected = [
        obvious_gradient(twin, head_CF[2 * task : 2 * task + 2], batch, labels[task][batch.indices], 2.0)
        for task in range(3)
    ]
    torch.testing.assert_close(seen[0][1:], torch.stack(expected), atol=1e-6, rtol=1e-5)


# The choice of signature tasks


@pytest.mark.parametrize("evicted", [0, 1])
@pytest.mark.parametrize("selection", ["wasserstein", "wasserstein_sorted", "cosine"])
def test_signature_tasks_are_the_farthest_at_the_model_that_the_first_visit_starts_from(selection: str, evicted: int):
    """The broadcast with the client's own head rows, in evaluation mode on the first 8 images; of all four past tasks,
    or of the newest three."""
    bench = Bench("fedknow", {"signature_tasks": 2, "selection": selection}, spec=NORMED, tasks=5)
    through(bench, 4)
    head_CF, knowledge = torch.tensor(bench.state().head_CF), bench.state().memory.knowledge
    bench.learner.network.load(bench.broadcast.features_S)
    twin, data = twin_of(bench.learner, NORMED).eval(), bench.data(bench.order(VisitKind.TRAIN, 4))
    batch = batch_of(bench.learner, 8, data)
    own = obvious_own_gradient(twin, head_CF[8:10], batch, NORMED)
    gradients = []
    for task, one in list(enumerate(knowledge))[evicted:]:
        labels = labels_of(make_learner(NORMED), one, data, FedKnowSettings())[:8]
        gradients.append(obvious_gradient(twin, head_CF[2 * task : 2 * task + 2], batch, labels, 2.0, NORMED))
    expected = choose(selection, own, torch.stack(gradients), 2, np.random.default_rng(0))
    trained(bench, 4, evicted_tasks=evicted)
    assert bench.state().memory.chosen == tuple(evicted + place for place in expected)


def test_the_choice_is_of_a_task_and_made_anew_in_the_next():
    """At random, so that each choice can be told from another; later visits have streams of their own."""
    bench = Bench("fedknow", {"signature_tasks": 2, "selection": "random"}, tasks=6)
    through(bench, 3)
    for task_index in (3, 4, 5):
        order = stream(1, "train/order", client=0, task=task_index, round_index=0)
        expected = tuple(sorted(order.choice(task_index, size=2, replace=False).tolist()))
        for round_index in range(3):
            trained(bench, task_index, round_index=round_index, trained=round_index > 0)
            assert bench.state().memory.chosen == expected
        bench.visit(VisitKind.FINISH_TASK, task_index, round_index=3, trained=True)


def test_later_visits_go_on_with_the_labels_of_the_first():
    bench = Bench("fedknow", {"signature_tasks": 1})
    through(bench, 2)
    trained(bench, 2)
    labels = bench.state().memory.labels_NC
    trained(bench, 2, round_index=1, trained=True)
    assert bench.state().memory.labels_NC is labels


def test_a_client_that_is_sampled_late_chooses_then():
    bench = Bench("fedknow", {"signature_tasks": 2, "selection": "random"})
    through(bench, 3)
    order, _, report = bench.visit(VisitKind.TRAIN, 3, round_index=5)
    drawn = stream(1, "train/order", client=0, task=3, round_index=5).choice(3, size=2, replace=False)
    assert bench.state().memory.chosen == tuple(sorted(drawn.tolist()))
    assert steps_of(report.work) == steps_of(plan_visit(order, bench.method).work)


# Past heads


@pytest.mark.parametrize("integration", INTEGRATIONS)
@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("selection", ["oldest", "cosine"])
def test_trained_past_heads_of_chosen_tasks_move_and_no_others(integration: str, optimizer: Any, selection: str):
    """With weight decay and momentum, which move all that they reach; the rows of past tasks not chosen and of later
    ones come back to the bit. Task 3 is learnt in two visits."""
    hyper = {"integration": integration, "past_heads": "trained", "signature_tasks": 2, "selection": selection}
    bench = Bench("fedknow", hyper, training(optimizer=optimizer), tasks=5)
    through(bench, 3)
    for round_index in range(2):
        before = bench.state().head_CF
        trained(bench, 3, round_index=round_index, trained=round_index > 0)
        moved = np.any(bench.state().head_CF != before, axis=1).reshape(-1, CLASSES)
        chosen = bench.state().memory.chosen
        assert len(chosen) == 2
        assert moved.tolist() == [[task in (*chosen, 3)] * CLASSES for task in range(5)]


@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_frozen_past_heads_stay_as_they_are(integration: str):
    bench = Bench("fedknow", {"integration": integration}, training(optimizer=SGD))
    through(bench, 2)
    before = bench.state().head_CF
    trained(bench, 2)
    others = [row for row in range(8) if row // CLASSES != 2]
    np.testing.assert_array_equal(bench.state().head_CF[others], before[others])


def test_the_knowledge_of_a_task_keeps_the_rows_that_it_was_stored_with():
    """What labels images is the past model, head and all; what trains is the client's own head."""
    bench = Bench("fedknow", {"past_heads": "trained"})
    through(bench, 1)
    kept = bench.state().memory.knowledge[0].head.clone()
    trained(bench, 1)
    assert torch.equal(bench.state().memory.knowledge[0].head, kept)
