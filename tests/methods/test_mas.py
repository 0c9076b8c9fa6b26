"""MAS: the reaction of the output against a loop of ordinary autograd, its sum, its optimum and its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from laws import is_fedavg_to_the_bit, life, optimum, trained_on_the_quadratic
from pydantic import ValidationError
from torch import Tensor
from workbench import NORMED, Bench, flat_gradient, make_learner, task_data, twin_of

from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.importance import Anchor
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.mas import Mas, MasSettings
from fedknow_ray.methods.method import TaskData

MODULE = "fedknow_ray.methods.importance"


def mas(**hyper: Any) -> Mas:
    method = Bench("mas", hyper).method
    assert isinstance(method, Mas)
    return method


def obvious_reaction(learner: Learner, data: TaskData) -> Tensor:
    """Image by image: the size of the gradient of the squared length of the logits, and the mean."""
    module, head_RF = twin_of(learner, NORMED).eval(), learner.network.head.clone()
    x_NCHW = learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    total_P = torch.zeros(learner.network.P)
    for n in range(len(x_NCHW)):
        module.zero_grad()
        (module(x_NCHW[n : n + 1]) @ head_RF[:, :-1].T + head_RF[:, -1]).norm().square().backward()
        total_P += flat_gradient(learner.network, module).abs()
    return total_P / len(x_NCHW)


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"strength": float("inf")}, {"fisher": "labels"}], ids=str)
def test_other_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MasSettings(**wrong)


def test_with_no_strength_it_is_fedavg_to_the_bit():
    is_fedavg_to_the_bit("mas", {"strength": 0.0})


def test_with_some_it_is_not_and_it_is_not_ewc():
    bits = {
        name: life(name, hyper)[3][0] for name, hyper in (("fedavg", {}), ("mas", {}), ("ewc", {"strength": 400.0}))
    }
    assert len(set(bits.values())) == 3


def test_the_reaction_is_the_obvious_one():
    learner, data = make_learner(NORMED), task_data()
    expected_P = obvious_reaction(learner, data)
    found_P = mas().importance(learner, data)
    assert float(expected_P.max()) > 1e-2
    np.testing.assert_allclose(found_P, expected_P, rtol=1e-3, atol=1e-7)


def test_labels_do_not_matter():
    learner, data = make_learner(NORMED), task_data()
    others = TaskData(data.images_NHWC, 1 - data.labels_N, data.rows)
    np.testing.assert_array_equal(mas().importance(learner, data), mas().importance(learner, others))


def test_reactions_of_tasks_add_up():
    method = mas()
    two_P = method.merge(torch.tensor([1.0]), torch.tensor([3.0]), 1)
    assert method.merge(two_P, torch.tensor([8.0]), 2).item() == 12.0


def test_the_end_of_a_task_adds_to_those_before():
    bench = Bench("mas", spec=NORMED)
    bench.live_through(1)
    old_P = bench.state().memory.importance_P.clone()
    bench.visit(VisitKind.TRAIN, 1)
    own_S = bench.state().own_S
    order, _, report = bench.visit(VisitKind.FINISH_TASK, 1, trained=True)
    learner = make_learner(NORMED)
    assert own_S is not None
    learner.network.load(own_S, bench.state().head_CF[2:4])
    importance_P = bench.state().memory.importance_P
    np.testing.assert_allclose(importance_P, old_P + obvious_reaction(learner, bench.data(order)), rtol=1e-3, atol=1e-7)
    assert report.notes["mean_importance"] == pytest.approx(float(importance_P.mean()))


@pytest.mark.parametrize("strength", [0.5, 400.0])
def test_the_optimum_of_a_quadratic_is_the_closed_form(strength: float, monkeypatch: pytest.MonkeyPatch):
    anchor_P, importance_P = torch.zeros(275), torch.zeros(275)
    anchor_P[:2], importance_P[:2] = torch.tensor([0.25, -1.5]), torch.tensor([0.0, 3.0])
    memory = Anchor(anchor_P, importance_P)
    _, end_2, _ = trained_on_the_quadratic(monkeypatch, MODULE, "mas", {"strength": strength}, memory=memory)
    expected_2 = optimum(np.array([0.25, -1.5]), strength * np.array([0.0, 3.0]))
    np.testing.assert_allclose(end_2, expected_2, atol=2e-5)


def test_before_the_end_of_its_first_task_its_past_is_fedavgs():
    fedavg = {"method": "fedknow_ray.methods.fedavg.FedAvg"}
    assert Mas.past_settings(MasSettings(), 0, finished=False) == fedavg
    own = {"method": f"{Mas.__module__}.Mas", "strength": 400.0, "own_model": "last_visit"}
    assert Mas.past_settings(MasSettings(), 0, finished=True) == own
