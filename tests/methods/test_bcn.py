"""BCN: both players and the gradient of H against an obvious game, and what it is without them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from remembering import batch_of, recall_of, third_task
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from workbench import ADAM, DRY, NORMED, SGD, Bench, flat_gradient, make_learner, training, twin_of

from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.bcn import BcnRule, BcnSettings, perturbed, unit_rms
from fedknow_ray.methods.episodic import Recall
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.replay import Joined, join

TRAIN, FINISH = VisitKind.TRAIN, VisitKind.FINISH_TASK
PLAIN = {"input_steps": 0, "weight_steps": 0, "beta": 1.0}


class Model(nn.Module):
    """Features and the head rows of the task, as an ordinary module."""

    def __init__(self, learner: Learner, spec: Any = DRY) -> None:
        super().__init__()
        self.features = twin_of(learner, spec)
        self.head = nn.Parameter(learner.network.head.clone())

    def loss(self, x_NCHW: Tensor, joined: Joined, recall: Recall) -> Tensor:
        """Image by image."""
        losses, n = [], len(joined.y_N)
        for row, z_F in enumerate(self.features(x_NCHW)):
            place = joined.places_M[row - n] if row >= n else 0
            head = self.head if row < n else recall.heads_kRF[recall.task_M[place]]
            label = joined.y_N[row] if row < n else recall.labels_M[place]
            losses.append(F.cross_entropy((head[:, :-1] @ z_F + head[:, -1])[None], label[None]))
        return torch.stack(losses).mean()

    def gradient(self, learner: Learner, x_NCHW: Tensor, joined: Joined, recall: Recall) -> Tensor:
        self.zero_grad()
        self.loss(x_NCHW, joined, recall).backward()
        assert self.head.grad is not None
        return torch.cat([flat_gradient(learner.network, self.features), self.head.grad.reshape(-1)])


def harder_images(model: Model, joined: Joined, recall: Recall, steps: int, size: float) -> Tensor:
    """Player 1, one image at a time."""
    x_NCHW = joined.x_NCHW.clone()
    for _ in range(steps):
        x_NCHW = x_NCHW.detach().requires_grad_()
        model.loss(x_NCHW, joined, recall).backward()
        pairs = zip(x_NCHW.detach(), x_NCHW.grad, strict=True)
        x_NCHW = torch.stack([x + size * d / d.square().mean().sqrt() if d.any() else x for x, d in pairs])
    return x_NCHW.detach()


def ahead_of(model: Model, joined: Joined, recall: Recall, steps: int) -> Model:
    """Player 2: a copy, trained by torch's own SGD with the rate that decays as training's does."""
    copy = deepcopy(model)
    for step in range(steps):
        optimizer = torch.optim.SGD(copy.parameters(), lr=0.1 / (1 + 0.1 * step))
        copy.zero_grad()
        copy.loss(joined.x_NCHW, joined, recall).backward()
        optimizer.step()
    return copy


@pytest.mark.parametrize(("input_steps", "weight_steps"), [(0, 0), (3, 0), (0, 3), (2, 4)])
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_gradient_is_that_of_the_game(beta: float, input_steps: int, weight_steps: int):
    """beta grad J + [grad J(theta_B) - grad J] + [grad J(x^) - grad J], each player if there is one."""
    sgd = SGD.model_copy(update={"momentum": 0.0, "weight_decay": 0.0})
    learner, data = make_learner(DRY, training(optimizer=sgd)), third_task()
    recall, batch = recall_of(learner, data), batch_of(learner, data)
    settings = BcnSettings(beta=beta, input_steps=input_steps, weight_steps=weight_steps, input_step=0.1)
    joined, model = join(batch, recall, np.random.default_rng(4), 1.0), Model(learner)
    plain = model.gradient(learner, joined.x_NCHW, joined, recall)
    expected = beta * plain
    if input_steps:
        x_NCHW = harder_images(model, joined, recall, input_steps, 0.1)
        expected = expected + model.gradient(learner, x_NCHW, joined, recall) - plain
    if weight_steps:
        ahead = ahead_of(model, joined, recall, weight_steps)
        expected = expected + ahead.gradient(learner, joined.x_NCHW, joined, recall) - plain
    before = learner.network.theta.clone()
    learner.begin(np.random.default_rng(4))
    loss = BcnRule(settings, recall)(learner, batch)
    assert loss == pytest.approx(model.loss(joined.x_NCHW, joined, recall).item(), rel=1e-5)
    torch.testing.assert_close(learner.network.grad, expected, atol=2e-6, rtol=1e-4)
    assert torch.equal(learner.network.theta, before)


def test_player_1_raises_the_loss_by_steps_of_the_size_that_is_set():
    learner, data = make_learner(DRY), third_task()
    recall = recall_of(learner, data)
    joined, model = join(batch_of(learner, data), recall, np.random.default_rng(4), 1.0), Model(learner)
    once = perturbed(learner.network, joined, recall, 1, 0.05)
    rms_N = (once.x_NCHW - joined.x_NCHW).square().mean(dim=(1, 2, 3)).sqrt()
    torch.testing.assert_close(rms_N, torch.full((12,), 0.05), atol=1e-6, rtol=1e-4)
    losses = [model.loss(one.x_NCHW, one, recall).item() for one in (joined, once)]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("size", [1.0, 1e-15, 1e-30, 1e-37])
def test_a_gradient_of_any_size_gives_a_step_of_the_same(size: float):
    """(3, 4) has a root mean square of 5 / sqrt 2; squares of 1e-30 are 0 in float32."""
    unit = unit_rms(size * torch.tensor([[[[3.0, 4.0]]], [[[0.0, 0.0]]]]))
    torch.testing.assert_close(unit, torch.tensor([[[[3.0, 4.0]]], [[[0.0, 0.0]]]]) * (2**0.5 / 5))


def test_an_image_whose_loss_is_flat_stays_where_it_is():
    """A head of zeros passes nothing back."""
    learner, data = make_learner(DRY), third_task()
    learner.network.head.zero_()
    batch = batch_of(learner, data)
    joined = Joined(batch.x_NCHW, batch.y_N, np.empty(0, dtype=np.int64))
    assert torch.equal(perturbed(learner.network, joined, None, 3, 0.05).x_NCHW, joined.x_NCHW)


def test_the_players_leave_no_trace_in_statistics_of_batches():
    learners = [make_learner(NORMED) for _ in range(2)]
    for learner, hyper in zip(learners, ({}, PLAIN), strict=True):
        learner.network.features.train()
        BcnRule(BcnSettings(**hyper), None)(learner, batch_of(learner, third_task()))
    assert torch.equal(learners[0].network.buffers, learners[1].network.buffers)
    assert not torch.equal(learners[0].network.buffers, make_learner(NORMED).network.buffers)


@pytest.mark.parametrize(("more", "other"), [({}, "replay"), ({"memory_fraction": 0.0}, "fedavg")])
def test_without_players_it_is_replay_to_the_bit_and_without_memory_fedavg(more: dict[str, Any], other: str):
    bcn, plain = Bench("bcn", {**PLAIN, **more}), Bench(other)
    bcn.live_through(4)
    plain.live_through(4)
    assert bcn.state().own_S.tobytes() == plain.state().own_S.tobytes()
    assert bcn.state().head_CF.tobytes() == plain.state().head_CF.tobytes()


@pytest.mark.parametrize(("input_steps", "weight_steps"), [(5, 5), (0, 2), (2, 0)])
def test_planned_flops_are_those_that_torch_counts(input_steps: int, weight_steps: int):
    """Gradients of images too, which no footprint has."""
    hyper = {"memory_fraction": 0.3, "input_steps": input_steps, "weight_steps": weight_steps}
    bench = Bench("bcn", hyper, spec=DRY)
    for task in range(3):
        order = bench.order(TRAIN, task)
        with FlopCounterMode(display=False) as counter:
            bench.visit(TRAIN, task)
        assert counter.get_total_flops() == plan_visit(order, bench.method).work.flops
        bench.visit(FINISH, task, trained=True)


def test_a_step_takes_about_thirteen_times_the_passes_of_replay():
    """5 + 5 + 3; player 1's passes make no gradients of weights, and each step has one optimizer step of its own."""
    facts = Bench("bcn").order(TRAIN, 3).facts
    game, replay = (Bench(name).method.plan_train(facts).work.flops for name in ("bcn", "replay"))
    assert 11 < game / replay < 13


@pytest.mark.parametrize(("optimizer", "states"), [(ADAM, 2), (SGD, 1)], ids=["adam", "sgd"])
def test_the_peak_holds_the_game_beside_replay(optimizer: Any, states: int):
    """Two players' gradients, the sum, the weights before, a second optimizer; 8 + 6 images moved, and a gradient."""
    config = training(optimizer=optimizer)
    facts = Bench("bcn").order(TRAIN, 3).facts
    bcn, replay = (Bench(name, config=config).method for name in ("bcn", "replay"))
    added = bcn.plan_train(facts).peak_memory_bytes - replay.plan_train(facts).peak_memory_bytes
    assert added == (4 + states) * bcn.costs.footprint.weight_bytes + 28 * 256


@pytest.mark.parametrize(
    "wrong", [{"beta": -1}, {"input_steps": 101}, {"weight_steps": -1}, {"input_step": 0}, {"margin": 0}], ids=str
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        BcnSettings(**wrong)
