"""The penalty of important weights, by hand, and gradients of single images against ordinary autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from laws import flops_are_those_that_torch_counts
from torch import Tensor
from workbench import CLASSES, NORMED, TINY, Bench, flat_gradient, make_learner, steps_of, task_data, twin_of

from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.importance import Anchor, image_gradients, plan_image_gradients, pull
from fedknow_ray.models.catalogue import ModelSpec

ANCHOR = Anchor(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 0.5, 2.0]))


def test_the_pull_is_the_way_times_importance_times_strength():
    grad_P = torch.tensor([1.0, 1.0, 1.0])
    pull(torch.tensor([5.0, 4.0, 2.0]), grad_P, ANCHOR, strength=10.0, rate=None)
    assert grad_P.tolist() == [1.0, 11.0, -19.0]


def test_with_a_rate_a_step_is_the_proximal_one():
    """w' = (w - rate g + rate k w*) / (1 + rate k) with k = 0, 5 and 20 and a rate of 0.1."""
    w_P, grad_P = torch.tensor([5.0, 4.0, 2.0]), torch.tensor([1.0, 1.0, 1.0])
    pull(w_P, grad_P, ANCHOR, strength=10.0, rate=0.1)
    np.testing.assert_allclose(w_P - 0.1 * grad_P, [4.9, (3.9 + 1.0) / 1.5, (1.9 + 6.0) / 3.0], rtol=1e-6)


def test_however_strong_it_goes_no_farther_than_the_anchor():
    w_P, grad_P = torch.tensor([5.0, 4.0, 2.0]), torch.zeros(3)
    pull(w_P, grad_P, ANCHOR, strength=1e12, rate=0.1)
    np.testing.assert_allclose(w_P - 0.1 * grad_P, [5.0, 2.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("spec", [TINY, NORMED], ids=lambda spec: spec.name)
def test_an_images_gradient_is_that_of_ordinary_autograd(spec: ModelSpec):
    """Of the sum of squares of its logits, image by image, with dropout off and running statistics."""
    learner, data = make_learner(spec), task_data(images=5)
    module = twin_of(learner, spec).eval()
    x_NCHW = learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    head_RF = learner.network.head.clone()
    found = [g_P.clone() for g_P in image_gradients(learner, data, lambda logits_1R, _: 2 * logits_1R)]
    assert len(found) == 5
    for n, g_P in enumerate(found):
        module.zero_grad()
        (module(x_NCHW[n : n + 1]) @ head_RF[:, :-1].T + head_RF[:, -1]).square().sum().backward()
        np.testing.assert_allclose(g_P, flat_gradient(learner.network, module), rtol=1e-4, atol=1e-6)


def test_the_push_is_told_which_image_it_is():
    seen = []

    def push(logits_1R: Tensor, index: int) -> Tensor:
        seen.append((index, tuple(logits_1R.shape)))
        return logits_1R

    list(image_gradients(make_learner(), task_data(images=3), push))
    assert seen == [(0, (1, CLASSES)), (1, (1, CLASSES)), (2, (1, CLASSES))]


def test_the_work_of_an_image_is_a_forward_and_a_backward_pass_and_adding_up():
    """The bytes of both passes are those of a step of training with one image."""
    bench = Bench("ewc")
    costs: StepCosts = bench.method.costs
    work = plan_image_gradients(costs, bench.order(VisitKind.FINISH_TASK).facts)
    once = [costs.forward("importance", 1, 0), costs.backward("importance", 1, CLASSES), costs.passes("importance", 3)]
    assert steps_of(work) == steps_of(repeat(once, 20))
    head = costs.footprint.head_forward_flops(1, CLASSES)
    assert work.flops == 20 * (costs.forward_backward("train", 1, CLASSES).flops - head)


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_two_vectors_are_kept_for_any_number_of_tasks(name: str):
    """275 weights of 4 bytes."""
    bench = Bench(name)
    kept = [bench.method.kept_bytes(bench.order(VisitKind.TRAIN, t).facts) for t in range(4)]
    assert kept == [0, 2 * 1100, 2 * 1100, 2 * 1100]
    bench.live_through(3)
    memory = bench.state().memory
    assert memory.weights_P.nbytes + memory.importance_P.nbytes == 2 * 1100


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_a_later_task_takes_memory_for_the_anchor_and_the_way_to_it(name: str):
    bench, fedavg = Bench(name), Bench("fedavg")
    more = []
    for task_index in range(3):
        facts = bench.order(VisitKind.TRAIN, task_index).facts
        plans = bench.method.plan_train(facts), fedavg.method.plan_train(facts)
        more.append(plans[0].peak_memory_bytes - plans[1].peak_memory_bytes)
    assert more == [0, 3 * 1100, 3 * 1100]


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_the_anchor_is_the_clients_own_model_at_the_end_of_its_last_task(name: str):
    bench = Bench(name)
    bench.live_through(2)
    own_S = bench.state().own_S
    assert own_S is not None
    np.testing.assert_array_equal(bench.state().memory.weights_P, own_S[:275])


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_a_client_that_knows_nothing_of_its_past_trains_as_fedavg(name: str):
    bench, fedavg = Bench(name), Bench("fedavg")
    for each in (bench, fedavg):
        each.visit(VisitKind.TRAIN, 2)
    np.testing.assert_array_equal(bench.state().own_S, fedavg.state().own_S)


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_planned_flops_are_those_that_torch_counts(name: str):
    flops_are_those_that_torch_counts(name, {})
