"""What past tasks say of a batch, which of them are heard, how their head rows train: against autograd and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from choosing import choose
from torch import Tensor
from torch.nn import functional as F
from twins import TASKS, batch_of, obvious_gradient, obvious_own_gradient, past, past_tasks, soft_loss
from workbench import ADAM, CLASSES, DRY, SGD, TINY, make_learner, steps_of, training, twin_of

from fedknow_ray.config.model import SgdOptimizer, TrainingConfig
from fedknow_ray.methods.fedknow.past_tasks import PastTasks, backward_into, measuring_items
from fedknow_ray.methods.learner import Learner

K = 2


def features(seed: int = 0, n: int = 6) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def no_gradient() -> Tensor:
    raise AssertionError("nothing here measures a distance")


def chosen(tasks: PastTasks, learner: Learner | None = None) -> PastTasks:
    """The same after the visit's first batch; the current gradient is that of the batch's cross entropy."""
    learner = learner or make_learner(DRY)
    batch = batch_of(learner)
    own = obvious_own_gradient(twin_of(learner, DRY), learner.network.head, batch)
    tasks.choose(learner, batch, learner.network(batch.x_NCHW), lambda: own)
    return tasks


def torch_optimizer(config: TrainingConfig, values: Tensor) -> torch.optim.Optimizer:
    of, given = config.optimizer, {"lr": config.optimizer.lr, "weight_decay": config.optimizer.weight_decay}
    return (
        torch.optim.Adam([values], **given)
        if of.name == "adam"
        else torch.optim.SGD([values], momentum=of.momentum, **given)
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_a_pull_is_the_gradient_of_the_distillation_loss_for_the_features(temperature: float):
    labels, heads = past()
    z_NF = features().requires_grad_()
    pulls_kNF = chosen(past_tasks(temperature=temperature)).pulls(z_NF, np.arange(6))
    for dz_NF, head, label in zip(pulls_kNF, heads, labels, strict=True):
        (expected,) = torch.autograd.grad(soft_loss(z_NF, head, label[:6], temperature), z_NF)
        torch.testing.assert_close(dz_NF, expected)


def test_hard_labels_pull_without_temperature():
    """Cross entropy on pseudo-labels, whatever the temperature is set to."""
    labels, heads = past(1)
    tasks = past_tasks(1, labels="hard", temperature=7.0)
    tasks.labels_NR = [F.one_hot(labels[0].argmax(1), CLASSES).float()]
    z_NF = features().requires_grad_()
    logits = z_NF @ heads[0][:, :-1].T + heads[0][:, -1]
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, labels[0][:6].argmax(1)), z_NF)
    torch.testing.assert_close(chosen(tasks).pulls(z_NF, np.arange(6))[0], expected)


def test_pulls_are_of_the_labels_of_the_batchs_images():
    labels, heads = past(1)
    z_NF = features(n=3).requires_grad_()
    (expected,) = torch.autograd.grad(soft_loss(z_NF, heads[0], labels[0][[5, 0, 3]]), z_NF)
    torch.testing.assert_close(chosen(past_tasks(1)).pulls(z_NF, np.array([5, 0, 3]))[0], expected)


def test_pulls_are_of_the_chosen_tasks_in_ascending_order():
    everything = chosen(past_tasks()).pulls(features(), np.arange(6))
    some = chosen(past_tasks(signature_tasks=K, selection="cosine"))
    torch.testing.assert_close(some.pulls(features(), np.arange(6)), everything[list(some.chosen)])
    assert list(some.chosen) == sorted(some.chosen)


@pytest.mark.parametrize(("k", "heard"), [(1, 1), (2, 2), (4, 4), (10, 4)])
def test_no_more_tasks_are_heard_than_there_are(k: int, heard: int):
    tasks = chosen(past_tasks(signature_tasks=k))
    assert tasks.k == len(tasks.chosen) == heard


@pytest.mark.parametrize("selection", ["wasserstein", "wasserstein_sorted", "cosine"])
def test_signature_tasks_are_the_farthest(selection: str):
    """Chosen one by one as `choose` does from all gradients at once."""
    learner = make_learner(DRY)
    batch, twin = batch_of(learner), twin_of(learner, DRY)
    own = obvious_own_gradient(twin, learner.network.head, batch)
    gradients = [obvious_gradient(twin, head, batch, label[:6], 2.0) for label, head in zip(*past(), strict=True)]
    expected = choose(selection, own, torch.stack(gradients), K, np.random.default_rng(0))
    assert chosen(past_tasks(signature_tasks=K, selection=selection), learner).chosen == expected


def test_oldest_takes_the_first_tasks():
    assert chosen(past_tasks(signature_tasks=K, selection="oldest")).chosen == (0, 1)


def test_random_draws_from_the_visits_generator():
    expected = np.random.default_rng(0).choice(TASKS, size=K, replace=False)
    tasks = chosen(past_tasks(signature_tasks=K, selection="random"))
    assert tasks.chosen == tuple(sorted(expected.tolist()))


def test_signature_tasks_are_chosen_once_a_visit():
    learner, tasks = make_learner(DRY), past_tasks(signature_tasks=K)
    first = chosen(tasks, learner).chosen
    batch = batch_of(learner)
    tasks.choose(learner, batch, learner.network(batch.x_NCHW), no_gradient)
    assert tasks.chosen is first


@pytest.mark.parametrize("settings", [{"selection": "oldest"}, {"selection": "random"}, {"signature_tasks": TASKS}])
def test_without_a_distance_the_current_gradient_is_not_asked_for(settings: dict[str, Any]):
    learner, tasks = make_learner(DRY), past_tasks(**{"signature_tasks": K, **settings})
    batch = batch_of(learner)
    tasks.choose(learner, batch, learner.network(batch.x_NCHW), no_gradient)
    assert not learner.log.work().items


def test_measuring_costs_a_backward_pass_for_each_past_task():
    learner = make_learner(DRY)
    chosen(past_tasks(signature_tasks=K), learner)
    expected = [item for _ in range(TASKS) for item in measuring_items(learner.costs, 6, CLASSES)]
    assert steps_of(learner.log.work()).total() == len(expected) == 2 * TASKS
    assert learner.log.work().flops == sum(item.flops for item in expected)


@pytest.mark.parametrize("optimizer", [ADAM, SGD, SgdOptimizer(lr=0.1)], ids=["adam", "momentum", "sgd"])
def test_trained_rows_are_those_of_a_torch_optimizer_on_the_same_loss(optimizer: Any):
    """Three steps on other features each, with weight decay and a decaying rate."""
    config, learner = training(optimizer=optimizer), make_learner(DRY)
    tasks = chosen(past_tasks(config=config, past_heads="trained"), learner)
    labels, heads = past()
    rows = [head.clone().requires_grad_() for head in heads]
    theirs = [torch_optimizer(config, row) for row in rows]
    for step in range(3):
        tasks.pulls(features(step), np.arange(6))
        tasks.train_heads(learner, 6)
        for row, label, optimizer_of_row in zip(rows, labels, theirs, strict=True):
            optimizer_of_row.zero_grad()
            soft_loss(features(step), row, label[:6]).backward()
            optimizer_of_row.param_groups[0]["lr"] = config.optimizer.lr / (1 + config.optimizer.lr_decay * step)
            optimizer_of_row.step()
    # Adam divides by the root of the second moment, which makes more of a rounding than there was
    torch.testing.assert_close(
        torch.from_numpy(np.stack(tasks.heads())), torch.stack(rows).detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_only_the_rows_of_chosen_tasks_move(optimizer: Any):
    """Weight decay would move rows of no gradient, were they in the optimizer."""
    learner = make_learner(DRY)
    settings = {"signature_tasks": K, "selection": "oldest", "past_heads": "trained"}
    tasks = chosen(past_tasks(config=training(optimizer=optimizer), **settings), learner)
    for step in range(2):
        tasks.pulls(features(step), np.arange(6))
        tasks.train_heads(learner, 6)
    moved = [not np.array_equal(after, before) for after, before in zip(tasks.heads(), past()[1], strict=True)]
    assert moved == [True, True, False, False]


def test_a_pull_is_of_the_rows_as_they_are_now():
    """After a step of the rows the same features are pulled elsewhere, and the pull is still the loss's gradient."""
    learner = make_learner(DRY)
    tasks = chosen(past_tasks(1, config=training(optimizer=SGD), past_heads="trained"), learner)
    first = tasks.pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    second = tasks.pulls(features(), np.arange(6))
    z_NF = features().requires_grad_()
    (expected,) = torch.autograd.grad(soft_loss(z_NF, torch.from_numpy(tasks.heads()[0]), past(1)[0][0][:6]), z_NF)
    assert not torch.equal(second, first)
    torch.testing.assert_close(second[0], expected)


def test_the_heads_that_a_visit_started_with_stay_as_they_were():
    """They belong to the client's state, and a lost visit is made again from it."""
    learner, tasks = make_learner(DRY), past_tasks(past_heads="trained")
    given = tasks.heads_RF
    chosen(tasks, learner).pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    for head, expected in zip(given, past()[1], strict=True):
        assert torch.equal(head, expected)


def test_frozen_rows_make_no_step_and_cost_none():
    learner, tasks = make_learner(DRY), past_tasks(past_heads="frozen", signature_tasks=10)
    chosen(tasks, learner).pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    assert tasks.heads() is None
    assert not learner.log.work().items


def test_heads_are_none_before_the_first_batch():
    assert past_tasks(past_heads="trained").heads() is None


def test_training_rows_is_priced_by_those_of_the_chosen_tasks():
    learner, tasks = make_learner(DRY), past_tasks(past_heads="trained", signature_tasks=K, selection="oldest")
    chosen(tasks, learner).pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    (item,) = learner.log.work().items
    assert item == learner.costs.update_head("restore", 6, K * CLASSES)


def test_one_forward_pass_serves_several_backward_passes_into_flat_vectors():
    learner = make_learner(TINY)
    batch, network = batch_of(learner), learner.network
    z_NF = network(batch.x_NCHW)
    out_2P = torch.full((2, network.P), torch.nan)
    for row, dz_NF in enumerate((features(1), features(2))):
        backward_into(network, z_NF, dz_NF, out_2P[row])
    for row, dz_NF in enumerate((features(1), features(2))):
        network.grad.zero_()
        torch.autograd.backward(z_NF, dz_NF, retain_graph=True)
        torch.testing.assert_close(out_2P[row], network.grad[: network.P])
