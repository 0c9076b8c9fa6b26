"""AGS-CL: what freezes, what dies, what is drawn anew, and FedAvg where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from laws import flops_are_those_that_torch_counts, is_fedavg_to_the_bit, life
from pydantic import ValidationError
from workbench import DRY, SGD, Bench, make_learner, task_data, training

from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.ags_cl import AgsClSettings, NodeAnchor
from fedknow_ray.methods.learner import cross_entropy_rule
from fedknow_ray.methods.method import ClientState
from fedknow_ray.methods.nodes import node_layers, open_edges, shrink

#: The nodes of `DRY`: 3 channels and 5 rows.
IMPORTANT = torch.tensor([True, False, True, True, True, False, True, True])
MILD: dict[str, Any] = {"sparsity": 0.5, "stability": 0.5}


def anchored(bench: Bench, importance: float = 1.0) -> NodeAnchor:
    """The anchor of a client whose own model is the broadcast, with `IMPORTANT` nodes."""
    P = bench.learner.network.P
    layers = node_layers(bench.learner.network)
    centre_P = torch.tensor(bench.broadcast.features_S[:P]) * open_edges(layers, IMPORTANT, P)
    for layer in layers:
        dead_O = ~IMPORTANT[layer.nodes]
        layer.rows(centre_P)[dead_O] = 0.0
        biases_O = layer.biases(centre_P)
        assert biases_O is not None
        biases_O[dead_O] = 0.0
    return NodeAnchor(centre_P, importance * IMPORTANT.float())


def visited(hyper: dict[str, Any], importance: float = 1.0, **settings: Any) -> tuple[Bench, NodeAnchor, torch.Tensor]:
    """A visit in the second task of a client with that anchor; return the weights that it leaves, too."""
    bench = Bench("ags_cl", hyper, spec=DRY, **settings)
    anchor = anchored(bench, importance)
    bench.states[0] = ClientState(bench.head_CF, own_S=bench.broadcast.features_S, memory=anchor)
    bench.visit(VisitKind.TRAIN, 1)
    return bench, anchor, torch.tensor(bench.state().own_S)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sparsity": -1.0},
        {"stability": float("inf")},
        {"importance_decay": 1.5},
        {"redrawn_fraction": 2.0},
        {"mu": 1.0},
    ],
    ids=str,
)
def test_other_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AgsClSettings(**wrong)


def test_with_no_strengths_it_is_fedavg_to_the_bit():
    is_fedavg_to_the_bit("ags_cl", {"sparsity": 0.0, "stability": 0.0})


@pytest.mark.parametrize("hyper", [{"sparsity": 0.1, "stability": 0.0}, {"sparsity": 0.0, "stability": 0.1}], ids=str)
def test_with_either_it_is_not(hyper: dict[str, float]):
    """Without sparsity the first task is FedAvg's."""
    acting, free = life("ags_cl", hyper), life("fedavg", {})
    assert (acting[0][0] == free[0][0]) is (hyper["sparsity"] == 0)
    assert acting[3][0] != free[3][0]


def test_the_first_tasks_visit_is_training_and_a_proximal_step_an_epoch():
    """The slow way: epoch by epoch, with the rate as it is after each."""
    config = training(optimizer=SGD)
    bench, learner = Bench("ags_cl", MILD, spec=DRY, config=config), make_learner(DRY, config)
    network, layers, sent = learner.network, node_layers(learner.network), []

    start = network.theta.clone()
    for hand in (False, True):
        network.theta.copy_(start)
        learner.begin(np.random.default_rng(1))
        if hand:
            for epoch in range(2):
                learner.train(task_data(), 1, cross_entropy_rule)
                rate = 0.1 / (1 + 0.1 * 3 * (epoch + 1))
                shrink(layers, network.theta[: network.P], torch.zeros(network.P), torch.full((8,), 0.5 * rate))
        else:
            bench.method.train(learner, ClientState(bench.head_CF), task_data(), bench.order(VisitKind.TRAIN).facts)
        sent.append(network.theta.clone())
    np.testing.assert_allclose(sent[0], sent[1], rtol=1e-6)


def test_all_that_is_unimportant_dies_of_enough_sparsity():
    """In the first task that is every node."""
    bench = Bench("ags_cl", {"sparsity": 1e6}, spec=DRY)
    bench.visit(VisitKind.TRAIN)
    own_S = bench.state().own_S
    assert own_S is not None and not own_S.any()
    _, _, report = bench.visit(VisitKind.FINISH_TASK, trained=True)
    assert dict(report.notes) == {"important_nodes": 0.0, "nodes": 8.0}


def test_important_nodes_freeze_to_the_bit_with_enough_stability():
    """And with momentum, which would carry them on."""
    config = training(optimizer=SGD.model_copy(update={"weight_decay": 0.0}))
    bench, anchor, left_P = visited({**MILD, "stability": 1e6}, config=config)
    for layer in node_layers(bench.learner.network):
        alive_O = IMPORTANT[layer.nodes]
        assert torch.equal(layer.rows(left_P)[alive_O], layer.rows(anchor.centre_P)[alive_O])
        assert not torch.equal(layer.rows(left_P)[~alive_O], layer.rows(anchor.centre_P)[~alive_O])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_closed_edges_stay_closed(optimizer: str):
    config = training(optimizer=SGD) if optimizer == "sgd" else training()
    bench, _, left_P = visited(MILD, config=config)
    P = bench.learner.network.P
    closed_P = open_edges(node_layers(bench.learner.network), IMPORTANT, P) == 0
    # channel 1 to 4 rows, from 16 places each
    assert int(closed_P.sum()) == 64
    assert not left_P[closed_P].any()


def test_unimportant_nodes_are_drawn_anew_at_the_first_visit_of_a_task_alone():
    """With a rate of almost nothing, whatever moves was drawn."""
    config = training(optimizer=SGD.model_copy(update={"lr": 1e-12}))
    bench, _, left_P = visited({**MILD, "redrawn_fraction": 1.0}, config=config)
    bench.visit(VisitKind.TRAIN, 1, trained=True)
    again_P, start_P = torch.tensor(bench.state().own_S), torch.tensor(bench.broadcast.features_S)
    for layer in node_layers(bench.learner.network):
        dead_O = ~IMPORTANT[layer.nodes]
        moved_O = (layer.rows(left_P) - layer.rows(start_P)).abs()[dead_O].max(1).values
        assert bool((moved_O > 1e-3).all())
        np.testing.assert_allclose(layer.rows(again_P)[dead_O], layer.rows(start_P)[dead_O], atol=1e-9)


def test_a_fraction_of_none_draws_none():
    config = training(optimizer=SGD.model_copy(update={"lr": 1e-12}))
    bench, _, left_P = visited({**MILD, "redrawn_fraction": 0.0}, config=config)
    start_P = torch.tensor(bench.broadcast.features_S)
    start_P *= open_edges(node_layers(bench.learner.network), IMPORTANT, len(start_P))
    np.testing.assert_allclose(left_P, start_P, atol=1e-9)


def test_a_client_that_knows_nothing_of_its_past_draws_none():
    bench = Bench("ags_cl", MILD, spec=DRY, config=training(optimizer=SGD.model_copy(update={"lr": 1e-12})))
    bench.visit(VisitKind.TRAIN, 2)
    np.testing.assert_allclose(bench.state().own_S, bench.broadcast.features_S, atol=1e-9)


def test_importance_decays_and_grows_by_the_mean_activation():
    """eta = 0.9; the first end of a task is not trained for, so that its model is the broadcast with a trained head."""
    bench = Bench("ags_cl", MILD, spec=DRY)
    ends = []
    for task_index in range(2):
        bench.visit(VisitKind.FINISH_TASK, task_index)
        ends.append(bench.state().memory.importance_M)
    network = bench.learner.network
    network.load(bench.broadcast.features_S)
    for end, images in zip(ends, (task_data(0), task_data(1, task_index=1)), strict=True):
        x_NCHW = bench.learner.normalisation(images.images_NHWC).permute(0, 3, 1, 2)
        with torch.no_grad():
            first_NOHW = network.features.conv(x_NCHW)  # type: ignore[operator]
            mean_M = torch.cat([torch.relu(first_NOHW).mean((0, 2, 3)), network(x_NCHW).mean(0)])
        before_M = torch.zeros(8) if end is ends[0] else ends[0]
        np.testing.assert_allclose(end, 0.9 * before_M + mean_M, rtol=1e-5)


def test_the_anchor_is_the_own_model_without_what_is_unimportant():
    bench, _, left_P = visited(MILD)
    bench.visit(VisitKind.FINISH_TASK, 1, trained=True)
    memory, layers = bench.state().memory, node_layers(bench.learner.network)
    important_M = memory.importance_M > 0
    assert bool(important_M[IMPORTANT].all()), "what was important stays so"
    open_P = open_edges(layers, important_M, len(left_P))
    for layer in layers:
        alive_O = important_M[layer.nodes]
        expected = (layer.rows(left_P) * layer.rows(open_P))[alive_O]
        assert torch.equal(layer.rows(memory.centre_P)[alive_O], expected)
        assert not layer.rows(memory.centre_P)[~alive_O].any()


def test_weights_and_nodes_are_kept_once_for_all_tasks():
    """275 weights and 8 nodes of 4 bytes; training holds two more copies of the weights."""
    bench, fedavg = Bench("ags_cl"), Bench("fedavg")
    facts = [bench.order(VisitKind.TRAIN, t).facts for t in range(3)]
    assert [bench.method.kept_bytes(each) for each in facts] == [0, 1132, 1132]
    more = [
        bench.method.plan_train(each).peak_memory_bytes - fedavg.method.plan_train(each).peak_memory_bytes
        for each in facts
    ]
    assert more == [2200, 2200 + 1132, 2200 + 1132]
    bench.live_through(2)
    memory = bench.state().memory
    assert memory.centre_P.nbytes + memory.importance_M.nbytes == 1132


def test_planned_flops_are_those_that_torch_counts():
    flops_are_those_that_torch_counts("ags_cl", {})


def test_all_of_its_settings_count_from_the_beginning():
    said = Bench("ags_cl").method.past_settings(AgsClSettings(), 0, finished=False)
    assert said["method"].endswith("ags_cl.AgsCl")
    assert {"sparsity", "stability", "importance_decay", "redrawn_fraction"} <= said.keys()
