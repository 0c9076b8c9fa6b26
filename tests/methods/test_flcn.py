"""FLCN: the penalty and the importance against autograd, and FedAvg where the penalty is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from workbench import DRY, NORMED, SGD, SIZE, Bench, flat_gradient, make_learner, task_data, training, twin_of

from fedknow_ray.federation.visit import SharedModel, VisitKind, plan_visit
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.flcn import FlcnSettings, add_penalty, importance
from fedknow_ray.models.footprint import measure_footprint


def ones(bench: Bench, value: float = 1.0) -> SharedModel:
    served = {"importance": np.full(bench.learner.network.P, value, np.float32)}
    return SharedModel(bench.broadcast.features_S, bench.broadcast.head_CF, served)


def test_the_penalty_has_the_gradient_of_its_formula():
    """d/dw of lambda sum I (w - w_G)^2, by autograd, on top of what is there; the head is left alone."""
    learner = make_learner()
    network, rng = learner.network, torch.Generator().manual_seed(3)
    anchor_P, importance_P = (torch.rand(network.P, generator=rng) for _ in range(2))
    network.grad.fill_(0.5)
    add_penalty(learner, anchor_P, importance_P, 3.0)
    w_P = network.theta[: network.P].clone().requires_grad_()
    (3.0 * (importance_P * (w_P - anchor_P) ** 2).sum()).backward()
    assert w_P.grad is not None
    torch.testing.assert_close(network.grad[: network.P], w_P.grad + 0.5)
    assert (network.grad[network.P :] == 0.5).all()


def by_hand(spec: object, images: NDArray[np.uint8], batch: int) -> torch.Tensor:
    """The slow twin: an ordinary module, one backward pass of the mean of ||f||^2 a batch, sizes averaged."""
    learner = make_learner(NORMED)
    module = twin_of(learner, NORMED).eval()
    x_NCHW = learner.normalisation(images).permute(0, 3, 1, 2)
    total_P = torch.zeros(learner.network.P)
    for piece_NCHW in x_NCHW.split(batch):
        module.zero_grad()
        (module(piece_NCHW) ** 2).sum(dim=1).mean().backward()
        total_P += len(piece_NCHW) * flat_gradient(learner.network, module).abs()
    return total_P / len(x_NCHW)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_importance_is_that_of_its_slow_twin(batch: int):
    """Seven images: the last batch of three is of one."""
    images = task_data(images=7).images_NHWC
    learner = make_learner(NORMED)
    got_P = importance(learner, images, batch)
    torch.testing.assert_close(got_P, by_hand(NORMED, images, batch))
    assert got_P.sum() > 0


def test_images_that_pull_in_opposite_ways_count_by_themselves():
    """Of a batch the gradients cancel; of each by itself they do not, so the sum of sizes is no smaller."""
    images = task_data(images=8).images_NHWC
    one_P, eight_P = (importance(make_learner(DRY), images, batch) for batch in (1, 8))
    assert (one_P - eight_P >= -1e-6).all()
    assert one_P.sum() > eight_P.sum()


def test_importance_is_a_function_of_model_and_images():
    """Whatever the learner did before; and the model stays as it is."""
    learner = make_learner()
    before_S = learner.network.state()
    first_P = importance(learner, task_data(1).images_NHWC, 1)
    importance(learner, task_data(2).images_NHWC, 1)
    assert torch.equal(importance(learner, task_data(1).images_NHWC, 1), first_P)
    np.testing.assert_array_equal(learner.network.state(), before_S)


@pytest.mark.parametrize("head_global", [False, True])
def test_without_strength_it_trains_what_fedavg_trains(head_global: bool):
    """To the bit, whatever the importance is; and with strength as well while there is none, as in the first round."""
    plain = Bench("fedavg", head_global=head_global)
    nothing, first = Bench("flcn", {"strength": 0}, head_global=head_global), Bench("flcn", head_global=head_global)
    nothing.broadcast = ones(nothing)
    updates = [bench.visit(VisitKind.TRAIN)[1] for bench in (plain, nothing, first)]
    for update in updates[1:]:
        assert update is not None and updates[0] is not None
        assert update.arrays().keys() == updates[0].arrays().keys()
        np.testing.assert_array_equal(update.features_S, updates[0].features_S)
    for bench in (nothing, first):
        np.testing.assert_array_equal(bench.state().head_CF, plain.state().head_CF)


def test_importance_holds_the_model_where_it_was():
    """The larger, the less the features move; with plain gradient descent, where the step is the gradient."""
    moved = []
    for value in (0.0, 0.1, 1.0):
        bench = Bench("flcn", config=training(optimizer=SGD.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})))
        bench.broadcast = ones(bench, value)
        _, update, _ = bench.visit(VisitKind.TRAIN)
        assert update is not None
        moved.append(float(np.linalg.norm(update.features_S - bench.broadcast.features_S)))
    assert moved[0] > moved[1] > moved[2] > 0


def test_the_optimum_on_a_quadratic_is_the_closed_form():
    """1/2 (w - a)^2 + lambda I (w - g)^2 is least at (a + 2 lambda I g) / (1 + 2 lambda I), each weight by itself."""
    learner = make_learner()
    network, strength = learner.network, 0.7
    rng = torch.Generator().manual_seed(1)
    a_P, anchor_P, importance_P = (torch.rand(network.P, generator=rng) for _ in range(3))
    for _ in range(400):
        network.grad[: network.P] = network.theta[: network.P] - a_P
        add_penalty(learner, anchor_P, importance_P, strength)
        network.theta[: network.P] -= 0.3 * network.grad[: network.P]
    weight_P = 2 * strength * importance_P
    torch.testing.assert_close(network.theta[: network.P], (a_P + weight_P * anchor_P) / (1 + weight_P))


def test_importance_takes_room_in_every_visit():
    """P floats of the broadcast more than FedAvg holds, and nothing of them is work but the penalty."""
    flcn, fedavg = Bench("flcn"), Bench("fedavg")
    P = flcn.learner.network.P
    for kind in (VisitKind.TRAIN, VisitKind.FINISH_TASK):
        plans = [plan_visit(bench.order(kind), bench.method) for bench in (flcn, fedavg)]
        assert plans[0].peak_memory_bytes - plans[1].peak_memory_bytes == 4 * P
    costs = StepCosts(measure_footprint(flcn.spec, **SIZE), flcn.config)
    plans = [plan_visit(bench.order(VisitKind.TRAIN), bench.method) for bench in (flcn, fedavg)]
    # two epochs of batches of 8, 8 and 4 of 20 images
    assert plans[0].work.moved_bytes - plans[1].work.moved_bytes == 6 * costs.passes("penalty", 5).moved_bytes


@pytest.mark.parametrize(
    "wrong",
    [{"strength": -1}, {"strength": float("inf")}, {"server_samples": 0}, {"server_samples": 1.1}, {"lambda": 1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValidationError):
        FlcnSettings(**wrong)
