"""FedKNOW's integration by gradients of all weights, against obvious twins: a pass for each gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from twins import TASKS, agreeing_tasks, batch_of, obvious_gradient, obvious_own_gradient, past, past_tasks
from workbench import ADAM, CLASSES, DRY, SGD, TINY, make_learner, steps_of, training, twin_of

from fedknow_ray.config.model import SgdOptimizer
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.integrator import integrate
from fedknow_ray.methods.fedknow.past_tasks import PastTasks
from fedknow_ray.methods.fedknow.rules import ProjectionRule, Tally, integration_work
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule
from fedknow_ray.models.footprint import Footprint

#: A cosine below minus this is an obtuse angle, beyond what rounding of float32 does.
ROUNDING = 1e-6


def projection(
    tally: Tally | None = None, *, tasks: int = TASKS, integration: str = "projection", **settings: Any
) -> ProjectionRule:
    return ProjectionRule(past_tasks(tasks, integration=integration, **settings), tally or Tally())


def step(learner: Learner, rule: ProjectionRule, batch: Batch | None = None) -> Tensor:
    """Make one step with a rule; return the update (P,) of the feature weights, old minus new."""
    before = learner.network.theta.clone()
    rule(learner, batch or batch_of(learner))
    learner.optimize()
    return (before - learner.network.theta)[: learner.network.P]


def all_gradients(learner: Learner) -> Tensor:
    """g and the gradients of all past tasks (t + 1, P), each by a pass of its own."""
    batch, twin = batch_of(learner), twin_of(learner, DRY)
    labels, heads = past()
    of_past = [obvious_gradient(twin, head, batch, label[:6], 2.0) for label, head in zip(labels, heads, strict=True)]
    return torch.stack([obvious_own_gradient(twin, learner.network.head, batch), *of_past])


def cosines(update_P: Tensor, G_kP: Tensor) -> list[float]:
    return F.cosine_similarity(update_P.double(), G_kP.double(), dim=1).tolist()


def test_restored_gradients_equal_those_of_one_pass_each(seen: list[Tensor]):
    learner = make_learner(DRY)
    expected = all_gradients(learner)
    projection()(learner, batch_of(learner))
    torch.testing.assert_close(seen[0], expected, atol=1e-6, rtol=1e-5)


def test_all_gradients_share_one_dropout_mask(seen: list[Tensor]):
    """Current and past labels and heads the same, at temperature 1: the restored gradient is the current one."""
    learner = make_learner(TINY)
    past = agreeing_tasks(learner, integration="projection")
    ProjectionRule(past, Tally())(learner, batch_of(learner))
    torch.testing.assert_close(seen[0][1], seen[0][0])


def test_the_gradient_filled_is_the_integrated_one(seen: list[Tensor]):
    learner = make_learner(DRY)
    projection()(learner, batch_of(learner))
    expected = integrate(seen[0].clone())
    torch.testing.assert_close(learner.network.grad[: learner.network.P], expected.g_P)
    assert expected.violated, "an example in which nothing is violated would show little"


@pytest.mark.parametrize("integration", ["projection", "sum_then_projection", "preconditioned"])
def test_the_head_takes_its_own_gradient(integration: str):
    learner = make_learner(DRY)
    batch = batch_of(learner)
    projection(integration=integration)(learner, batch)
    head = learner.network.head.clone().requires_grad_()
    z_NF = learner.network.features(batch.x_NCHW).detach()
    F.cross_entropy(z_NF @ head[:, :-1].T + head[:, -1], batch.y_N).backward()
    torch.testing.assert_close(learner.network.head_grad, head.grad)


@pytest.mark.parametrize("tasks", [1, TASKS])
def test_the_buffer_has_a_row_for_each_gradient(seen: list[Tensor], tasks: int):
    learner = make_learner(DRY)
    projection(tasks=tasks)(learner, batch_of(learner))
    assert seen[0].shape == (tasks + 1, learner.network.P)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_sum_then_projection_integrates_the_sum_of_all_gradients(seen: list[Tensor], weight: float):
    """g + w sum_i g_i in place of g, constrained by the same g_i."""
    learner = make_learner(DRY)
    expected = all_gradients(learner)
    expected[0] += weight * expected[1:].sum(0)
    projection(integration="sum_then_projection", restored_weight=weight)(learner, batch_of(learner))
    torch.testing.assert_close(seen[0], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(learner.network.grad[: learner.network.P], integrate(expected).g_P, atol=1e-6, rtol=1e-5)


def test_steps_and_violations_are_tallied():
    """Once an obtuse example, once one that agrees with itself."""
    learner, tally = make_learner(DRY), Tally()
    projection(tally)(learner, batch_of(learner))
    assert (tally.integrated_steps, tally.violated_steps) == (1, 1)
    ProjectionRule(agreeing_tasks(learner, integration="projection"), tally)(learner, batch_of(learner))
    assert (tally.integrated_steps, tally.violated_steps) == (2, 1)


def test_an_update_that_still_goes_against_a_past_task_is_tallied_after_the_step():
    learner, tally = make_learner(DRY), Tally()
    projection(tally)(learner, batch_of(learner))
    learner.network.grad.neg_()  # an optimizer that undoes everything
    assert tally.violated_after_steps == 0
    learner.optimize()
    assert tally.violated_after_steps == 1


def test_under_plain_sgd_the_projected_step_is_at_acute_angles_to_all_past_gradients(seen: list[Tensor]):
    learner, tally = make_learner(DRY, training(optimizer=SgdOptimizer(lr=0.1))), Tally()
    update_P = step(learner, projection(tally))
    assert min(cosines(update_P, seen[0][1:])) > -ROUNDING
    assert (tally.violated_steps, tally.violated_after_steps) == (1, 0)


def test_under_adam_the_projected_step_can_go_against_a_past_task(seen: list[Tensor]):
    """Its first step is the sign of the gradient, which is another direction: what `preconditioned` is for."""
    learner, tally = make_learner(DRY), Tally()
    update_P = step(learner, projection(tally))
    assert min(cosines(update_P, seen[0][1:])) < -ROUNDING
    assert tally.violated_after_steps == 1


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_preconditioned_steps_are_at_acute_angles_to_all_past_gradients(seen: list[Tensor], optimizer: Any):
    """Three steps, so that momentum, moments and weight decay have their say."""
    learner, tally = make_learner(DRY, training(optimizer=optimizer)), Tally()
    rule = projection(tally, integration="preconditioned")
    for _ in range(3):
        update_P = step(learner, rule)
        # weights of about 0.3 are stored to 3e-8, and updates of Adam are 0.01 each: another 1e-6 of a cosine
        assert min(cosines(update_P, seen[-1][1:])) > -1e-5
    assert tally.violated_steps > 0
    assert tally.integrated_steps == 3


def test_a_preconditioned_step_is_what_integration_makes_of_the_optimizers_own(seen: list[Tensor]):
    learner, plain = make_learner(DRY), make_learner(DRY)
    before_P = plain.network.theta[: plain.network.P].clone()
    cross_entropy_rule(plain, batch_of(plain))
    plain.optimize()
    expected = all_gradients(learner)
    expected[0] = before_P - plain.network.theta[: plain.network.P]
    update_P = step(learner, projection(integration="preconditioned"))
    torch.testing.assert_close(seen[0], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(update_P, integrate(expected).g_P, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_the_optimizers_moments_are_those_of_the_plain_gradient(optimizer: Any):
    learner, plain = (make_learner(DRY, training(optimizer=optimizer)) for _ in range(2))
    step(learner, projection(integration="preconditioned"))
    cross_entropy_rule(plain, batch_of(plain))
    plain.optimize()
    ours, theirs = (next(iter(one._optimizer._optimizer.state.values())) for one in (learner, plain))
    assert ours.keys() == theirs.keys() != set()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


def test_a_preconditioned_step_leaves_the_heads_own_step():
    learner, plain = make_learner(DRY), make_learner(DRY)
    step(learner, projection(integration="preconditioned"))
    cross_entropy_rule(plain, batch_of(plain))
    plain.optimize()
    torch.testing.assert_close(learner.network.head, plain.network.head)


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("integration", ["projection", "preconditioned"])
def test_where_nothing_is_violated_the_step_is_the_plain_one_bit_for_bit(integration: str, optimizer: Any):
    learner, plain = (make_learner(DRY, training(optimizer=optimizer)) for _ in range(2))
    tally = Tally()
    step(learner, ProjectionRule(agreeing_tasks(learner, integration=integration), tally))
    cross_entropy_rule(plain, batch_of(plain))
    plain.optimize()
    assert (tally.integrated_steps, tally.violated_steps, tally.violated_after_steps) == (1, 0, 0)
    assert torch.equal(learner.network.theta, plain.network.theta)


def test_work_of_one_integration_by_hand():
    """k = 2, P = 100: Gram 2 x 9 x 100 and combination 2 x 3 x 100 FLOPs; three rows read twice, one written."""
    footprint = Footprint(P=100, B=0, F=1, forward_flops=0, backward_flops=0, kept_bytes=0, input_bytes=0)
    item = integration_work(StepCosts(footprint, make_learner(DRY).training), 2)
    assert (item.phase, item.flops, item.moved_bytes) == ("integrate", 2400, 7 * 400)


def test_restoring_costs_one_backward_pass_a_task():
    learner = make_learner(DRY)
    projection()(learner, batch_of(learner))
    costs = learner.costs
    backward, integration = costs.backward("restore", 6, CLASSES), integration_work(costs, TASKS)
    counted = steps_of(learner.log.work())
    assert counted["restore", backward.flops, backward.moved_bytes] == TASKS
    assert counted["integrate", integration.flops, integration.moved_bytes] == 1


@pytest.mark.parametrize(("integration", "passes"), [("sum_then_projection", TASKS + 2), ("preconditioned", 3)])
def test_a_sum_and_an_update_take_further_passes_over_the_weights(integration: str, passes: int):
    """Each gradient and the sum; the weights before, after, and put back."""
    learner = make_learner(DRY)
    projection(integration=integration)(learner, batch_of(learner))
    assert steps_of(learner.log.work())["integrate", 0, passes * 4 * learner.network.P] == 1


def test_one_buffer_serves_all_steps_of_a_visit():
    learner, rule = make_learner(DRY), projection()
    rule(learner, batch_of(learner))
    first = rule._buffer
    rule(learner, batch_of(learner))
    assert rule._buffer is first


def test_trained_past_heads_make_a_step_with_each_of_the_tasks_steps():
    learner, rule = make_learner(DRY), projection(past_heads="trained", integration="preconditioned")
    before = rule.past.heads()
    step(learner, rule)
    moved = [not np.array_equal(old, new) for old, new in zip(before, rule.past.heads(), strict=True)]
    assert moved == [True] * TASKS


def test_past_tasks_are_asked_with_the_batchs_indices(seen: list[Tensor]):
    learner = make_learner(DRY)
    batch = batch_of(learner)
    mixed = Batch(np.array([5, 0, 3]), batch.x_NCHW[[5, 0, 3]], batch.y_N[[5, 0, 3]])
    past_of: PastTasks = past_tasks(1, integration="projection")
    ProjectionRule(past_of, Tally())(learner, mixed)
    labels, heads = past(1)
    expected = obvious_gradient(twin_of(learner, DRY), heads[0], mixed, labels[0][[5, 0, 3]], 2.0)
    torch.testing.assert_close(seen[0][1], expected, atol=1e-6, rtol=1e-5)
