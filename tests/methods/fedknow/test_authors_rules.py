"""The phases of FedKNOW's authors_code variant: obvious twins, and projections by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from workbench import CLASSES, DRY, flat_gradient, make_learner, task_data, training, twin_of

from fedknow_ray.methods.fedknow import authors_rules
from fedknow_ray.methods.fedknow.authors_rules import HeadPhaseRule, RepPhaseRule, StepCounts, Teacher, project
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.learner import Batch, Learner

SHIPPED = FedKnowSettings(variant="authors_code")
MENDED = FedKnowSettings(variant="authors_code", violation_test="current")


def batch_of(learner: Learner, n: int = 6) -> Batch:
    data = task_data()
    x_NHWC = learner.normalisation(data.images_NHWC[:n])
    return Batch(np.arange(n), x_NHWC.permute(0, 3, 1, 2), torch.from_numpy(data.labels_N[:n]))


def teacher(classes: int, seed: int = 3) -> Teacher:
    generator = torch.Generator().manual_seed(seed)
    return Teacher(torch.randn(20, classes, generator=generator), torch.randn(classes, 6, generator=generator))


def soft_cross_entropy(z_NF: Tensor, one: Teacher, temperature: float) -> Tensor:
    """As the description has it: -mean sum softmax(y / T) log_softmax(z / T), without a factor T^2."""
    labels = torch.softmax(one.logits_NC[: len(z_NF)] / temperature, dim=1)
    logits = z_NF @ one.head_CF[:, :-1].T + one.head_CF[:, -1]
    return -(labels * torch.log_softmax(logits / temperature, dim=1)).sum(1).mean()


def projected(rows: list[list[float]], settings: FedKnowSettings, head: float = 0.0) -> tuple[list[float], StepCounts]:
    """g' of gradients in rows, with one value of the head's gradient behind it."""
    grad, counts = torch.tensor([0.0] * len(rows[0]) + [head]), StepCounts()
    project(torch.tensor(rows), grad, settings, counts)
    return grad.tolist(), counts


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_teachers_pull_is_the_gradient_of_soft_cross_entropy(temperature: float):
    z_NF, one = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_(), teacher(4)
    (expected,) = torch.autograd.grad(soft_cross_entropy(z_NF, one, temperature), z_NF)
    torch.testing.assert_close(one.pull(z_NF, np.arange(6), temperature), expected)


def test_the_head_phase_steps_towards_the_old_model_first():
    """One optimizer step on the soft cross entropy alone: features move, and the task's head has no gradient."""
    learner, old = make_learner(DRY, training()), teacher(2 * CLASSES)
    batch, seen = batch_of(learner), []
    step = learner.optimize

    def spy() -> None:
        seen.append(learner.network.grad.clone())
        step()

    learner.optimize = spy  # type: ignore[method-assign]
    twin = twin_of(learner, DRY)
    soft_cross_entropy(twin(batch.x_NCHW), old, 1.0).backward()
    HeadPhaseRule(old)(learner, batch)
    (grad,) = seen
    network = learner.network
    torch.testing.assert_close(grad[: network.P], flat_gradient(network, twin), atol=1e-6, rtol=1e-5)
    assert not grad[network.P :].any()


def test_the_head_phase_then_leaves_the_gradient_of_cross_entropy():
    learner = make_learner(DRY, training())
    network, batch = learner.network, batch_of(learner)
    loss = HeadPhaseRule(teacher(2))(learner, batch)
    twin = twin_of(learner, DRY)
    logits = twin(batch.x_NCHW) @ network.head[:, :-1].T + network.head[:, -1]
    expected = torch.nn.functional.cross_entropy(logits, batch.y_N)
    expected.backward()
    assert loss == pytest.approx(expected.item())
    torch.testing.assert_close(network.grad[: network.P], flat_gradient(network, twin), atol=1e-6, rtol=1e-5)
    assert learner.step == 1


def test_the_rep_phase_projects_by_the_gradients_of_all_past_models(monkeypatch: pytest.MonkeyPatch):
    """g, the dense old model on all past classes, then each pack teacher on its own, at the settings' temperature."""
    seen: list[Tensor] = []
    monkeypatch.setattr(authors_rules, "project", lambda G_RP, *_: seen.append(G_RP.clone()))
    learner, teachers = make_learner(DRY), [teacher(4), teacher(2, 4), teacher(2, 5)]
    batch, network = batch_of(learner), learner.network
    expected = []
    for one in [None, *teachers]:
        twin = twin_of(learner, DRY)
        z_NF = twin(batch.x_NCHW)
        if one is None:
            logits = z_NF @ network.head[:, :-1].T + network.head[:, -1]
            torch.nn.functional.cross_entropy(logits, batch.y_N).backward()
        else:
            soft_cross_entropy(z_NF, one, 2.0).backward()
        expected.append(flat_gradient(network, twin))
    RepPhaseRule(teachers, SHIPPED, StepCounts())(learner, batch)
    torch.testing.assert_close(seen[0], torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_every_past_gradient_is_added_at_least_half_once_one_is_violated():
    """<g, (-1, 1)> < 0. Without margin v = (0.5, 0); with it v = (0.5, 0.5), though (0, 1) asks for nothing."""
    rows = [[1.0, 0.0], [-1.0, 1.0], [0.0, 1.0]]
    assert projected(rows, MENDED)[0] == pytest.approx([0.5, 1.0, 0.0])
    assert projected(rows, MENDED.model_copy(update={"margin": 0.0}))[0] == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize("settings", [SHIPPED, MENDED], ids=["shipped", "mended"])
def test_compatible_gradients_leave_g_as_it_is(settings: FedKnowSettings):
    grad, counts = projected([[0.1, 0.7], [1.0, 0.0], [0.0, 1.0]], settings, head=3.0)
    assert grad == torch.tensor([0.1, 0.7, 3.0]).tolist()
    assert (counts.checked, counts.changed, counts.missed) == (1, 0, 0)


def test_the_shipped_test_misses_a_violation_of_the_current_gradient():
    """g goes against the old model and the oldest teacher, which agree with each other."""
    rows = [[-1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
    grad, counts = projected(rows, SHIPPED)
    assert grad == [-1.0, 0.0, 0.0]
    assert (counts.changed, counts.missed) == (0, 1)
    grad, counts = projected(rows, MENDED)
    assert grad != [-1.0, 0.0, 0.0]
    assert (counts.changed, counts.missed) == (1, 0)


def test_the_shipped_test_acts_where_past_models_disagree():
    """g violates nothing, but the oldest teacher and the old model do: v = (0.5, 0.5) is added."""
    rows = [[0.0, 2.0], [1.0, 0.0], [-1.0, 0.5]]
    grad, counts = projected(rows, SHIPPED)
    assert grad == pytest.approx([0.0, 2.25, 0.0])
    assert (counts.changed, counts.missed) == (1, 0)


def test_with_the_old_model_alone_the_shipped_test_looks_at_g():
    grad, counts = projected([[1.0, 0.0], [-1.0, 1.0]], SHIPPED)
    assert grad == pytest.approx([0.5, 0.5, 0.0])
    assert counts.changed == 1


def test_a_projected_gradient_is_cut_to_a_norm_of_50_with_its_head():
    """g' = (30, 30), the head 40: norm 58.3."""
    grad, _ = projected([[60.0, 0.0], [-60.0, 60.0]], SHIPPED, head=40.0)
    assert np.linalg.norm(grad) == pytest.approx(50)
    assert grad[2] / grad[0] == pytest.approx(40 / 30)


def test_a_gradient_that_is_not_projected_is_not_cut():
    assert projected([[60.0, 0.0], [1.0, 0.0]], SHIPPED)[0] == [60.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused(bad: Any):
    with pytest.raises(ValueError, match="training has diverged"):
        projected([[bad, 0.0], [1.0, 0.0]], SHIPPED)
