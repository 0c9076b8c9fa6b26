"""FedKNOW's integration at the features' output, against automatic differentiation of one sum of losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.nn import functional as F
from twins import TASKS, agreeing_tasks, batch_of, logits_of, obvious_own_gradient, past, past_tasks, soft_loss
from workbench import CLASSES, DRY, NORMED, TINY, flat_gradient, make_learner, steps_of, twin_of

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow import summing
from fedknow_ray.methods.fedknow.integrator import IntegrationResult, integrate
from fedknow_ray.methods.fedknow.rules import Tally
from fedknow_ray.methods.fedknow.summing import SummingRule, summing_items
from fedknow_ray.methods.learner import Batch, Learner
from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.footprint import Footprint
from fedknow_ray.simulation.work import WorkItem

#: Past tasks of which one objects to the sum of all losses, at the features.
OBJECTING = 33


def summing_rule(tally: Tally | None = None, *, tasks: int = TASKS, **settings: Any) -> SummingRule:
    return SummingRule(past_tasks(tasks, **{"integration": "sum", **settings}), tally or Tally())


def features_gradient(learner: Learner) -> Tensor:
    return learner.network.grad[: learner.network.P]


def losses(z_NF: Tensor, head_RF: Tensor, batch: Batch, seed: int = 3) -> tuple[Tensor, list[Tensor]]:
    """Cross entropy of the task at hand, and the distillation losses of past tasks."""
    labels, heads = past(seed=seed)
    own = F.cross_entropy(logits_of(z_NF, head_RF), batch.y_N)
    return own, [soft_loss(z_NF, head, label[batch.indices]) for head, label in zip(heads, labels, strict=True)]


@pytest.mark.parametrize("weight", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("spec", [DRY, TINY, NORMED], ids=lambda spec: spec.name)
def test_the_gradient_is_that_of_one_sum_of_losses(spec: ModelSpec, weight: float):
    """CE + w sum_i L_i of an ordinary module that draws the same dropout mask."""
    learner = make_learner(spec)
    batch, twin = batch_of(learner), twin_of(learner, spec).train()
    learner.network.features.train()
    torch.manual_seed(7)
    own, of_past = losses(twin(batch.x_NCHW), learner.network.head, batch)
    (own + weight * sum(of_past)).backward()
    torch.manual_seed(7)
    loss = summing_rule(restored_weight=weight)(learner, batch)
    torch.testing.assert_close(features_gradient(learner), flat_gradient(learner.network, twin), atol=1e-6, rtol=1e-5)
    assert loss == pytest.approx(own.item())


def test_hard_labels_add_cross_entropies_on_pseudo_labels():
    learner = make_learner(DRY)
    batch, twin = batch_of(learner), twin_of(learner, DRY)
    labels, heads = past()
    summing_rule(labels="hard", temperature=7.0)(learner, batch)
    z_NF = twin(batch.x_NCHW)
    loss = F.cross_entropy(logits_of(z_NF, learner.network.head), batch.y_N)
    for label, head in zip(labels, heads, strict=True):
        loss = loss + F.cross_entropy(logits_of(z_NF, head), label[:6].argmax(1))
    loss.backward()
    torch.testing.assert_close(features_gradient(learner), flat_gradient(learner.network, twin), atol=1e-6, rtol=1e-5)


def test_the_head_takes_the_gradient_of_the_task_at_hand_alone():
    learner = make_learner(DRY)
    batch = batch_of(learner)
    summing_rule()(learner, batch)
    head = learner.network.head.clone().requires_grad_()
    F.cross_entropy(logits_of(learner.network(batch.x_NCHW).detach(), head), batch.y_N).backward()
    torch.testing.assert_close(learner.network.head_grad, head.grad)


@pytest.mark.parametrize("integration", ["sum", "feature_projection"])
def test_what_was_in_the_gradient_before_is_overwritten(integration: str):
    learner, fresh = make_learner(DRY), make_learner(DRY)
    learner.network.grad.fill_(torch.nan)
    for one in (learner, fresh):
        summing_rule(integration=integration)(one, batch_of(one))
    assert torch.equal(learner.network.grad, fresh.network.grad)


def test_two_past_tasks_that_agree_with_the_present_one_treble_its_gradient():
    learner = make_learner(DRY)
    batch = batch_of(learner)
    own = obvious_own_gradient(twin_of(learner, DRY), learner.network.head, batch)
    SummingRule(agreeing_tasks(learner, restored_weight=2.0), Tally())(learner, batch)
    torch.testing.assert_close(features_gradient(learner), 3 * own, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_feature_projection_is_the_closest_to_the_sum_that_no_task_objects_to(weight: float):
    """At the features: non-negative least squares of the dual, min_v |s + D' v|^2, then one backward pass of a twin."""
    learner = make_learner(DRY)
    batch, twin = batch_of(learner), twin_of(learner, DRY)
    z_NF = twin(batch.x_NCHW)
    own, of_past = losses(z_NF, learner.network.head, batch, seed=OBJECTING)
    dz, *dz_past = (torch.autograd.grad(one, z_NF, retain_graph=True)[0] for one in (own, *of_past))
    sum_X = (dz + weight * sum(dz_past)).flatten().double().numpy()
    D_kX = torch.stack(dz_past).flatten(1).double().numpy()
    multipliers, _ = nnls(D_kX.T, -sum_X)
    assert multipliers.any(), "an example in which nobody objects would show little"
    z_NF.backward(torch.tensor(sum_X + D_kX.T @ multipliers).float().view_as(z_NF))
    rule = summing_rule(seed=OBJECTING, integration="feature_projection", restored_weight=weight)
    rule(learner, batch)
    torch.testing.assert_close(features_gradient(learner), flat_gradient(learner.network, twin), atol=1e-6, rtol=1e-4)
    assert (rule.tally.integrated_steps, rule.tally.violated_steps) == (1, 1)


def test_feature_projection_leaves_no_obtuse_angle_at_the_features(monkeypatch: pytest.MonkeyPatch):
    handed: list[Tensor] = []
    results: list[IntegrationResult] = []

    def spy(G_RX: Tensor, margin: float) -> IntegrationResult:
        handed.append(G_RX.clone())
        results.append(integrate(G_RX, margin))
        return results[-1]

    monkeypatch.setattr(summing, "integrate", spy)
    learner = make_learner(DRY)
    summing_rule(seed=OBJECTING, integration="feature_projection")(learner, batch_of(learner))
    before, after = (F.cosine_similarity(x_X, handed[0][1:]) for x_X in (handed[0][0], results[0].g_P))
    assert float(before.min()) < 0
    assert float(after.min()) > -1e-6


def test_feature_projection_is_the_sum_where_nobody_objects():
    """Bit for bit."""
    learner, other = make_learner(DRY), make_learner(DRY)
    tally = Tally()
    SummingRule(agreeing_tasks(learner, integration="feature_projection"), tally)(learner, batch_of(learner))
    SummingRule(agreeing_tasks(other, integration="sum"), Tally())(other, batch_of(other))
    assert torch.equal(learner.network.grad, other.network.grad)
    assert (tally.integrated_steps, tally.violated_steps) == (1, 0)


def test_a_sum_checks_no_step():
    rule = summing_rule()
    learner = make_learner(DRY)
    rule(learner, batch_of(learner))
    learner.optimize()
    assert rule.tally == Tally()


def test_past_head_rows_make_a_step_with_each_of_the_tasks_steps():
    learner, rule = make_learner(DRY), summing_rule(past_heads="trained")
    rule(learner, batch_of(learner))
    moved = [not np.array_equal(new, old) for new, old in zip(rule.past.heads(), past()[1], strict=True)]
    assert moved == [True] * TASKS


@pytest.mark.parametrize("integration", ["sum", "feature_projection"])
def test_however_many_tasks_there_are_one_backward_pass_does(integration: str):
    """What is counted besides the plain step has no pass of the features in it."""
    for tasks in (1, TASKS):
        learner = make_learner(DRY)
        summing_rule(tasks=tasks, integration=integration)(learner, batch_of(learner))
        plain = learner.costs.forward_backward("train", 6, CLASSES)
        counted = steps_of(learner.log.work())
        assert counted["train", plain.flops, plain.moved_bytes] == 1
        further = [flops for phase, flops, _ in counted if phase != "train"]
        assert sum(further) < 6 * learner.costs.footprint.backward_flops


def test_work_of_a_step_by_hand():
    """3 images, 5 tasks of 2 classes, 10 features. Heads: 2 x (2 x 3 x 10 x 10) FLOPs, 10 rows of 11 read twice.

    Integration of 6 rows of 30 values: Gram 2 x 36 x 30 and combination 2 x 6 x 30, rows read twice and one written.
    """
    footprint = Footprint(P=100, B=0, F=10, forward_flops=1000, backward_flops=1900, kept_bytes=0, input_bytes=0)
    costs = StepCosts(footprint, make_learner(DRY).training)
    heads = WorkItem("restore", 1, 1200, 4 * 2 * 110)
    assert summing_items(costs, 3, 2, 5, "sum") == [heads]
    integration = WorkItem("integrate", 1, 2 * 36 * 30 + 2 * 6 * 30, 13 * 4 * 30)
    assert summing_items(costs, 3, 2, 5, "feature_projection") == [heads, integration]
