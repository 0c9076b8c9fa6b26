"""The training loop against the obvious one: torch.nn, ordinary autograd, an optimizer over parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from workbench import ADAM, CLASSES, DRY, NORMED, SGD, make_learner, steps_of, task_data, training, twin_of

from fedknow_ray.config.model import AdamOptimizer, SgdOptimizer, TrainingConfig
from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.learner import Learner, Normalisation, cross_entropy_rule, head_pass
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.models.catalogue import ModelSpec


def obvious_training(
    learner: Learner, spec: ModelSpec, config: TrainingConfig, order: np.random.Generator
) -> nn.Module:
    """Train a twin of the learner's model, head included, as anybody would."""
    data, features = task_data(), twin_of(learner, spec).train()
    head = nn.Linear(5, CLASSES)
    with torch.no_grad():
        head.weight.copy_(learner.network.head[:, :-1])
        head.bias.copy_(learner.network.head[:, -1])
    chosen = config.optimizer
    parameters = [*features.parameters(), *head.parameters()]
    optimizer = (
        torch.optim.Adam(parameters, lr=chosen.lr, weight_decay=chosen.weight_decay)
        if isinstance(chosen, AdamOptimizer)
        else torch.optim.SGD(parameters, lr=chosen.lr, momentum=chosen.momentum, weight_decay=chosen.weight_decay)
    )
    x_NHWC = (torch.from_numpy(data.images_NHWC).float() / 255 - 0.5) / 0.25
    step = 0
    torch.manual_seed(0)
    for _ in range(config.local_epochs):
        places = order.permutation(20) if config.shuffle else np.arange(20)
        for start in range(0, 20, config.batch_size):
            index = torch.from_numpy(places[start : start + config.batch_size])
            loss = F.cross_entropy(
                head(features(x_NHWC[index].permute(0, 3, 1, 2))), torch.from_numpy(data.labels_N)[index]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = chosen.lr / (1 + chosen.lr_decay * step)
            optimizer.step()
            step += 1
    return nn.Sequential(features, head)


@pytest.mark.parametrize("spec", [DRY, NORMED], ids=lambda spec: spec.name)
@pytest.mark.parametrize("optimizer", [ADAM, SGD, SgdOptimizer(lr=0.1)], ids=["adam", "momentum", "sgd"])
def test_training_equals_the_obvious_loop(optimizer: AdamOptimizer | SgdOptimizer, spec: ModelSpec):
    """Two steps of 10 images, with weight decay and a decaying rate."""
    config = training(local_epochs=1, batch_size=10, optimizer=optimizer)
    learner = make_learner(spec, config)
    twin = obvious_training(learner, spec, config, np.random.default_rng(4))
    learner.begin(np.random.default_rng(4))
    torch.manual_seed(0)
    learner.train(task_data(), 1, cross_entropy_rule)
    state, head = learner.network.state(), learner.network.head_rows()
    expected = make_learner(spec)
    features = twin[0]
    for parameter, view in zip(features.parameters(), expected.network.feature_parameters, strict=True):
        view.data.copy_(parameter)
    np.testing.assert_allclose(state[:275], expected.network.state()[:275], atol=1e-6)
    np.testing.assert_allclose(head[:, :-1], twin[1].weight.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(head[:, -1], twin[1].bias.detach().numpy(), atol=1e-6)


def test_the_loss_is_the_mean_over_images():
    """With a rate of almost nothing every batch is scored by the same weights: 20 images in batches of 8, 8 and 4."""
    config = training(optimizer=SgdOptimizer(lr=1e-12))
    learner = make_learner(DRY, config)
    loss = learner.train(task_data(), 2, cross_entropy_rule)
    x = learner.normalisation(task_data().images_NHWC).permute(0, 3, 1, 2)
    z_NF = learner.network.features(x).detach()
    logits = z_NF @ learner.network.head[:, :-1].T + learner.network.head[:, -1]
    assert loss == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(task_data().labels_N))), rel=1e-6)


def test_the_rate_decays_with_the_step():
    """SGD on a gradient of 1 moves by lr, lr / 1.5, lr / 2."""
    learner = make_learner(DRY, training(optimizer=SgdOptimizer(lr=0.5, lr_decay=0.5)))
    moves = []
    for _ in range(3):
        before = learner.network.theta.clone()
        learner.network.grad.fill_(1.0)
        learner.optimize()
        moves.append(float((before - learner.network.theta)[0]))
    assert moves == pytest.approx([0.5, 0.5 / 1.5, 0.25], rel=1e-5)


def batches_seen(config: TrainingConfig, seed: int = 3, epochs: int = 2) -> list[list[int]]:
    learner, seen = make_learner(DRY, config), []
    learner.begin(np.random.default_rng(seed))

    def rule(learner: Learner, batch: object) -> float:
        seen.append(batch.indices.tolist())  # type: ignore[attr-defined]
        return 0.0

    learner.train(task_data(), epochs, rule)
    return seen


def test_batches_cover_each_epoch_in_the_order_of_the_generator():
    rng = np.random.default_rng(3)
    orders = [rng.permutation(20).tolist() for _ in range(2)]
    assert batches_seen(training()) == [order[a:b] for order in orders for a, b in ((0, 8), (8, 16), (16, 20))]


def test_without_shuffling_images_come_as_they_lie():
    assert batches_seen(training(shuffle=False), epochs=1) == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]


def test_a_batch_holds_its_images_and_labels():
    learner, data = make_learner(DRY, training()), task_data()

    def rule(learner: Learner, batch: object) -> float:
        x_NHWC = learner.normalisation(data.images_NHWC[batch.indices])  # type: ignore[attr-defined]
        torch.testing.assert_close(batch.x_NCHW, x_NHWC.permute(0, 3, 1, 2))  # type: ignore[attr-defined]
        assert batch.y_N.tolist() == data.labels_N[batch.indices].tolist()  # type: ignore[attr-defined]
        return 0.0

    learner.train(data, 1, rule)


def test_after_step_is_called_once_after_the_coming_step():
    learner, seen = make_learner(DRY), []
    learner.network.grad.fill_(1.0)
    learner.after_step(lambda: seen.append(learner.step))
    assert seen == []
    learner.optimize()
    learner.optimize()
    assert seen == [1]


def test_a_visit_begins_without_the_past_one():
    """Optimizer moments, step count, log and order all start anew."""

    def visit(learner: Learner) -> Tensor:
        start = make_learner().network
        learner.network.load(start.state(), start.head_rows())
        learner.begin(np.random.default_rng(1))
        torch.manual_seed(0)
        learner.train(task_data(), 1, cross_entropy_rule)
        return learner.network.theta.clone()

    learner = make_learner()
    first = visit(learner)
    work = learner.log.work()
    assert torch.equal(visit(learner), first)
    assert learner.log.work() == work


def test_training_the_head_leaves_the_features():
    learner = make_learner(NORMED)
    before, head = learner.network.state(), learner.network.head_rows()
    learner.train_head(task_data())
    np.testing.assert_array_equal(learner.network.state(), before)
    assert not np.array_equal(learner.network.head_rows(), head)


def test_training_the_head_lowers_its_loss():
    learner = make_learner(DRY, training(local_epochs=1, optimizer=AdamOptimizer(lr=0.05)))
    losses = [learner.train_head(task_data()) for _ in range(8)]
    assert losses[-1] < losses[0]


def test_training_the_head_counts_what_it_plans():
    learner, facts = make_learner(), object.__new__(type("Facts", (), {"images": 20, "classes": CLASSES}))
    learner.train_head(task_data())
    assert steps_of(learner.log.work()) == steps_of(learner.costs.head_training(facts))


def test_the_head_is_trained_for_as_many_epochs_as_asked():
    learner, data = make_learner(), task_data()
    learner.train_head(data, 5)
    steps = steps_of(learner.log.work())
    assert sum(count for step, count in steps.items()) == 3 + 15
    assert steps == steps_of(learner.costs.head_training(VisitFacts(0, 0, 0, 20, CLASSES, False), 5))


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_a_frozen_head_stays_and_the_features_train_as_a_visit_of_them_alone_begins(optimizer: Any):
    """With momentum and decay about; steps are counted from 0 again, of the 275 weights alone, until the next visit."""
    learner, data = make_learner(config=training(optimizer=optimizer)), task_data()
    learner.train(data, 1, cross_entropy_rule)
    head_RF, features_S = learner.network.head_rows(), learner.network.state()
    learner.freeze_head()
    assert learner.step == 0
    learner.train(data, 1, cross_entropy_rule)
    np.testing.assert_array_equal(learner.network.head_rows(), head_RF)
    assert not np.array_equal(learner.network.state(), features_S)
    optimizer_steps = [item for item in learner.log.work().items if item.phase == "optimize"]
    assert [item.count for item in optimizer_steps] == [3, 3]
    assert optimizer_steps[1].moved_bytes * (275 + 2 * 6) == optimizer_steps[0].moved_bytes * 275
    learner.begin(np.random.default_rng(1))
    learner.train(data, 1, cross_entropy_rule)
    assert not np.array_equal(learner.network.head_rows(), head_RF)


def test_features_are_those_of_evaluation_in_any_batch_size():
    learner = make_learner(NORMED)
    z_NF = learner.features_of(task_data().images_NHWC, "score")
    x = learner.normalisation(task_data().images_NHWC).permute(0, 3, 1, 2)
    torch.testing.assert_close(z_NF, learner.network.features.eval()(x))
    assert not z_NF.requires_grad


def test_forward_batches_are_counted_under_their_phase():
    learner = make_learner()
    learner.features_of(task_data().images_NHWC, "score")
    expected = repeat([learner.costs.forward("score", n, 0) for n in (8, 8, 4)], 1)
    assert steps_of(learner.log.work()) == steps_of(expected)


def test_normalisation_by_hand():
    """(102 / 255 - 0.2) / 0.5 = 0.4 and (255 / 255 - 0.5) / 0.25 = 2."""
    x = Normalisation.of((0.2, 0.5), (0.5, 0.25))(np.array([[[[102, 255]]]], np.uint8))
    torch.testing.assert_close(x, torch.tensor([[[[0.4, 2.0]]]]))


def test_images_that_are_floats_stay_as_they_are_and_are_copied():
    images = np.array([[[[0.25]]]], np.float32)
    x = Normalisation.of((0.2,), (0.5,))(images)
    x += 1
    assert images[0, 0, 0, 0] == 0.25


@pytest.mark.parametrize(("n", "rows"), [(1, 2), (7, 3), (40, 10)])
def test_head_pass_equals_autograd(n: int, rows: int):
    generator = torch.Generator().manual_seed(n)
    head = torch.randn(rows, 6, generator=generator)
    z = torch.randn(n, 5, generator=generator, requires_grad=True)
    y = torch.randint(rows, (n,), generator=generator)
    grad = torch.full_like(head, torch.nan)
    loss, d_logits = head_pass(head, z, y, grad)
    free = head.clone().requires_grad_()
    logits = z @ free[:, :-1].T + free[:, -1]
    logits.retain_grad()
    expected = F.cross_entropy(logits, y)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(d_logits, logits.grad)
    torch.testing.assert_close(grad, free.grad)


def test_head_pass_by_hand():
    """Two logits of 0: p = (1/2, 1/2), loss = ln 2, d logits = (-1/2, 1/2) for the first class."""
    grad = torch.empty(2, 2)
    loss, d_logits = head_pass(torch.zeros(2, 2), torch.tensor([[3.0]]), torch.tensor([0]), grad)
    assert loss == pytest.approx(0.693147, abs=1e-6)
    assert d_logits.tolist() == [[-0.5, 0.5]]
    assert grad.tolist() == [[-1.5, -0.5], [1.5, 0.5]]


def test_the_rule_fills_the_gradient_anew():
    """What was in the buffer before plays no part."""
    learner, grads = make_learner(DRY, training(batch_size=20, optimizer=SgdOptimizer(lr=1e-12))), []
    for old in (0.0, 5.0):
        learner.network.grad.fill_(old)
        learner.begin(np.random.default_rng(0))
        learner.train(task_data(), 1, cross_entropy_rule)
        grads.append(learner.network.grad.clone())
    torch.testing.assert_close(grads[0], grads[1])


def test_the_network_computes_in_the_configs_precision():
    for precision in ("bfloat16", "float32"):
        assert make_learner(DRY, training(precision=precision)).network.precision == precision


def test_training_in_bfloat16_moves_float32_weights_about_as_far():
    """A run is not the same to the bit, but goes the same way: cosine of the two ways, plain SGD."""
    ways = []
    for precision in ("float32", "bfloat16"):
        learner = make_learner(DRY, training(precision=precision, optimizer=SgdOptimizer(lr=0.1)))
        start = learner.network.theta.clone()
        learner.train(task_data(), 2, cross_entropy_rule)
        assert learner.network.theta.dtype == learner.network.grad.dtype == torch.float32
        ways.append(learner.network.theta - start)
    assert not torch.equal(*ways)
    assert float(F.cosine_similarity(*ways, dim=0)) > 0.99
