"""EWC: the Fisher information against a loop of ordinary autograd, its mean, its optimum and its limits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from laws import is_fedavg_to_the_bit, life, optimum, trained_on_the_quadratic
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from workbench import NORMED, Bench, flat_gradient, make_learner, task_data, twin_of

from fedknow_ray.config.model import AdamOptimizer
from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.ewc import Ewc, EwcSettings, label_at
from fedknow_ray.methods.importance import Anchor
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import TaskData

MODULE = "fedknow_ray.methods.importance"


def ewc(**hyper: Any) -> Ewc:
    method = Bench("ewc", hyper).method
    assert isinstance(method, Ewc)
    return method


def obvious_fisher(learner: Learner, data: TaskData, labels_N: Tensor) -> Tensor:
    """Image by image: square the gradient of the log-likelihood of a label, and take the mean."""
    module, head_RF = twin_of(learner, NORMED).eval(), learner.network.head.clone()
    x_NCHW = learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    total_P = torch.zeros(learner.network.P)
    for n in range(len(labels_N)):
        module.zero_grad()
        logits_1R = module(x_NCHW[n : n + 1]) @ head_RF[:, :-1].T + head_RF[:, -1]
        torch.log_softmax(logits_1R, dim=1)[0, labels_N[n]].backward()
        total_P += flat_gradient(learner.network, module) ** 2
    return total_P / len(labels_N)


@pytest.mark.parametrize(
    "wrong", [{"strength": -1.0}, {"strength": float("nan")}, {"fisher": "batch"}, {"mu": 1.0}], ids=str
)
def test_other_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EwcSettings(**wrong)


def test_with_no_strength_it_is_fedavg_to_the_bit():
    is_fedavg_to_the_bit("ewc", {"strength": 0.0})


def test_with_some_it_is_not():
    """From the first visit of the second task on."""
    held, free = life("ewc", {"strength": 100.0}), life("fedavg", {})
    assert held[1][0] == free[1][0]
    assert held[3][0] != free[3][0]


def test_the_fisher_information_of_labels_is_the_obvious_one():
    learner, data = make_learner(NORMED), task_data()
    expected_P = obvious_fisher(learner, data, torch.from_numpy(data.labels_N))
    found_P = ewc(fisher="labels").importance(learner, data)
    assert float(expected_P.max()) > 1e-3
    np.testing.assert_allclose(found_P, expected_P, rtol=1e-3, atol=1e-8)


def test_the_sampled_one_is_of_labels_drawn_from_the_model():
    """The same numbers drawn again give the labels that it was made with."""
    learner, data = make_learner(NORMED), task_data()
    learner.begin(np.random.default_rng(3))
    found_P = ewc().importance(learner, data)
    z_NF = learner.features_of(data.images_NHWC, "any")
    p_N1 = torch.sigmoid((z_NF @ learner.network.head[:, :-1].T + learner.network.head[:, -1]).diff(dim=1))
    labels_N = (np.random.default_rng(3).random(20) > 1 - p_N1[:, 0].numpy()).astype(np.int64)
    assert 0 < labels_N.sum() < 20
    np.testing.assert_allclose(found_P, obvious_fisher(learner, data, torch.from_numpy(labels_N)), rtol=1e-3, atol=1e-8)


def test_a_logistic_unit_has_the_fisher_information_of_the_textbook():
    """Of labels drawn from the model: the mean over many draws is p (1 - p) |dlogit/dw|^2."""
    learner, data = make_learner(NORMED), task_data(images=1)
    head = learner.network.head
    draws = 400
    many = TaskData(np.repeat(data.images_NHWC, draws, axis=0), np.zeros(draws, dtype=np.int64), data.rows)
    found_P = ewc().importance(learner, many)
    module = twin_of(learner, NORMED).eval()
    z_1F = module(learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2))
    log_odds = z_1F @ (head[1] - head[0])[:-1] + (head[1] - head[0])[-1]
    log_odds.sum().backward()
    p = float(torch.sigmoid(log_odds.detach()))
    expected_P = p * (1 - p) * flat_gradient(learner.network, module) ** 2
    ratio = float(found_P.sum() / expected_P.sum())
    assert ratio == pytest.approx(1.0, abs=0.2)
    np.testing.assert_allclose(found_P, ratio * expected_P, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("quantile", "label"), [(0.0, 0), (0.24, 0), (0.25, 1), (0.74, 1), (0.75, 2), (0.999999, 2)])
def test_a_quantile_falls_on_a_class(quantile: float, label: int):
    assert label_at(torch.tensor([0.25, 0.5, 0.25]), quantile) == label


def test_a_sum_below_one_does_not_fall_off_the_end():
    assert label_at(torch.tensor([0.5, 0.4999]), 0.99999) == 1


def test_labels_are_drawn_as_often_as_they_are_likely():
    p_R = torch.tensor([0.1, 0.2, 0.7])
    drawn = Counter(label_at(p_R, q) for q in (np.arange(1000) + 0.5) / 1000)
    assert [drawn[c] for c in range(3)] == [100, 200, 700]


def test_the_information_of_tasks_is_their_mean():
    """(1 + 3 + 8) / 3 after three tasks."""
    method = ewc()
    two_P = method.merge(torch.tensor([1.0]), torch.tensor([3.0]), 1)
    assert two_P.item() == 2.0
    assert method.merge(two_P, torch.tensor([8.0]), 2).item() == 4.0


def test_the_end_of_a_task_takes_the_mean_with_those_before():
    bench = Bench("ewc", {"fisher": "labels"}, spec=NORMED)
    bench.live_through(1)
    old_P = bench.state().memory.importance_P.clone()
    bench.visit(VisitKind.TRAIN, 1)
    own_S = bench.state().own_S
    order, _, _ = bench.visit(VisitKind.FINISH_TASK, 1, trained=True)
    learner = make_learner(NORMED)
    assert own_S is not None
    learner.network.load(own_S, bench.state().head_CF[2:4])
    data = bench.data(order)
    new_P = obvious_fisher(learner, data, torch.from_numpy(data.labels_N))
    np.testing.assert_allclose(bench.state().memory.importance_P, (old_P + new_P) / 2, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("strength", [0.5, 10.0, 1e4])
def test_the_optimum_of_a_quadratic_is_the_closed_form(strength: float, monkeypatch: pytest.MonkeyPatch):
    """F is 0.4 and 0.1, so that 1e4 is far beyond what a plain step of SGD could bear."""
    anchor_P, importance_P = torch.zeros(275), torch.zeros(275)
    anchor_P[:2], importance_P[:2] = torch.tensor([-1.0, 0.5]), torch.tensor([0.4, 0.1])
    memory = Anchor(anchor_P, importance_P)
    _, end_2, _ = trained_on_the_quadratic(monkeypatch, MODULE, "ewc", {"strength": strength}, memory=memory)
    expected_2 = optimum(np.array([-1.0, 0.5]), strength * np.array([0.4, 0.1]))
    np.testing.assert_allclose(end_2, expected_2, atol=2e-5)


def test_adam_finds_the_same_optimum(monkeypatch: pytest.MonkeyPatch):
    anchor_P, importance_P = torch.zeros(275), torch.zeros(275)
    anchor_P[:2], importance_P[:2] = torch.tensor([-1.0, 0.5]), torch.tensor([0.4, 0.1])
    _, end_2, _ = trained_on_the_quadratic(
        monkeypatch,
        MODULE,
        "ewc",
        {"strength": 10.0},
        memory=Anchor(anchor_P, importance_P),
        optimizer=AdamOptimizer(lr=0.02, lr_decay=0.001),
    )
    np.testing.assert_allclose(end_2, optimum(np.array([-1.0, 0.5]), np.array([4.0, 1.0])), atol=1e-3)


def test_the_loss_of_a_step_is_of_the_task_alone():
    """The penalty is in the gradient, and the loss that is told is cross entropy, as for every method."""
    bench, fedavg = Bench("ewc", {"strength": 1e-30}), Bench("fedavg")
    for each in (bench, fedavg):
        each.live_through(1)
    _, _, report = bench.visit(VisitKind.TRAIN, 1)
    _, _, plain = fedavg.visit(VisitKind.TRAIN, 1)
    assert report.loss == pytest.approx(plain.loss)


def test_before_the_end_of_its_first_task_its_past_is_fedavgs():
    settings = EwcSettings(strength=5.0)
    fedavg = {"method": "fedknow_ray.methods.fedavg.FedAvg"}
    assert Ewc.past_settings(settings, 0, finished=False) == fedavg
    own = {"method": f"{Ewc.__module__}.Ewc", "strength": 5.0, "fisher": "sampled", "own_model": "last_visit"}
    assert Ewc.past_settings(settings, 0, finished=True) == own
    assert Ewc.past_settings(settings, 1, finished=False) == own


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_and_that_is_true_to_the_bit(name: str):
    one, other = Bench(name), Bench("fedavg")
    for round_index in range(2):
        reports = [
            b.visit(VisitKind.TRAIN, 0, round_index=round_index, trained=round_index > 0)[2] for b in (one, other)
        ]
        assert reports[0] == reports[1]
    assert one.state().memory is None
    np.testing.assert_array_equal(one.state().own_S, other.state().own_S)
    np.testing.assert_array_equal(one.state().head_CF, other.state().head_CF)


def test_a_subclass_has_a_past_of_its_own_from_the_start():
    class Mine(Ewc):
        """As a plugin would have it."""

    assert Mine.past_settings(EwcSettings(), 0, finished=False)["method"].endswith("Mine")


def test_cross_entropy_of_the_drawn_label_has_the_gradient_that_is_pushed():
    """softmax - onehot, of which the sign does not matter once it is squared."""
    logits_1R = torch.tensor([[0.3, -0.2]], requires_grad=True)
    F.cross_entropy(logits_1R, torch.tensor([1])).backward()
    p_1R = torch.softmax(logits_1R.detach(), dim=1)
    p_1R[0, 1] -= 1
    assert logits_1R.grad is not None
    np.testing.assert_allclose(p_1R, logits_1R.grad, rtol=1e-6)
