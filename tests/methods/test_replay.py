"""Experience replay: joined batches against one mean of cross entropies, and what it is without a memory."""

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
from workbench import DRY, NORMED, TINY, Bench, flat_gradient, make_learner, steps_of, training, twin_of

from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.episodic import Recall
from fedknow_ray.methods.replay import (
    Joined,
    Replay,
    ReplayRule,
    ReplaySettings,
    join,
    joined_images,
    joined_pull,
)
from fedknow_ray.models.catalogue import ModelSpec

TRAIN = VisitKind.TRAIN


def obvious_loss(z_NF: Tensor, head_RF: Tensor, joined: Joined, recall: Recall) -> Tensor:
    """One image after the other."""
    losses = []
    for row, z_F in enumerate(z_NF):
        past = row - len(joined.y_N)
        place = int(joined.places_M[past]) if past >= 0 else -1
        head = head_RF if past < 0 else recall.heads_kRF[recall.task_M[place]]
        label = joined.y_N[row] if past < 0 else recall.labels_M[place]
        losses.append(F.cross_entropy((z_F @ head[:, :-1].T + head[:, -1])[None], label[None]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("n", "ratio", "stored", "joining"), [(40, 1.0, 72, 40), (40, 1.0, 24, 24), (40, 0.5, 72, 20), (3, 0.1, 9, 0)]
)
def test_as_many_images_join_a_batch_as_are_asked_for_and_there(n: int, ratio: float, stored: int, joining: int):
    assert joined_images(n, ratio, stored) == joining


@pytest.mark.parametrize("ratio", [0.5, 1.0, 100.0])
@pytest.mark.parametrize("spec", [DRY, TINY, NORMED], ids=lambda spec: spec.name)
def test_the_gradient_is_that_of_the_mean_over_the_joined_batch(spec: ModelSpec, ratio: float):
    """With the same draw from the memory, the same dropout mask, and statistics of the whole batch."""
    learner, data = make_learner(spec), third_task()
    recall, batch, twin = recall_of(learner, data), batch_of(learner, data), twin_of(learner, spec).train()
    joined = join(batch, recall, np.random.default_rng(4), ratio)
    head = learner.network.head.clone().requires_grad_()
    torch.manual_seed(7)
    expected = obvious_loss(twin(joined.x_NCHW), head, joined, recall)
    expected.backward()
    learner.network.features.train()
    learner.begin(np.random.default_rng(4))
    torch.manual_seed(7)
    loss = ReplayRule(recall, ratio)(learner, batch)
    P = learner.network.P
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(learner.network.grad[:P], flat_gradient(learner.network, twin), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(learner.network.head_grad, head.grad, atol=1e-6, rtol=1e-5)


def test_a_joined_batch_is_the_batch_and_then_the_memory():
    learner, data = make_learner(), third_task()
    recall, batch = recall_of(learner, data), batch_of(learner, data)
    joined = join(batch, recall, np.random.default_rng(0), 0.5)
    assert len(joined.places_M) == 3
    torch.testing.assert_close(joined.x_NCHW[:6], batch.x_NCHW, atol=0, rtol=0)
    torch.testing.assert_close(joined.x_NCHW[6:], recall.x_NCHW(joined.places_M), atol=0, rtol=0)


def test_the_mean_by_hand():
    """One image of each task, z = 0 and no bias: both lose ln 2, and each counts for a half."""
    learner, data = make_learner(DRY), third_task()
    for head in data.past_heads:
        head[:] = np.array([[1, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0]], np.float32)
    recall = recall_of(learner, data)
    learner.network.head.copy_(torch.tensor([[0, 2, 0, 0, 0, 0], [0, -2, 0, 0, 0, 0]]))
    joined = Joined(torch.empty(0), torch.tensor([0]), np.array([0]))
    loss, dz_NF = joined_pull(learner.network, torch.zeros(2, 5), joined, recall)
    sign = 1 if recall.labels_M[0] else -1
    assert loss == pytest.approx(np.log(2))
    assert dz_NF.tolist() == [[0, -1, 0, 0, 0], [0.5 * sign, 0, 0, 0, 0]]
    assert learner.network.head_grad[:, -1].tolist() == [-0.25, 0.25]


def test_planned_flops_are_those_that_torch_counts():
    bench = Bench("replay", {"memory_fraction": 0.3}, spec=DRY)
    bench.live_through(3)
    order = bench.order(TRAIN, 3)
    with FlopCounterMode(display=False) as counter:
        bench.visit(TRAIN, 3)
    assert counter.get_total_flops() == plan_visit(order, bench.method).work.flops


@pytest.mark.parametrize("hyper", [{"memory_fraction": 0.0}, {"replay_ratio": 0.0}], ids=str)
def test_without_memory_it_is_fedavg_to_the_bit(hyper: dict[str, Any]):
    """Through all tasks; work and peak of the training visits too."""
    replaying, plain = Bench("replay", hyper), Bench("fedavg")
    for (order, report), (_, expected) in zip(replaying.live_through(4), plain.live_through(4), strict=True):
        if order.kind is TRAIN:
            assert steps_of(report.work) == steps_of(expected.work)
            assert plan_visit(order, replaying.method) == plan_visit(order, plain.method)
        assert report.loss == expected.loss
    assert replaying.state().own_S.tobytes() == plain.state().own_S.tobytes()
    assert replaying.state().head_CF.tobytes() == plain.state().head_CF.tobytes()


def test_in_the_first_task_it_is_fedavg_to_the_bit_and_says_so():
    replaying, plain = Bench("replay"), Bench("fedavg")
    for bench in (replaying, plain):
        bench.visit(TRAIN)
        bench.visit(TRAIN, trained=True, round_index=1)
    assert replaying.state().own_S.tobytes() == plain.state().own_S.tobytes()
    assert replaying.state().memory is None
    said = Replay.past_settings(ReplaySettings(), 0, finished=False)
    assert said == {"method": "fedknow_ray.methods.fedavg.FedAvg"}


def test_later_all_settings_count():
    said = Replay.past_settings(ReplaySettings(), 0, finished=True)
    assert said == {
        "method": "fedknow_ray.methods.replay.Replay",
        "own_model": "last_visit",
        "memory_fraction": 0.1,
        "replay_ratio": 1.0,
    }


def test_it_learns_something_else_than_fedavg_in_the_second_task():
    states = []
    for name in ("replay", "fedavg"):
        bench = Bench(name)
        bench.visit(TRAIN)
        bench.visit(VisitKind.FINISH_TASK, trained=True)
        bench.visit(TRAIN, 1)
        states.append(bench.state().own_S)
    assert not np.array_equal(*states)


def test_the_peak_grows_with_the_memory_and_what_joins_a_batch():
    """Three past tasks of 20 images, two kept of each: six images of 72 bytes and 256 as floats, all of which join."""
    bench = Bench("replay", config=training(batch_size=8))
    facts, costs = bench.order(TRAIN, 3).facts, bench.method.costs
    added = bench.method.plan_train(facts).peak_memory_bytes - costs.training_bytes(facts)
    assert added == 6 * (72 + 256) + 6 * costs.footprint.kept_bytes
    alone = bench.method.plan_train(replace(facts, evicted_tasks=3))
    assert alone == Bench("fedavg", config=training(batch_size=8)).method.plan_train(facts)


@pytest.mark.parametrize("wrong", [{"replay_ratio": -1}, {"replay_ratio": 101}, {"margin": 0}], ids=str)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ReplaySettings(**wrong)
