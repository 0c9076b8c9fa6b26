"""What signature tasks say of a batch, and how their head rows train: against autograd and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from twins import TASKS, batch_of, past, past_tasks, soft_loss
from workbench import ADAM, CLASSES, DRY, SGD, TINY, make_learner, training

from fedknow_ray.config.model import SgdOptimizer, TrainingConfig
from fedknow_ray.methods.fedknow.past_tasks import PastTasks, backward_into
from fedknow_ray.methods.fedknow.settings import FedKnowSettings


def features(seed: int = 0, n: int = 6) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


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
    pulls_kNF = past_tasks(temperature=temperature).pulls(z_NF, np.arange(6))
    for dz_NF, head, label in zip(pulls_kNF, heads, labels, strict=True):
        (expected,) = torch.autograd.grad(soft_loss(z_NF, head, label[:6], temperature), z_NF)
        torch.testing.assert_close(dz_NF, expected)


def test_hard_labels_pull_without_temperature():
    """Cross entropy on pseudo-labels, whatever the temperature is set to."""
    labels, heads = past(1)
    z_NF = features().requires_grad_()
    logits = z_NF @ heads[0][:, :-1].T + heads[0][:, -1]
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, labels[0][:6].argmax(1)), z_NF)
    pulls_kNF = past_tasks(1, labels="hard", temperature=7.0).pulls(z_NF, np.arange(6))
    torch.testing.assert_close(pulls_kNF[0], expected)


def test_pulls_are_of_the_labels_of_the_batchs_images():
    labels, heads = past(1)
    z_NF = features(n=3).requires_grad_()
    (expected,) = torch.autograd.grad(soft_loss(z_NF, heads[0], labels[0][[5, 0, 3]]), z_NF)
    torch.testing.assert_close(past_tasks(1).pulls(z_NF, np.array([5, 0, 3]))[0], expected)


@pytest.mark.parametrize("tasks", [1, TASKS])
def test_each_task_that_it_is_given_is_heard(tasks: int):
    heard = past_tasks(tasks)
    assert heard.k == len(heard.pulls(features(), np.arange(6))) == tasks


@pytest.mark.parametrize("optimizer", [ADAM, SGD, SgdOptimizer(lr=0.1)], ids=["adam", "momentum", "sgd"])
def test_trained_rows_are_those_of_a_torch_optimizer_on_the_same_loss(optimizer: Any):
    """Three steps on other features each, with weight decay and a decaying rate."""
    config, learner = training(optimizer=optimizer), make_learner(DRY)
    tasks = past_tasks(config=config, past_heads="trained")
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


def test_a_pull_is_of_the_rows_as_they_are_now():
    """After a step of the rows the same features are pulled elsewhere, and the pull is still the loss's gradient."""
    learner = make_learner(DRY)
    tasks = past_tasks(1, config=training(optimizer=SGD), past_heads="trained")
    first = tasks.pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    second = tasks.pulls(features(), np.arange(6))
    z_NF = features().requires_grad_()
    (expected,) = torch.autograd.grad(soft_loss(z_NF, torch.from_numpy(tasks.heads()[0]), past(1)[0][0][:6]), z_NF)
    assert not torch.equal(second, first)
    torch.testing.assert_close(second[0], expected)


def test_the_heads_that_a_visit_started_with_stay_as_they_were():
    """They belong to the client's state, and a lost visit is made again from it."""
    learner, (labels, heads) = make_learner(DRY), past()
    tasks = PastTasks(labels, heads, FedKnowSettings(past_heads="trained"), training())
    tasks.pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    for head, expected in zip(heads, past()[1], strict=True):
        assert torch.equal(head, expected)


def test_frozen_rows_make_no_step_and_cost_none():
    learner, tasks = make_learner(DRY), past_tasks(past_heads="frozen")
    tasks.pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    assert tasks.heads() is None
    assert not learner.log.work().items


def test_before_the_first_step_trained_rows_are_those_given():
    for head, expected in zip(past_tasks(past_heads="trained").heads(), past()[1], strict=True):
        np.testing.assert_array_equal(head, expected.numpy())


def test_heads_once_told_stay_as_they_are():
    learner, tasks = make_learner(DRY), past_tasks(past_heads="trained")
    before = tasks.heads()
    tasks.pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    np.testing.assert_array_equal(before[0], past()[1][0].numpy())


def test_training_rows_is_priced_by_those_of_all_tasks_heard():
    learner, tasks = make_learner(DRY), past_tasks(past_heads="trained")
    tasks.pulls(features(), np.arange(6))
    tasks.train_heads(learner, 6)
    (item,) = learner.log.work().items
    assert item == learner.costs.update_head("restore", 6, TASKS * CLASSES)


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
