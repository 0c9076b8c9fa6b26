"""Joint training: the images of all tasks, each under its own head rows, and FedAvg where there is one task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from workbench import (
    ADAM,
    CLASSES,
    DRY,
    NORMED,
    SGD,
    Bench,
    flat_gradient,
    make_learner,
    steps_of,
    task_data,
    training,
    twin_of,
)

from fedknow_ray.config.model import SgdOptimizer
from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.joint import JointRule
from fedknow_ray.methods.learner import Batch, Learner
from fedknow_ray.methods.method import TaskData

PLAIN = SgdOptimizer(lr=0.1, lr_decay=0.0)


def all_tasks(tasks: int, images: int = 10) -> TaskData:
    """The data of a visit in the last of so many tasks, with seeded head rows of the earlier ones."""
    *past, last = [task_data(seed=task, images=images, task_index=task) for task in range(tasks)]
    rng = np.random.default_rng(9)
    heads = tuple(rng.normal(size=(CLASSES, 6)).astype(np.float32) for _ in past)
    return replace(last, past_heads=heads, past=tuple(past))


def batch_of(learner: Learner, data: TaskData, indices: list[int]) -> Batch:
    """Some images of a visit, counted on from those of its own task through the earlier ones."""
    parts = (data, *data.past)
    x_NCHW = learner.normalisation(np.concatenate([part.images_NHWC for part in parts])).permute(0, 3, 1, 2)
    labels_N = torch.from_numpy(np.concatenate([part.labels_N for part in parts]))
    return Batch(np.array(indices), x_NCHW[indices], labels_N[indices])


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("own_model", ["last_visit", "final"])
@pytest.mark.parametrize("head_global", [False, True], ids=["local head", "global head"])
def test_on_one_task_it_is_fedavg_to_the_bit(optimizer: Any, own_model: str, head_global: bool):
    hyper, config = {"own_model": own_model}, training(optimizer=optimizer)
    joint, fedavg = (
        Bench(name, hyper, config=config, spec=NORMED, head_global=head_global) for name in ("joint", "fedavg")
    )
    for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.TRAIN, True), (VisitKind.FINISH_TASK, True)):
        order, update, report = joint.visit(kind, trained=trained)
        _, expected, wanted = fedavg.visit(kind, trained=trained)
        assert (update is None) is (expected is None)
        if update is not None:
            assert update.payload().tobytes() == expected.payload().tobytes()
        assert joint.state().own_S.tobytes() == fedavg.state().own_S.tobytes()
        assert joint.state().head_CF.tobytes() == fedavg.state().head_CF.tobytes()
        assert report.loss == wanted.loss
        assert plan_visit(order, joint.method) == plan_visit(order, fedavg.method)


def test_a_visit_is_that_of_an_ordinary_network_with_a_layer_a_task():
    """torch's own SGD over three linear layers, image by image; the last task's images come first, unshuffled."""
    config = training(optimizer=PLAIN, shuffle=False, local_epochs=1)
    bench = Bench("joint", config=config, spec=DRY, images=10)
    module = twin_of(bench.learner, DRY, bench.broadcast.features_S)
    layers = [linear_layer(bench.head_CF[2 * task : 2 * task + 2]) for task in range(3)]
    sgd = torch.optim.SGD([*module.parameters(), *(p for layer in layers for p in layer.parameters())], lr=0.1)
    parts = [(task, bench._data(0, task)) for task in (2, 0, 1)]
    images = [
        (task, x_HWC, label)
        for task, data in parts
        for x_HWC, label in zip(data.images_NHWC, data.labels_N, strict=True)
    ]
    losses = []
    for start in range(0, 30, 8):
        of_each = []
        for task, x_HWC, label in images[start : start + 8]:
            x_NCHW = bench.learner.normalisation(x_HWC[None]).permute(0, 3, 1, 2)
            of_each.append(F.cross_entropy(layers[task](module(x_NCHW)), torch.tensor([label])))
        sgd.zero_grad()
        torch.stack(of_each).mean().backward()
        sgd.step()
        losses += [loss.item() for loss in of_each]
    _, _, report = bench.visit(VisitKind.TRAIN, 2)
    np.testing.assert_allclose(bench.state().own_S, flat_values(bench.learner, module), atol=1e-6)
    for task, layer in enumerate(layers):
        trained_RF = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().numpy()
        np.testing.assert_allclose(bench.state().head_CF[2 * task : 2 * task + 2], trained_RF, atol=1e-6)
    assert report.loss == pytest.approx(sum(losses) / 30, rel=1e-5)


def linear_layer(head_RF: np.ndarray) -> nn.Linear:
    layer = nn.Linear(head_RF.shape[1] - 1, len(head_RF))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head_RF[:, :-1]))
        layer.bias.copy_(torch.from_numpy(head_RF[:, -1]))
    return layer


def flat_values(learner: Learner, module: nn.Module) -> Tensor:
    """The weights of an ordinary module in the order of the flat vector."""
    out_P = torch.zeros(learner.network.P)
    learner.network.write_gradients(tuple(p.detach() for p in module.parameters()), out_P)
    return out_P


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 29), min_size=1, max_size=12))
def test_the_gradient_of_any_batch_is_that_of_its_mean_loss(indices: list[int]):
    """Whatever tasks its images are of; autograd on the loss of each image by itself."""
    learner, data = make_learner(DRY, training(optimizer=SgdOptimizer(lr=1.0, lr_decay=0.0))), all_tasks(3)
    module, rule, batch = twin_of(learner, DRY), JointRule(learner, data), batch_of(learner, data, indices)
    heads = [torch.tensor(head, requires_grad=True) for head in (learner.network.head_rows(), *data.past_heads)]
    z_NF = module(batch.x_NCHW)
    of_each = [
        F.cross_entropy((heads[i // 10][:, :-1] @ z_F + heads[i // 10][:, -1])[None], label[None])
        for i, z_F, label in zip(indices, z_NF, batch.y_N, strict=True)
    ]
    torch.stack(of_each).mean().backward()
    assert rule(learner, batch) == pytest.approx(torch.stack(of_each).mean().item(), rel=1e-5)
    P = learner.network.P
    torch.testing.assert_close(learner.network.grad[:P], flat_gradient(learner.network, module), rtol=0, atol=1e-6)
    zero = torch.zeros(CLASSES, 6)
    for head, moved in zip(heads, [learner.network.head_rows(), *rule.past_heads(learner)], strict=True):
        # the past rows have made a step of rate 1 already, those of the task at hand wait for the learner's
        step = torch.tensor(moved) if head is not heads[0] else head.detach() - learner.network.head_grad
        torch.testing.assert_close(head.detach() - step, zero if head.grad is None else head.grad, rtol=0, atol=1e-6)


def test_the_heads_of_all_tasks_so_far_move_and_no_other():
    bench = Bench("joint", config=training(optimizer=SGD), head_global=True)
    _, update, _ = bench.visit(VisitKind.TRAIN, 2)
    moved = np.any(bench.state().head_CF != bench.head_CF, axis=1)
    assert moved.tolist() == [True] * 6 + [False] * 2
    np.testing.assert_array_equal(update.head_CF, bench.state().head_CF)


def test_a_task_that_recurs_has_one_head():
    """Places 0 and 2 have the rows of the network, place 1 has its own; both copies of place 0 come out as one."""
    learner, data = make_learner(DRY, training(optimizer=PLAIN)), all_tasks(3)
    rows = data.rows
    data = replace(data, past_rows=(rows, range(8, 10)))
    rule = JointRule(learner, data)
    rule(learner, batch_of(learner, data, [0, 12, 25]))
    learner.optimize()
    first, second = rule.past_heads(learner)
    np.testing.assert_array_equal(first, learner.network.head_rows())
    assert not np.array_equal(second, data.past_heads[1])


def test_its_past_is_left_as_it_was():
    """States are values: a lost visit can be made again."""
    bench = Bench("joint")
    before = bench.state().head_CF.copy()
    bench.visit(VisitKind.TRAIN, 2)
    np.testing.assert_array_equal(bench.head_CF, before)
    assert bench.state().memory is None


def test_a_visit_goes_over_all_images():
    """Of three tasks of 20: 8 batches an epoch, and as many steps of the 4 past head rows of 6 numbers with SGD, which
    reads the rows, their gradient and writes the rows, beside the gradient's writing."""
    bench = Bench("joint", config=training(optimizer=PLAIN))
    order, _, report = bench.visit(VisitKind.TRAIN, 2)
    steps = steps_of(report.work)
    assert sum(count for (phase, *_), count in steps.items() if phase == "train") == 16
    assert steps["past_heads", 0, 4 * 4 * 6 * (1 + 3)] == 16
    assert steps == steps_of(plan_visit(order, bench.method).work)


def test_the_images_are_kept_and_charged():
    """8 x 8 floats each; a visit holds them in training and at the end of a task, and in training the past head rows
    with gradient and two of Adam's states."""
    joint, fedavg = Bench("joint"), Bench("fedavg")
    images_bytes, heads_bytes = 40 * 8 * 8 * 4, 4 * 6 * 4 * (1 + 1 + 2)
    for kind, extra in ((VisitKind.TRAIN, images_bytes + heads_bytes), (VisitKind.FINISH_TASK, images_bytes)):
        for trained in (False, True):
            order = joint.order(kind, 2, trained=trained)
            assert joint.method.kept_bytes(order.facts) == images_bytes
            peaks = [plan_visit(order, bench.method).peak_memory_bytes for bench in (joint, fedavg)]
            assert peaks[0] - peaks[1] == extra


def test_planned_flops_are_those_that_torch_counts():
    bench = Bench("joint", spec=DRY)
    order = bench.order(VisitKind.TRAIN, 2)
    with FlopCounterMode(display=False) as counter:
        bench.visit(VisitKind.TRAIN, 2)
    assert counter.get_total_flops() == plan_visit(order, bench.method).work.flops


def test_no_other_method_sees_the_past():
    assert [name for name in METHODS.names() if METHODS.get(name).sees_past_data] == ["joint"]
