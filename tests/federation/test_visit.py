"""What a visit starts from, what it changes and what it sends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from workbench import CLASSES, DRY, NORMED, SGD, SIZE, Bench, make_learner, steps_of, training, twin_of

from fedknow_ray.config.model import SgdOptimizer
from fedknow_ray.federation.visit import SharedModel, VisitKind, make_visit, plan_visit, shared_shapes
from fedknow_ray.models.network import initial_model
from fedknow_ray.simulation.work import Work
from fedknow_ray.transport.payload import decode, encoded_bytes

#: A rate so small that weights hardly move: what a visit starts from can be read from what it ends with.
STILL = training(optimizer=SgdOptimizer(lr=1e-9))


def moved_broadcast(bench: Bench, seed: int = 77) -> SharedModel:
    """Another model for the server to send."""
    features_S, head_CF = initial_model(bench.spec, **SIZE, classes=bench.tasks * CLASSES, seed=seed)
    return SharedModel(features_S, head_CF if bench.head_global else None)


def close(left: Any, right: Any) -> bool:
    return bool(np.allclose(left, right, rtol=0, atol=1e-6))


def test_training_starts_from_the_broadcast():
    bench = Bench("fedavg", config=STILL)
    bench.visit(VisitKind.TRAIN)
    bench.broadcast = moved_broadcast(bench)
    bench.visit(VisitKind.TRAIN, trained=True)
    assert close(bench.state().own_S, bench.broadcast.features_S)


def test_training_sends_the_own_features():
    bench = Bench("fedavg", spec=NORMED)
    _, update, _ = bench.visit(VisitKind.TRAIN)
    assert update.head_CF is None
    np.testing.assert_array_equal(update.features_S, bench.state().own_S)


def test_other_features_than_the_own_are_sent_where_the_method_says_so(monkeypatch: pytest.MonkeyPatch):
    """The client's own model is what the network holds, and the head that is sent is its own."""
    bench = Bench("fedavg", spec=NORMED, head_global=True)
    train, others_S = bench.method.train, np.full_like(bench.broadcast.features_S, 0.5)
    monkeypatch.setattr(bench.method, "train", lambda *visit: replace(train(*visit), sent_S=others_S))
    _, update, _ = bench.visit(VisitKind.TRAIN)
    np.testing.assert_array_equal(update.features_S, others_S)
    np.testing.assert_array_equal(update.head_CF, bench.state().head_CF)
    np.testing.assert_array_equal(bench.state().own_S, bench.learner.network.state())
    assert not np.array_equal(bench.state().own_S, others_S)


def test_a_local_head_goes_on_from_the_clients_own():
    bench = Bench("fedavg", config=STILL)
    bench.states[0] = replace(bench.state(), head_CF=bench.head_CF + 1)
    bench.visit(VisitKind.TRAIN)
    assert close(bench.state().head_CF, bench.head_CF + 1)


def test_a_global_head_starts_from_the_broadcast_and_is_sent_whole():
    bench = Bench("fedavg", config=STILL, head_global=True)
    bench.visit(VisitKind.TRAIN)
    bench.broadcast = moved_broadcast(bench)
    _, update, _ = bench.visit(VisitKind.TRAIN, trained=True)
    assert close(update.head_CF, bench.broadcast.head_CF)
    assert update.head_CF.shape == (8, 6)


@pytest.mark.parametrize("head_global", [False, True], ids=["local head", "global head"])
def test_without_federation_a_client_goes_on_from_itself(head_global: bool):
    bench = Bench("local", config=STILL, head_global=head_global)
    bench.visit(VisitKind.TRAIN)
    own = bench.states[0] = replace(bench.state(), own_S=bench.state().own_S + 1, head_CF=bench.state().head_CF + 1)
    bench.broadcast = moved_broadcast(bench)
    bench.visit(VisitKind.TRAIN, trained=True)
    assert close(bench.state().own_S, own.own_S)
    assert close(bench.state().head_CF, own.head_CF)


def test_the_end_of_a_task_keeps_the_own_model_of_a_sampled_client():
    bench = Bench("fedavg")
    bench.visit(VisitKind.TRAIN)
    before = bench.state()
    bench.broadcast = moved_broadcast(bench)
    _, update, report = bench.visit(VisitKind.FINISH_TASK, trained=True)
    assert update is None
    assert report.loss is None
    np.testing.assert_array_equal(bench.state().own_S, before.own_S)
    np.testing.assert_array_equal(bench.state().head_CF, before.head_CF)


def test_a_client_that_was_never_sampled_adopts_the_final_features_and_trains_its_head():
    """Exactly the final features, statistics included; head rows of this task only."""
    bench = Bench("fedavg", spec=NORMED)
    bench.broadcast = moved_broadcast(bench)
    _, update, report = bench.visit(VisitKind.FINISH_TASK, 1)
    assert update is None
    assert report.loss > 0
    np.testing.assert_array_equal(bench.state().own_S, bench.broadcast.features_S)
    changed = np.any(bench.state().head_CF != bench.head_CF, axis=1)
    assert changed.tolist() == [False, False, True, True, False, False, False, False]


def test_a_client_that_was_sampled_in_an_earlier_task_only_adopts_them_too():
    bench = Bench("fedavg")
    bench.visit(VisitKind.TRAIN, 0)
    bench.visit(VisitKind.FINISH_TASK, 0, trained=True)
    bench.broadcast = moved_broadcast(bench)
    bench.visit(VisitKind.FINISH_TASK, 1)
    np.testing.assert_array_equal(bench.state().own_S, bench.broadcast.features_S)


def test_without_federation_it_trains_its_head_on_its_own_features():
    bench = Bench("local")
    bench.visit(VisitKind.TRAIN, 0)
    before = bench.state().own_S
    bench.broadcast = moved_broadcast(bench)
    bench.visit(VisitKind.FINISH_TASK, 1)
    np.testing.assert_array_equal(bench.state().own_S, before)


def test_the_head_of_who_was_not_sampled_is_trained_as_the_learner_does_it():
    bench = Bench("fedavg", config=training(shuffle=False), spec=DRY)
    order, _, report = bench.visit(VisitKind.FINISH_TASK)
    learner = make_learner(DRY, training(shuffle=False))
    learner.network.load(bench.broadcast.features_S, bench.head_CF[:CLASSES])
    assert report.loss == learner.train_head(bench.data(order))
    np.testing.assert_array_equal(bench.state().head_CF[:CLASSES], learner.network.head_rows())


def test_fedknow_extracts_from_the_adopted_model_of_who_was_not_sampled():
    bench = Bench("fedknow", {"stored_bits": 32})
    bench.visit(VisitKind.FINISH_TASK)
    (knowledge,) = bench.state().memory.knowledge
    np.testing.assert_array_equal(knowledge.values.numpy(), bench.broadcast.features_S)
    np.testing.assert_array_equal(knowledge.head.numpy(), bench.state().head_CF[:CLASSES])


def past_heads_trained(**settings: Any) -> Bench:
    """A FedKNOW that trains the head rows of past tasks, with one of them behind it."""
    bench = Bench("fedknow", {"past_heads": "trained"}, config=training(optimizer=SGD), **settings)
    bench.visit(VisitKind.TRAIN)
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    return bench


def test_past_head_rows_that_a_visit_trained_are_in_the_clients_head():
    bench = past_heads_trained()
    before = bench.state().head_CF
    bench.visit(VisitKind.TRAIN, 1)
    moved = np.any(bench.state().head_CF != before, axis=1)
    assert moved.tolist() == [True] * 4 + [False] * 4


def test_past_head_rows_go_on_from_where_the_last_visit_left_them():
    """With a rate that moves nothing the second visit ends with the first one's rows, not with those of the task's
    end."""
    bench = past_heads_trained()
    before = bench.state().head_CF
    bench.visit(VisitKind.TRAIN, 1)
    first = bench.state().head_CF
    still = Bench("fedknow", {"past_heads": "trained"}, config=STILL)
    still.states, still.broadcast = dict(bench.states), bench.broadcast
    still.visit(VisitKind.TRAIN, 1, round_index=1, trained=True)
    assert close(still.state().head_CF, first)
    assert not close(first[:CLASSES], before[:CLASSES])


def test_a_global_head_is_sent_with_the_past_rows_that_a_visit_trained():
    bench = past_heads_trained(head_global=True)
    _, update, _ = bench.visit(VisitKind.TRAIN, 1)
    np.testing.assert_array_equal(update.head_CF, bench.state().head_CF)
    assert np.all(np.any(update.head_CF[:CLASSES] != bench.broadcast.head_CF[:CLASSES], axis=1))


def test_past_rows_of_a_global_head_start_from_the_broadcast():
    bench = Bench("fedknow", {"past_heads": "trained"}, config=STILL, head_global=True)
    bench.visit(VisitKind.TRAIN)
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    bench.broadcast = moved_broadcast(bench)
    _, update, _ = bench.visit(VisitKind.TRAIN, 1)
    assert close(update.head_CF, bench.broadcast.head_CF)
    assert not close(update.head_CF, bench.head_CF)


def test_past_head_rows_rest_at_the_end_of_a_task():
    """Also where the client's head is trained there, since it was never sampled."""
    bench = past_heads_trained()
    before = bench.state().head_CF
    bench.visit(VisitKind.FINISH_TASK, 1)
    moved = np.any(bench.state().head_CF != before, axis=1)
    assert moved.tolist() == [False] * 2 + [True] * 2 + [False] * 4


def test_a_head_that_a_visit_started_with_is_left_as_it_was():
    """The state before and the broadcast are values: a lost visit can be made again, others read the same broadcast."""
    bench = past_heads_trained(head_global=True)
    before, sent = bench.state().head_CF, bench.broadcast.head_CF
    copies = before.copy(), sent.copy()
    bench.visit(VisitKind.TRAIN, 1)
    np.testing.assert_array_equal(before, copies[0])
    np.testing.assert_array_equal(sent, copies[1])


def test_the_old_state_is_left_as_it_was():
    """States are values: a lost visit can be made again."""
    bench = Bench("fedknow")
    bench.visit(VisitKind.TRAIN)
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    before = bench.state()
    copies = (before.own_S.copy(), before.head_CF.copy(), before.memory.knowledge[0].values.clone())
    bench.visit(VisitKind.TRAIN, 1)
    bench.visit(VisitKind.FINISH_TASK, 1, trained=True)
    for kept, copied in zip((before.own_S, before.head_CF, before.memory.knowledge[0].values), copies, strict=True):
        np.testing.assert_array_equal(kept, copied)


def test_the_broadcast_may_be_read_only():
    """As an object store hands it out."""
    bench = Bench("fedknow", head_global=True)
    arrays = decode(bench.broadcast.payload())
    for array in arrays.values():
        array.setflags(write=False)
    bench.broadcast = SharedModel.of(arrays)
    bench.live_through(2)
    assert bench.state().own_S is not None


def test_another_seed_or_round_trains_differently():
    ends = []
    for seed, round_index in ((1, 0), (2, 0), (1, 1)):
        bench = Bench("fedavg")
        order = replace(bench.order(VisitKind.TRAIN, round_index=round_index), seed=seed)
        bench.order = lambda *_, order=order, **__: order  # type: ignore[method-assign]
        bench.visit(VisitKind.TRAIN)
        ends.append(bench.state().own_S.tobytes())
    assert len(set(ends)) == 3


@pytest.mark.parametrize("head_global", [False, True], ids=["local head", "global head"])
def test_the_payloads_length_is_known_beforehand(head_global: bool):
    bench = Bench("fedavg", head_global=head_global)
    shapes = shared_shapes(275, 8, 5, head_global=head_global)
    assert bench.broadcast.payload().nbytes == encoded_bytes(shapes)


@pytest.mark.parametrize("head_global", [False, True], ids=["local head", "global head"])
def test_a_shared_model_comes_back_from_its_payload(head_global: bool):
    model = Bench("fedavg", head_global=head_global).broadcast
    again = SharedModel.of(decode(model.payload()))
    np.testing.assert_array_equal(again.features_S, model.features_S)
    assert (again.head_CF is None) is not head_global
    if head_global:
        np.testing.assert_array_equal(again.head_CF, model.head_CF)


FINAL: dict[str, Any] = {"own_model": "final"}


@pytest.mark.parametrize("name", ["fedavg", "fedknow"])
def test_with_the_final_model_as_its_own_a_sampled_client_adopts_it_too(name: str):
    """And trains its head on it; head rows of this task only, from where the last visit left them."""
    bench = Bench(name, FINAL, spec=NORMED)
    bench.visit(VisitKind.TRAIN, 1)
    bench.broadcast, before = moved_broadcast(bench), bench.state().head_CF
    _, update, report = bench.visit(VisitKind.FINISH_TASK, 1, trained=True)
    assert update is None
    assert report.loss > 0
    np.testing.assert_array_equal(bench.state().own_S, bench.broadcast.features_S)
    changed = np.any(bench.state().head_CF != before, axis=1)
    assert changed.tolist() == [False, False, True, True, False, False, False, False]


def linear_layer(head_RF: np.ndarray) -> nn.Linear:
    """An ordinary layer with the head rows (R, F + 1)."""
    layer = nn.Linear(head_RF.shape[1] - 1, len(head_RF))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head_RF[:, :-1]))
        layer.bias.copy_(torch.from_numpy(head_RF[:, -1]))
    return layer


@pytest.mark.parametrize("name", ["fedavg", "fedknow"])
def test_its_head_is_trained_as_a_linear_layer_on_the_final_features(name: str):
    """By torch's own SGD; the features are those of evaluation, without dropout."""
    config = training(shuffle=False, optimizer=SgdOptimizer(lr=0.1, momentum=0.0, lr_decay=0.0, weight_decay=0.0))
    bench = Bench(name, FINAL, config, NORMED)
    bench.visit(VisitKind.TRAIN)
    bench.broadcast = moved_broadcast(bench)
    layer = linear_layer(bench.state().head_CF[:CLASSES])
    order, _, report = bench.visit(VisitKind.FINISH_TASK, trained=True)
    data, losses = bench.data(order), []
    x_NCHW = bench.learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    z_NF = twin_of(bench.learner, NORMED, bench.broadcast.features_S).eval()(x_NCHW).detach()
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    for batch in [slice(0, 8), slice(8, 16), slice(16, 20)] * config.local_epochs:
        sgd.zero_grad()
        loss = nn.functional.cross_entropy(layer(z_NF[batch]), torch.from_numpy(data.labels_N[batch]))
        loss.backward()
        sgd.step()
        losses.append(loss.item() * len(z_NF[batch]))
    trained_RF = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
    np.testing.assert_allclose(bench.state().head_CF[:CLASSES], trained_RF.numpy(), atol=1e-6)
    assert report.loss == pytest.approx(sum(losses) / (20 * config.local_epochs), rel=1e-5)


@pytest.mark.parametrize("head_global", [False, True], ids=["local head", "global head"])
def test_its_head_is_trained_from_its_own_or_from_the_global_one(head_global: bool):
    bench = Bench("fedavg", FINAL, config=STILL, head_global=head_global)
    bench.visit(VisitKind.TRAIN)
    bench.states[0] = replace(bench.state(), head_CF=bench.head_CF + 1)
    bench.broadcast = moved_broadcast(bench)
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    expected = bench.broadcast.head_CF if head_global else bench.head_CF + 1
    assert close(bench.state().head_CF, expected)


def test_fedknow_keeps_knowledge_of_the_final_model_where_that_is_its_own():
    bench = Bench("fedknow", {**FINAL, "stored_bits": 32})
    bench.visit(VisitKind.TRAIN)
    bench.broadcast = moved_broadcast(bench)
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    (knowledge,) = bench.state().memory.knowledge
    np.testing.assert_array_equal(knowledge.values.numpy(), bench.broadcast.features_S)
    np.testing.assert_array_equal(knowledge.head.numpy(), bench.state().head_CF[:CLASSES])


def test_fedknow_keeps_knowledge_of_the_last_visits_model_where_that_is_its_own():
    bench = Bench("fedknow", {"own_model": "last_visit", "stored_bits": 32})
    bench.visit(VisitKind.TRAIN)
    bench.broadcast = moved_broadcast(bench)
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    (knowledge,) = bench.state().memory.knowledge
    np.testing.assert_array_equal(knowledge.values.numpy(), bench.state().own_S)
    assert not np.array_equal(bench.state().own_S, bench.broadcast.features_S)


@pytest.mark.parametrize(
    ("hyper", "trained", "trains_head"),
    [({}, False, True), ({}, True, False), (FINAL, False, True), (FINAL, True, True)],
    ids=["never sampled", "sampled", "never sampled, final", "sampled, final"],
)
def test_the_plan_of_a_tasks_end_has_the_heads_training_where_it_is_trained(
    hyper: dict[str, Any], trained: bool, trains_head: bool
):
    bench = Bench("fedavg", hyper)
    bench.visit(VisitKind.TRAIN)
    order, _, report = bench.visit(VisitKind.FINISH_TASK, trained=trained)
    expected = bench.method.costs.head_training(order.facts) if trains_head else Work.none()
    assert steps_of(plan_visit(order, bench.method).work) == steps_of(expected) == steps_of(report.work)


def test_the_plan_of_who_was_not_sampled_adds_the_heads_training():
    bench = Bench("fedknow", {"own_model": "last_visit"})
    plans = [plan_visit(bench.order(VisitKind.FINISH_TASK, trained=trained), bench.method).work for trained in (0, 1)]
    facts = bench.order(VisitKind.FINISH_TASK).facts
    assert steps_of(plans[0]) == steps_of(plans[1] + bench.method.costs.head_training(facts))


@pytest.mark.parametrize("method_name", ["fedavg", "fedknow"])
def test_the_own_model_is_evaluated_at_the_end_of_a_task(method_name: str):
    """Planned and counted alike: 20 test images in batches of 8, 8 and 4."""
    bench = Bench(method_name)
    bench.visit(VisitKind.TRAIN)
    order = bench.order(VisitKind.FINISH_TASK, round_index=1, trained=True)
    order = replace(order, facts=replace(order.facts, test_images=20))
    _, _, report = make_visit(order, bench.method, bench.learner, bench.state(), bench.broadcast, bench.data(order))
    evaluated = [item for item in report.work.items if item.phase == "evaluate"]
    assert evaluated == list(bench.method.costs.evaluation(order.facts).items)
    assert [item.count for item in evaluated] == [2, 1]
    assert steps_of(plan_visit(order, bench.method).work) == steps_of(report.work)
