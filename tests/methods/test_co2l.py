"""Co2L: the step against ordinary modules, its heads, what it keeps and what it plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from remembering import batch_of, recall_of, third_task
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from workbench import DRY, NORMED, SGD, TINY, Bench, flat_gradient, make_learner, training, twin_of

from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.co2l import Co2lMemory, Co2lRule, Co2lSettings, past_features
from fedknow_ray.methods.contrast import contrastive_loss, draw_views, relation_loss
from fedknow_ray.methods.replay import join
from fedknow_ray.models.catalogue import ModelSpec

TRAIN, FINISH = VisitKind.TRAIN, VisitKind.FINISH_TASK


def learn(bench: Bench, tasks: int) -> None:
    for task_index in range(tasks):
        bench.visit(TRAIN, task_index)
        bench.visit(FINISH, task_index, trained=True)


@pytest.mark.parametrize("spec", [DRY, TINY, NORMED], ids=lambda spec: spec.name)
@pytest.mark.parametrize("past", [False, True], ids=["first task", "third task"])
def test_the_gradient_is_that_of_both_losses(spec: ModelSpec, past: bool):
    """With the same draws: the images that join, their views, and the dropout mask."""
    learner, old, data, hyper = make_learner(spec), make_learner(spec, seed=8), third_task(), Co2lSettings()
    recall, encoder_S = (recall_of(learner, data), torch.tensor(old.network.state())) if past else (None, None)
    batch, twin = batch_of(learner, data), twin_of(learner, spec).train()
    order = np.random.default_rng(4)
    x_NCHW, class_N = batch.x_NCHW, 4 + batch.y_N
    if recall is not None:
        joined = join(batch, recall, order, 1.0)
        x_NCHW, class_N = joined.x_NCHW, torch.cat([class_N, recall.rows_M[joined.places_M]])
    x_VCHW = torch.cat([draw_views(x_NCHW, order, flip=True), draw_views(x_NCHW, order, flip=True)])
    anchor_V = torch.tensor(([True] * 6 + [False] * (len(class_N) - 6)) * 2)
    torch.manual_seed(7)
    f_VF = F.normalize(twin(x_VCHW), dim=1)
    expected = contrastive_loss(f_VF, torch.cat([class_N, class_N]), anchor_V, 0.5)
    if past:
        with torch.no_grad():
            past_VF = F.normalize(twin_of(old, spec).eval()(x_VCHW), dim=1)
        expected = expected + relation_loss(f_VF, past_VF, 0.2, 0.01)
    expected.backward()
    learner.network.features.train()
    learner.begin(np.random.default_rng(4))
    torch.manual_seed(7)
    loss = Co2lRule(hyper, 4, recall, encoder_S)(learner, batch)
    P = learner.network.P
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(learner.network.grad[:P], flat_gradient(learner.network, twin), atol=1e-5, rtol=1e-4)
    assert not learner.network.head_grad.any()


def test_the_past_encoder_looks_in_evaluation_mode_and_leaves_the_network_as_it_is():
    learner, old = make_learner(NORMED), make_learner(NORMED, seed=8)
    learner.network.features.train()
    before, x_NCHW = learner.network.state(), batch_of(learner, third_task()).x_NCHW
    z_NF = past_features(learner.network, torch.tensor(old.network.state()), x_NCHW)
    torch.testing.assert_close(z_NF, twin_of(old, NORMED).eval()(x_NCHW).detach(), atol=1e-6, rtol=1e-5)
    assert learner.network.features.training
    np.testing.assert_array_equal(learner.network.state(), before)


def test_what_is_kept_are_images_and_the_clients_own_encoder():
    """Two of 20 images a task, 72 bytes each; 275 weights and no statistics once."""
    bench = Bench("co2l")
    facts = [bench.order(TRAIN, t).facts for t in range(4)]
    encoder_bytes = bench.method.costs.model_bytes
    assert [bench.method.kept_bytes(one) for one in facts] == [0, *(144 * t + encoder_bytes for t in (1, 2, 3))]
    assert [bench.method.stored_bytes(one) for one in facts] == [bench.method.kept_bytes(one) for one in facts]
    learn(bench, 2)
    memory = bench.state().memory
    assert isinstance(memory, Co2lMemory)
    assert memory.encoder_S is not None
    assert memory.encoder_S.tobytes() == bench.state().own_S.tobytes()
    assert memory.encoder_S.nbytes == encoder_bytes
    assert [len(one.labels_N) for one in memory.episodic.episodes] == [2, 2]


def test_without_distillation_no_encoder_is_kept():
    bench = Bench("co2l", {"distillation_weight": 0})
    learn(bench, 2)
    assert bench.state().memory.encoder_S is None
    assert bench.method.kept_bytes(bench.order(TRAIN, 2).facts) == 288


def test_the_encoder_cannot_be_evicted():
    assert not Bench("co2l").method.evicts


def test_the_features_do_not_see_the_head():
    """Another head, the same features: which is why no strength makes it FedAvg."""
    states = []
    for scale in (1, 3):
        bench = Bench("co2l", config=training(optimizer=SGD))
        bench.head_CF = bench.head_CF * np.float32(scale)
        bench.visit(TRAIN)
        states.append(bench.state())
    assert states[0].own_S.tobytes() == states[1].own_S.tobytes()
    assert not np.array_equal(states[0].head_CF, states[1].head_CF)


def test_the_distillation_makes_a_difference_in_the_second_task_only():
    states = []
    for weight in (0.0, 1.0):
        bench = Bench("co2l", {"distillation_weight": weight})
        bench.visit(TRAIN)
        first = bench.state().own_S
        bench.visit(FINISH, trained=True)
        bench.visit(TRAIN, 1)
        states.append((first, bench.state().own_S))
    assert states[0][0].tobytes() == states[1][0].tobytes()
    assert states[0][1].tobytes() != states[1][1].tobytes()


@pytest.mark.parametrize("own_model", ["last_visit", "final"])
@pytest.mark.parametrize("past_heads", ["trained", "frozen"])
def test_past_rows_follow_new_features_where_they_are_trained(past_heads: str, own_model: str):
    """In each training visit; at a task's end where the features are new: with `final`, or if never sampled in it."""
    bench = Bench("co2l", {"past_heads": past_heads, "own_model": own_model})
    learn(bench, 2)
    for task_index, kind, trained in ((2, TRAIN, False), (2, FINISH, True), (3, FINISH, False)):
        before = bench.state().head_CF
        bench.visit(kind, task_index, trained=trained)
        changed = bench.state().head_CF[:4] != before[:4]
        new_features = kind is TRAIN or own_model == "final" or not trained
        assert changed.any(axis=1).tolist() == [past_heads == "trained" and new_features] * 4


def test_planned_flops_are_those_that_torch_counts():
    bench = Bench("co2l", {"memory_fraction": 0.3}, spec=DRY)
    for task in range(4):
        order = bench.order(TRAIN, task)
        with FlopCounterMode(display=False) as counter:
            bench.visit(TRAIN, task)
        assert counter.get_total_flops() == plan_visit(order, bench.method).work.flops
        bench.visit(FINISH, task, trained=True)


def test_the_peak_holds_both_views_of_a_joined_batch_the_memory_and_the_encoder():
    """A batch of 8 and the 6 images of three past tasks, twice, in place of 8."""
    bench = Bench("co2l")
    facts, costs = bench.order(TRAIN, 3).facts, bench.method.costs
    added = bench.method.plan_train(facts).peak_memory_bytes - costs.training_bytes(facts)
    assert added == (28 - 8) * costs.footprint.kept_bytes + 6 * (72 + 256) + costs.model_bytes


def test_the_plan_follows_the_images_that_past_tasks_had():
    """Half of 4 and of 30 images: 17 in all, of which 8 join a batch of 8."""
    bench = Bench("co2l", {"memory_fraction": 0.5})
    facts = replace(bench.order(TRAIN, 2).facts, past_images=(4, 30))
    same = replace(facts, past_images=())
    assert bench.method.kept_bytes(facts) - bench.method.kept_bytes(same) == (17 - 20) * 72
    heads = [item for item in bench.method.plan_train(facts).work.items if item.phase == "head"]
    assert sum(item.count for item in heads) == (3 + 1 + 2) * 3


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0}, {"past_temperature": -1}, {"distillation_weight": -1}, {"past_heads": "gone"}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Co2lSettings(**wrong)
