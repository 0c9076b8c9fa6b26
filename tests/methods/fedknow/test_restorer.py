"""Gradient restoration: hand-computed losses, and the analytic gradient against automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.methods.fedknow.restorer import (
    distillation_logit_gradient,
    distillation_loss,
    hard_labels,
    soft_labels,
)

LOG3 = math.log(3.0)


def logits(seed: int, n: int = 4, classes: int = 3) -> torch.Tensor:
    return 5 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def test_soft_labels_are_the_softmax_of_logits_over_temperature():
    """exp(2 log 3 / 2) = 3 against exp(0) = 1."""
    torch.testing.assert_close(soft_labels(torch.tensor([[2 * LOG3, 0.0]]), 2.0), torch.tensor([[0.75, 0.25]]))


def test_soft_labels_carry_no_graph():
    assert not soft_labels(logits(0).requires_grad_(), 2.0).requires_grad


def test_the_loss_is_the_mean_soft_cross_entropy_without_a_factor():
    """Student (3/4, 1/4) and (1/2, 1/2) at T = 2 against the labels (1/2, 1/2) and (1, 0)."""
    z_NC = torch.tensor([[2 * LOG3, 0.0], [1.0, 1.0]])
    p_NC = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    expected = -(0.5 * math.log(0.75) + 0.5 * math.log(0.25) + math.log(0.5)) / 2
    assert distillation_loss(z_NC, p_NC, 2.0).item() == pytest.approx(expected)


def test_hard_labels_are_one_hot_with_ties_to_the_lower_class():
    labels_NC = hard_labels(torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.2, 0.4]]))
    assert labels_NC.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_hard_labels_at_temperature_one_give_the_cross_entropy_on_pseudo_labels():
    z_NC, y_NC = logits(0), logits(1)
    expected = torch.nn.functional.cross_entropy(z_NC, y_NC.argmax(dim=1))
    torch.testing.assert_close(distillation_loss(z_NC, hard_labels(y_NC), 1.0), expected)


def test_the_logit_gradient_of_one_example_is_the_difference_of_probabilities_over_temperature():
    gradient_NC = distillation_logit_gradient(torch.tensor([[2 * LOG3, 0.0]]), torch.tensor([[0.25, 0.75]]), 2.0)
    torch.testing.assert_close(gradient_NC, torch.tensor([[0.25, -0.25]]))


@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 6),
    classes=st.integers(1, 5),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 8.0]),
    hard=st.booleans(),
)
def test_the_logit_gradient_is_that_of_automatic_differentiation(seed, n, classes, temperature, hard):
    z_NC = logits(seed, n, classes).requires_grad_()
    y_NC = logits(seed + 1, n, classes)
    p_NC = hard_labels(y_NC) if hard else soft_labels(y_NC, temperature)
    distillation_loss(z_NC, p_NC, temperature).backward()
    analytic_NC = distillation_logit_gradient(z_NC, p_NC, temperature)
    torch.testing.assert_close(analytic_NC, z_NC.grad, rtol=1e-5, atol=1e-6)


def test_one_forward_pass_serves_several_backward_passes_from_the_logit_gradients():
    """The gradients of the weights are those of separate forward and backward passes of each loss."""
    weight_CF, x_NF = logits(2, 3, 6).requires_grad_(), logits(3, 4, 6)
    teachers = [soft_labels(logits(seed), 2.0) for seed in (4, 5)]
    z_NC = torch.tanh(x_NF) @ weight_CF.T
    for p_NC in teachers:
        shared = torch.autograd.grad(z_NC, weight_CF, distillation_logit_gradient(z_NC, p_NC, 2.0), retain_graph=True)[
            0
        ]
        alone = torch.autograd.grad(distillation_loss(torch.tanh(x_NF) @ weight_CF.T, p_NC, 2.0), weight_CF)[0]
        torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-6)


def test_a_student_that_agrees_has_no_gradient():
    y_NC = logits(0)
    assert not distillation_logit_gradient(y_NC, soft_labels(y_NC, 2.0), 2.0).any()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float):
    with pytest.raises(ValueError, match="the temperature must be above 0"):
        soft_labels(logits(0), temperature)
    with pytest.raises(ValueError, match="the temperature must be above 0"):
        distillation_loss(logits(0), soft_labels(logits(0), 1.0), temperature)
