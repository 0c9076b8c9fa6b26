"""Learning without forgetting: labels and gradient against ordinary autograd, and the limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from laws import flops_are_those_that_torch_counts, is_fedavg_to_the_bit, life
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from workbench import CLASSES, DRY, NORMED, Bench, flat_gradient, make_learner, task_data, twin_of

from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.learner import Batch, cross_entropy_rule
from fedknow_ray.methods.lwf import Lwf, LwfSettings, distilling_rule

TASKS = 3


def past(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Labels (t, N, R) and head rows (t, R, F + 1) of past tasks."""
    generator = torch.Generator().manual_seed(seed)
    labels_tNR = torch.softmax(3 * torch.randn(TASKS, 20, CLASSES, generator=generator), dim=2)
    return labels_tNR, torch.randn(TASKS, CLASSES, 6, generator=generator)


def first_batch(indices: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
    data, learner = task_data(), make_learner(DRY)
    x_NCHW = learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    return Batch(indices, x_NCHW[torch.from_numpy(indices)], torch.from_numpy(data.labels_N[indices]))


@pytest.mark.parametrize(
    "wrong", [{"strength": -1.0}, {"temperature": 0.0}, {"temperature": float("inf")}, {"mu": 1.0}], ids=str
)
def test_other_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        LwfSettings(**wrong)


def test_with_no_strength_it_is_fedavg_to_the_bit():
    is_fedavg_to_the_bit("lwf", {"strength": 0.0})


def test_with_some_it_differs_from_the_second_task_on():
    distilled, free = life("lwf", {}), life("fedavg", {})
    assert distilled[:3] == free[:3]
    assert distilled[3][0] != free[3][0]


@pytest.mark.parametrize(("strength", "temperature"), [(1.0, 2.0), (0.5, 1.0), (3.0, 4.0)])
def test_a_steps_gradient_is_that_of_the_sum_of_losses(strength: float, temperature: float):
    """The slow way: each past task's soft cross entropy with F.cross_entropy on probabilities, all added up."""
    learner, indices = make_learner(DRY), np.array([7, 2, 19, 11, 0])
    labels_tNR, heads_tRF = past()
    batch, module = first_batch(indices), twin_of(learner, DRY)
    head_RF = learner.network.head.clone().requires_grad_()
    z_NF = module(batch.x_NCHW)
    own = F.cross_entropy(z_NF @ head_RF[:, :-1].T + head_RF[:, -1], batch.y_N)
    loss = own
    for said_NR, past_RF in zip(labels_tNR[:, indices], heads_tRF, strict=True):
        logits_NR = z_NF @ past_RF[:, :-1].T + past_RF[:, -1]
        loss = loss + strength * F.cross_entropy(logits_NR / temperature, said_NR)
    loss.backward()
    told = distilling_rule(labels_tNR, heads_tRF, LwfSettings(strength=strength, temperature=temperature))(
        learner, batch
    )
    assert told == pytest.approx(float(own.detach()), rel=1e-6), "the loss that is told is of the task alone"
    P = learner.network.P
    np.testing.assert_allclose(learner.network.grad[:P], flat_gradient(learner.network, module), rtol=1e-4, atol=1e-6)
    assert head_RF.grad is not None
    np.testing.assert_allclose(learner.network.head_grad, head_RF.grad, rtol=1e-4, atol=1e-6)


def test_a_student_that_says_what_the_labels_say_is_not_pushed():
    learner, indices = make_learner(DRY), np.arange(6)
    batch, (_, heads_tRF) = first_batch(np.arange(6)), past()
    with torch.no_grad():
        z_NF = learner.network(batch.x_NCHW)
        logits_tNR = z_NF @ heads_tRF[:, :, :-1].transpose(1, 2) + heads_tRF[:, None, :, -1]
    labels_tNR = torch.zeros(TASKS, 20, CLASSES)
    labels_tNR[:, indices] = torch.softmax(logits_tNR / 2, dim=2)
    distilling_rule(labels_tNR, heads_tRF, LwfSettings(strength=5.0))(learner, batch)
    pushed = learner.network.grad.clone()
    cross_entropy_rule(learner, batch)
    np.testing.assert_allclose(pushed, learner.network.grad, atol=1e-6)


def test_labels_are_what_the_clients_own_model_says_of_the_new_images():
    """Of its model at the end of the last task, in evaluation mode, at temperature 2; the broadcast is another."""
    bench = Bench("lwf", spec=NORMED)
    bench.live_through(1)
    bench.visit(VisitKind.TRAIN, 1)
    bench.visit(VisitKind.FINISH_TASK, 1, trained=True)
    before = bench.state()
    assert before.own_S is not None
    order, _, _ = bench.visit(VisitKind.TRAIN, 2)
    learner = make_learner(NORMED)
    teacher = twin_of(learner, NORMED, before.own_S).eval()
    images = bench.data(order).images_NHWC
    with torch.no_grad():
        z_NF = teacher(learner.normalisation(images).permute(0, 3, 1, 2))
    labels_tNR = bench.state().memory.labels_tNR
    assert labels_tNR.shape == (2, 20, 2)
    for task_index in range(2):
        head_RF = torch.tensor(before.head_CF[2 * task_index : 2 * task_index + 2])
        expected_NR = torch.softmax((z_NF @ head_RF[:, :-1].T + head_RF[:, -1]) / 2, dim=1)
        np.testing.assert_allclose(labels_tNR[task_index], expected_NR, rtol=1e-5)


def test_they_are_made_once_a_task_and_gone_at_its_end():
    bench = Bench("lwf")
    bench.live_through(1)
    bench.visit(VisitKind.TRAIN, 1)
    first = bench.state().memory
    bench.visit(VisitKind.TRAIN, 1, trained=True)
    assert bench.state().memory is first
    bench.visit(VisitKind.FINISH_TASK, 1, trained=True)
    assert bench.state().memory is None


def test_labels_take_a_number_for_each_image_and_past_row():
    """20 images, 2 classes a task, 4 bytes."""
    bench, fedavg = Bench("lwf"), Bench("fedavg")
    facts = [bench.order(VisitKind.TRAIN, t).facts for t in range(4)]
    assert [bench.method.kept_bytes(each) for each in facts] == [0, 160, 320, 480]
    more = [
        bench.method.plan_train(each).peak_memory_bytes - fedavg.method.plan_train(each).peak_memory_bytes
        for each in facts
    ]
    assert more == [0, 160, 320, 480]
    bench.live_through(1)
    bench.visit(VisitKind.TRAIN, 2)
    assert bench.state().memory.labels_tNR.nbytes == 320


def test_planned_flops_are_those_that_torch_counts():
    flops_are_those_that_torch_counts("lwf", {})


def test_its_first_task_is_fedavgs_end_and_all():
    settings = LwfSettings(temperature=4.0, own_model="final")
    fedavg = {"method": "fedknow_ray.methods.fedavg.FedAvg"}
    assert Lwf.past_settings(settings, 0, finished=False) == fedavg
    assert Lwf.past_settings(settings, 0, finished=True) == {**fedavg, "own_model": "final"}
    own = {"method": f"{Lwf.__module__}.Lwf", "strength": 1.0, "temperature": 4.0, "own_model": "final"}
    assert Lwf.past_settings(settings, 1, finished=False) == own


def test_a_subclass_has_a_past_of_its_own_from_the_start():
    class Mine(Lwf):
        """As a plugin would have it."""

    assert Mine.past_settings(LwfSettings(), 0, finished=True)["method"].endswith("Mine")
