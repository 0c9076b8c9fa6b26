"""GEM: gradients of the memory against ordinary modules, its constraint, and what it is without a memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from remembering import batch_of, recall_of, third_task
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from workbench import DRY, SGD, Bench, flat_gradient, make_learner, steps_of, training, twin_of

from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.episodic import Recall
from fedknow_ray.methods.fedknow import rules
from fedknow_ray.methods.fedknow.integrator import IntegrationResult
from fedknow_ray.methods.gem import Gem, GemRule, GemSettings, past_gradient
from fedknow_ray.methods.learner import Learner, cross_entropy_rule
from fedknow_ray.simulation.work import Work

TRAIN, FINISH = VisitKind.TRAIN, VisitKind.FINISH_TASK


def obvious_past_gradient(learner: Learner, recall: Recall, task: int) -> Tensor:
    """A copy, one pass of all images of the task, automatic differentiation."""
    twin, head = twin_of(learner, DRY), recall.heads_kRF[task]
    z_MF = twin(recall.x_NCHW(recall.slices[task]))
    F.cross_entropy(z_MF @ head[:, :-1].T + head[:, -1], recall.labels_M[recall.slices[task]]).backward()
    return flat_gradient(learner.network, twin)


def own_gradient(learner: Learner) -> Tensor:
    cross_entropy_rule(learner, batch_of(learner, third_task()))
    return learner.network.grad[: learner.network.P].clone()


def contrary(seed: int) -> tuple[Learner, Recall]:
    """A learner and a memory; with these seeds the batch speaks against a past task or both."""
    learner = make_learner(DRY, seed=seed)
    return learner, recall_of(learner, third_task(seed))


@pytest.mark.parametrize("batch_size", [2, 3, 5, 8])
@pytest.mark.parametrize("task", [0, 1])
def test_a_past_gradient_is_that_of_the_mean_over_all_that_is_kept_of_the_task(task: int, batch_size: int):
    """However its five images are cut into batches."""
    learner = make_learner(DRY, training(batch_size=batch_size))
    recall = recall_of(learner, third_task())
    expected = obvious_past_gradient(learner, recall, task)
    torch.testing.assert_close(past_gradient(learner, recall, task), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_without_a_margin_no_step_speaks_against_a_past_task(seed: int):
    """<g', g_i> >= 0 but for rounding, and g' is the closest such vector: g' = g + sum v_i g_i, v_i <g', g_i> = 0."""
    learner, recall = contrary(seed)
    g_P, past = own_gradient(learner), [obvious_past_gradient(learner, recall, task) for task in range(2)]
    rule = GemRule(recall, 0.0)
    rule(learner, batch_of(learner, third_task()))
    new_P = learner.network.grad[: learner.network.P]
    cosines = [float(F.cosine_similarity(new_P, one, dim=0)) for one in past]
    assert min(cosines) >= -2e-6
    if all(float(g_P @ one) >= 0 for one in past):
        assert torch.equal(new_P, g_P)
    else:
        assert rule.tally.violated_steps == 1
        v, *_ = np.linalg.lstsq(torch.stack(past).double().numpy().T, (new_P - g_P).double().numpy(), rcond=None)
        assert (v >= -1e-5).all()
        assert np.abs(v * cosines).max() < 1e-4


def test_some_of_these_steps_had_to_change():
    changed = 0
    for seed in range(12):
        learner, recall = contrary(seed)
        rule = GemRule(recall, 0.0)
        rule(learner, batch_of(learner, third_task()))
        changed += rule.tally.violated_steps
    assert 3 <= changed <= 12


@pytest.mark.parametrize("seed", range(8))
def test_a_margin_adds_at_least_so_much_of_every_past_gradient(seed: int):
    """g' = g + v_1 g_1 + v_2 g_2, v >= 0.5, wherever g speaks against one of them."""
    learner, recall = contrary(seed)
    g_P, past = own_gradient(learner), [obvious_past_gradient(learner, recall, task) for task in range(2)]
    rule = GemRule(recall, 0.5)
    rule(learner, batch_of(learner, third_task()))
    new_P = learner.network.grad[: learner.network.P]
    if not rule.tally.violated_steps:
        assert torch.equal(new_P, g_P)
        return
    v, *_ = np.linalg.lstsq(torch.stack(past).double().numpy().T, (new_P - g_P).double().numpy(), rcond=None)
    assert (v >= 0.5 - 1e-4).all()


def test_the_head_keeps_its_own_gradient():
    learner, recall = contrary(0)
    own_gradient(learner)
    expected = learner.network.head_grad.clone()
    GemRule(recall, 0.5)(learner, batch_of(learner, third_task()))
    assert torch.equal(learner.network.head_grad, expected)


def test_without_memory_it_is_fedavg_to_the_bit():
    gem, plain = Bench("gem", {"memory_fraction": 0.0}), Bench("fedavg")
    for (order, report), (_, expected) in zip(gem.live_through(4), plain.live_through(4), strict=True):
        assert steps_of(report.work) == steps_of(expected.work)
        assert plan_visit(order, gem.method) == plan_visit(order, plain.method)
        assert report.loss == expected.loss
    assert gem.state().own_S.tobytes() == plain.state().own_S.tobytes()
    assert gem.state().head_CF.tobytes() == plain.state().head_CF.tobytes()


def test_in_the_first_task_it_is_fedavg_to_the_bit_and_says_so():
    gem, plain = Bench("gem"), Bench("fedavg")
    for bench in (gem, plain):
        bench.visit(TRAIN)
        bench.visit(TRAIN, trained=True, round_index=1)
    assert gem.state().own_S.tobytes() == plain.state().own_S.tobytes()
    assert gem.state().memory is None
    assert Gem.past_settings(GemSettings(), 0, finished=False) == {"method": "fedknow_ray.methods.fedavg.FedAvg"}
    assert Gem.past_settings(GemSettings(), 1, finished=False)["margin"] == 0.5


def test_a_visit_tells_how_many_steps_it_checked_and_changed():
    """Two epochs of three batches, in task 1; none in task 0."""
    bench = Bench("gem", config=training(optimizer=SGD))
    _, _, first = bench.visit(TRAIN)
    assert (first.integrated_steps, first.violated_steps, first.notes) == (None, None, {})
    bench.visit(FINISH, trained=True)
    _, _, report = bench.visit(TRAIN, 1)
    assert report.integrated_steps == 6
    assert report.violated_steps is not None and 0 <= report.violated_steps <= 6
    assert set(report.notes) == {"violated_after_steps"}


def test_planned_flops_are_those_that_torch_counts(monkeypatch: pytest.MonkeyPatch):
    """The integration is left out, whose work is planned whether needed or not."""

    def skip(G_RP: Tensor, margin: float, out: Tensor | None = None) -> IntegrationResult:
        return IntegrationResult(G_RP[0] if out is None else out.copy_(G_RP[0]), np.zeros(3), 0, np.ones(3))

    bench = Bench("gem", {"memory_fraction": 0.5}, spec=DRY)
    bench.live_through(3)
    order = bench.order(TRAIN, 3)
    monkeypatch.setattr(rules, "integrate", skip)
    with FlopCounterMode(display=False) as counter:
        bench.visit(TRAIN, 3)
    network = [item for item in plan_visit(order, bench.method).work.items if item.phase != "integrate"]
    assert counter.get_total_flops() == Work(tuple(network)).flops


def test_the_peak_grows_with_the_memory_and_a_gradient_for_each_past_task():
    """Three past tasks, two images of each: six of 72 bytes and 256 as floats; g, three g_i, the weights before."""
    bench = Bench("gem")
    facts, costs = bench.order(TRAIN, 3).facts, bench.method.costs
    added = bench.method.plan_train(facts).peak_memory_bytes - costs.training_bytes(facts)
    assert added == 6 * (72 + 256) + 5 * costs.footprint.weight_bytes


def test_where_little_is_at_hand_the_memory_makes_the_largest_batch():
    """Eight of 16 images are kept of a task, and two images are at hand."""
    bench = Bench("gem", {"memory_fraction": 0.5}, images=2)
    facts = replace(bench.order(TRAIN, 1).facts, past_images=(16,))
    costs = bench.method.costs
    added = bench.method.plan_train(facts).peak_memory_bytes - costs.training_bytes(facts)
    assert added == 8 * (72 + 256) + 3 * costs.footprint.weight_bytes + 6 * costs.footprint.kept_bytes


@pytest.mark.parametrize("wrong", [{"margin": -0.1}, {"replay_ratio": 1}], ids=str)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GemSettings(**wrong)
