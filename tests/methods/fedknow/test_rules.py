"""FedKNOW's gradient rules against obvious twins: a deep copy and a forward and backward pass for each gradient."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from choosing import choose
from torch import Tensor, nn
from torch.nn import functional as F
from workbench import CLASSES, DRY, NORMED, TINY, Bench, flat_gradient, make_learner, steps_of, task_data, twin_of

from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow import rules
from fedknow_ray.methods.fedknow.integrator import integrate
from fedknow_ray.methods.fedknow.rules import RestoreRule, SecondUseRule, Tally, integration_work
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.learner import Batch, Learner
from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.footprint import Footprint
from fedknow_ray.seeding import stream

TASKS = 4


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Copies of the gradients (k + 1, P) that each step hands to the integrator."""
    gradients: list[Tensor] = []

    def spy(G_RP: Tensor, margin: float, out: Tensor) -> Any:
        gradients.append(G_RP.clone())
        return integrate(G_RP, margin, out)

    monkeypatch.setattr(rules, "integrate", spy)
    return gradients


def batch_of(learner: Learner, n: int = 6) -> Batch:
    data = task_data()
    indices = np.arange(n)
    x_NHWC = learner.normalisation(data.images_NHWC[:n])
    return Batch(indices, x_NHWC.permute(0, 3, 1, 2), torch.from_numpy(data.labels_N[:n]))


def past(tasks: int = TASKS, seed: int = 3, images: int = 20) -> tuple[list[Tensor], list[Tensor]]:
    """Labels (N, C) and frozen head rows (C, F + 1) of past tasks."""
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.softmax(3 * torch.randn(images, CLASSES, generator=generator), dim=1) for _ in range(tasks)]
    return labels, [torch.randn(CLASSES, 6, generator=generator) for _ in range(tasks)]


def restore_rule(tally: Tally | None = None, tasks: int = TASKS, **settings: Any) -> RestoreRule:
    labels, heads = past(tasks)
    return RestoreRule(labels, heads, FedKnowSettings(**settings), np.random.default_rng(0), tally or Tally())


def obvious_gradient(model: nn.Module, head_RF: Tensor, batch: Batch, labels_NR: Tensor, temperature: float) -> Tensor:
    """Copy the model, run it forward and backward on soft cross entropy, throw the copy away."""
    twin = deepcopy(model)
    logits = twin(batch.x_NCHW) @ head_RF[:, :-1].T + head_RF[:, -1]
    loss = -(labels_NR * torch.log_softmax(logits / temperature, dim=1)).sum(1).mean()
    loss.backward()
    return flat_gradient(make_learner(DRY).network, twin)


def obvious_own_gradient(model: nn.Module, head_RF: Tensor, batch: Batch) -> Tensor:
    twin = deepcopy(model)
    F.cross_entropy(twin(batch.x_NCHW) @ head_RF[:, :-1].T + head_RF[:, -1], batch.y_N).backward()
    return flat_gradient(make_learner(DRY).network, twin)


def test_restored_gradients_equal_those_of_one_pass_each(seen: list[Tensor]):
    learner, rule = make_learner(DRY), restore_rule()
    batch, twin = batch_of(learner), twin_of(learner, DRY)
    rule(learner, batch)
    labels, heads = past()
    expected = [obvious_own_gradient(twin, learner.network.head, batch)]
    expected += [obvious_gradient(twin, head, batch, label[:6], 2.0) for label, head in zip(labels, heads, strict=True)]
    torch.testing.assert_close(seen[0], torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_hard_labels_are_learnt_without_temperature(seen: list[Tensor]):
    learner = make_learner(DRY)
    labels, heads = past(1)
    hard = F.one_hot(labels[0].argmax(1), CLASSES).float()
    settings = FedKnowSettings(labels="hard", temperature=7.0)
    RestoreRule([hard], heads, settings, np.random.default_rng(0), Tally())(learner, batch_of(learner))
    twin, batch = twin_of(learner, DRY), batch_of(learner)
    expected = obvious_gradient(twin, heads[0], batch, hard[:6], 1.0)
    torch.testing.assert_close(seen[0][1], expected, atol=1e-6, rtol=1e-5)


def test_labels_are_those_of_the_batchs_images(seen: list[Tensor]):
    learner = make_learner(DRY)
    batch = batch_of(learner)
    mixed = Batch(np.array([5, 0, 3]), batch.x_NCHW[[5, 0, 3]], batch.y_N[[5, 0, 3]])
    restore_rule(tasks=1)(learner, mixed)
    labels, heads = past(1)
    expected = obvious_gradient(twin_of(learner, DRY), heads[0], mixed, labels[0][[5, 0, 3]], 2.0)
    torch.testing.assert_close(seen[0][1], expected, atol=1e-6, rtol=1e-5)


def test_all_gradients_share_one_dropout_mask(seen: list[Tensor]):
    """Current and past labels and heads the same, at temperature 1: the restored gradient is the current one."""
    learner = make_learner(TINY)
    batch, head = batch_of(learner), learner.network.head.clone()
    labels = F.one_hot(torch.from_numpy(task_data().labels_N), CLASSES).float()
    rule = RestoreRule([labels], [head], FedKnowSettings(temperature=1.0), np.random.default_rng(0), Tally())
    rule(learner, batch)
    torch.testing.assert_close(seen[0][1], seen[0][0])


def test_the_gradient_filled_is_the_integrated_one(seen: list[Tensor]):
    learner, rule = make_learner(DRY), restore_rule()
    rule(learner, batch_of(learner))
    expected = integrate(seen[0].clone())
    torch.testing.assert_close(learner.network.grad[: learner.network.P], expected.g_P)
    assert expected.violated, "an example in which nothing is violated would show little"


def test_the_head_takes_its_own_gradient():
    learner = make_learner(DRY)
    batch = batch_of(learner)
    restore_rule()(learner, batch)
    head = learner.network.head.clone().requires_grad_()
    z_NF = learner.network.features(batch.x_NCHW).detach()
    F.cross_entropy(z_NF @ head[:, :-1].T + head[:, -1], batch.y_N).backward()
    torch.testing.assert_close(learner.network.head_grad, head.grad)


@pytest.mark.parametrize(("k", "rows"), [(1, 2), (2, 3), (4, 5), (10, 5)])
def test_the_buffer_has_a_row_for_each_gradient_that_is_used(seen: list[Tensor], k: int, rows: int):
    learner = make_learner(DRY)
    restore_rule(signature_tasks=k)(learner, batch_of(learner))
    assert seen[0].shape == (rows, learner.network.P)


@pytest.mark.parametrize("selection", ["wasserstein", "wasserstein_sorted", "cosine"])
def test_signature_tasks_are_the_farthest(seen: list[Tensor], selection: str):
    """Chosen as `choose` does from all gradients at once; the buffer then holds theirs."""
    learner = make_learner(DRY)
    restore_rule()(learner, batch_of(learner))
    everything = seen.pop()
    rule = restore_rule(signature_tasks=2, selection=selection)
    rule(learner, batch_of(learner))
    expected = choose(selection, everything[0], everything[1:], 2, np.random.default_rng(0))
    assert rule.chosen == expected
    torch.testing.assert_close(seen[0][1:], everything[1:][list(expected)])


def test_oldest_takes_the_first_tasks(seen: list[Tensor]):
    learner, rule = make_learner(DRY), restore_rule(signature_tasks=2, selection="oldest")
    rule(learner, batch_of(learner))
    assert rule.chosen == (0, 1)


def test_random_draws_from_the_visits_generator():
    learner, rule = make_learner(DRY), restore_rule(signature_tasks=2, selection="random")
    rule(learner, batch_of(learner))
    expected = np.random.default_rng(0).choice(TASKS, size=2, replace=False)
    assert rule.chosen == tuple(sorted(expected.tolist()))


def test_signature_tasks_are_chosen_once_a_visit():
    learner, rule = make_learner(DRY), restore_rule(signature_tasks=2)
    rule(learner, batch_of(learner))
    first = rule.chosen
    learner.network.theta.neg_()
    rule(learner, batch_of(learner))
    assert rule.chosen is first


def test_steps_and_violations_are_tallied():
    """Once an obtuse example, once one that agrees with itself."""
    learner, tally = make_learner(DRY), Tally()
    restore_rule(tally)(learner, batch_of(learner))
    assert (tally.integrated_steps, tally.violated_steps) == (1, 1)
    labels = F.one_hot(torch.from_numpy(task_data().labels_N), CLASSES).float()
    same = FedKnowSettings(temperature=1.0)
    RestoreRule([labels], [learner.network.head.clone()], same, np.random.default_rng(0), tally)(
        learner, batch_of(learner)
    )
    assert (tally.integrated_steps, tally.violated_steps) == (2, 1)


def test_an_update_that_still_goes_against_a_past_task_is_tallied_after_the_step():
    learner, tally = make_learner(DRY), Tally()
    restore_rule(tally)(learner, batch_of(learner))
    learner.network.grad.neg_()  # an optimizer that undoes everything
    assert tally.violated_after_steps == 0
    learner.optimize()
    assert tally.violated_after_steps == 1


def test_work_of_one_integration_by_hand():
    """k = 2, P = 100: Gram 2 x 9 x 100 and combination 2 x 3 x 100 FLOPs; three rows read twice, one written."""
    footprint = Footprint(P=100, B=0, F=1, forward_flops=0, backward_flops=0, kept_bytes=0, input_bytes=0)
    item = integration_work(StepCosts(footprint, make_learner(DRY).training), 2)
    assert (item.phase, item.flops, item.moved_bytes) == ("integrate", 2400, 7 * 400)


def second_use_rule(learner: Learner, seed: int = 9, margin: float = 0.0) -> SecondUseRule:
    own = make_learner(NORMED if learner.network.B else DRY, seed=seed).network
    state_S = torch.tensor(own.state())
    return SecondUseRule(state_S[: own.P], state_S[own.P :], torch.tensor(own.head_rows()), margin, Tally())


@pytest.mark.parametrize("spec", [TINY, NORMED], ids=lambda spec: spec.name)
def test_second_use_takes_both_gradients_on_the_same_batch_and_mask(seen: list[Tensor], spec: ModelSpec):
    """The twins draw their dropout masks from the same state of the generator."""
    learner = make_learner(spec)
    learner.network.features.train()
    rule = second_use_rule(learner)
    batch, twin = batch_of(learner), twin_of(learner, spec).train()
    own = twin_of(learner, spec, torch.cat([rule.own_P, rule.own_B]).numpy()).train()
    expected = []
    for model, head in ((twin, learner.network.head), (own, rule.own_head_RF)):
        torch.manual_seed(7)
        loss = F.cross_entropy(model(batch.x_NCHW) @ head[:, :-1].T + head[:, -1], batch.y_N)
        loss.backward()
        expected.append(flat_gradient(learner.network, model))
    torch.manual_seed(7)
    rule(learner, batch)
    torch.testing.assert_close(seen[0], torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_second_use_draws_as_much_as_one_forward_pass():
    """So that the epochs after it meet the masks that they would meet without it."""
    learner = make_learner(TINY)
    learner.network.features.train()
    rule = second_use_rule(learner)
    torch.manual_seed(7)
    learner.network.features(batch_of(learner).x_NCHW)
    expected = torch.rand(1)
    torch.manual_seed(7)
    rule(learner, batch_of(learner))
    assert torch.equal(torch.rand(1), expected)


def test_second_use_from_the_own_model_constrains_nothing(seen: list[Tensor]):
    """g and g_b are the same gradient: cosine 1, no violation, g' = g."""
    learner = make_learner(TINY)
    learner.network.features.train()
    state_S = torch.tensor(learner.network.state())
    rule = SecondUseRule(state_S, torch.empty(0), learner.network.head.clone(), 0.0, Tally())
    rule(learner, batch_of(learner))
    assert rule.cosines == pytest.approx([1.0], abs=1e-5)
    assert rule.norms == pytest.approx([float(seen[0][0].norm())], rel=1e-5)
    assert (rule.tally.integrated_steps, rule.tally.violated_steps) == (1, 0)
    torch.testing.assert_close(learner.network.grad[: learner.network.P], seen[0][0])


def test_second_use_leaves_the_own_model_as_it_is():
    learner = make_learner(DRY)
    rule = second_use_rule(learner)
    own_P, head = rule.own_P.detach().clone(), rule.own_head_RF.clone()
    for _ in range(2):
        rule(learner, batch_of(learner))
        learner.optimize()
    assert torch.equal(rule.own_P, own_P)
    assert torch.equal(rule.own_head_RF, head)


def test_restoring_costs_one_backward_pass_a_task():
    learner = make_learner(DRY)
    restore_rule()(learner, batch_of(learner))
    costs = learner.costs
    backward, integration = costs.backward("restore", 6, CLASSES), integration_work(costs, TASKS)
    counted = steps_of(learner.log.work())
    assert counted["restore", backward.flops, backward.moved_bytes] == TASKS
    assert counted["integrate", integration.flops, integration.moved_bytes] == 1


def test_the_method_hands_each_task_its_own_head_rows(seen: list[Tensor]):
    """Through whole visits: the first step's restored gradients are those of the heads as they were left."""
    bench = Bench("fedknow", {"second_use": "off"}, spec=DRY)
    bench.live_through(3)
    memory, order = bench.state().memory, bench.order(VisitKind.TRAIN, 3)
    seen.clear()
    head_CF = torch.tensor(bench.state().head_CF)
    bench.visit(VisitKind.TRAIN, 3)
    assert len(memory.knowledge) == 3
    bench.learner.network.load(bench.broadcast.features_S)
    data = bench.data(order)
    twin = twin_of(bench.learner, DRY)
    x_NHWC = bench.learner.normalisation(data.images_NHWC)
    labels = bench.state().memory.labels_NC
    where = {"client": 0, "task": 3, "round_index": 0}
    indices = stream(order.seed, "train/order", **where).permutation(20)[:8]
    batch = Batch(indices, x_NHWC[indices].permute(0, 3, 1, 2), torch.from_numpy(data.labels_N)[indices])
    expected = [
        obvious_gradient(twin, head_CF[2 * task : 2 * task + 2], batch, labels[task][indices], 2.0) for task in range(3)
    ]
    torch.testing.assert_close(seen[0][1:], torch.stack(expected), atol=1e-6, rtol=1e-5)
