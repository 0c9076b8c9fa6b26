"""Views and contrastive losses, against double loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from remembering import rng
from torch import Tensor
from torch.nn import functional as F

from fedknow_ray.methods.contrast import contrastive_loss, draw_views, relation_loss


def units(views: int, seed: int = 0) -> Tensor:
    values = torch.randn(views, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(values, dim=1)


def obvious_contrast(f_VF: Tensor, classes: list[int], anchors: list[bool], tau: float) -> float:
    V, total = len(f_VF), 0.0
    for i in range(V):
        if not anchors[i]:
            continue
        below = sum(math.exp(float(f_VF[i] @ f_VF[other]) / tau) for other in range(V) if other != i)
        alike = [j for j in range(V) if j != i and classes[j] == classes[i]]
        for j in alike:
            total -= math.log(math.exp(float(f_VF[i] @ f_VF[j]) / tau) / below) / len(alike)
    return total / sum(anchors)


def obvious_relations(f_VF: Tensor, past_VF: Tensor, kappa: float, past_kappa: float) -> float:
    V, total = len(f_VF), 0.0
    for i in range(V):
        others = [j for j in range(V) if j != i]
        p = {j: math.exp(float(f_VF[i] @ f_VF[j]) / kappa) for j in others}
        q = {j: math.exp(float(past_VF[i] @ past_VF[j]) / past_kappa) for j in others}
        for j in others:
            total -= q[j] / sum(q.values()) * math.log(p[j] / sum(p.values()))
    return total / V


@given(
    classes=st.lists(st.integers(0, 3), min_size=2, max_size=6),
    past=st.integers(0, 3),
    tau=st.sampled_from([0.1, 0.5, 2.0]),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=40)
def test_the_contrastive_loss_is_the_double_loop(classes: list[int], past: int, tau: float, seed: int):
    """Two views of each image; images of past tasks are no anchors."""
    both = (classes + [7] * past) * 2
    anchors = ([True] * len(classes) + [False] * past) * 2
    f_VF = units(len(both), seed)
    loss = contrastive_loss(f_VF, torch.tensor(both), torch.tensor(anchors), tau)
    assert loss.item() == pytest.approx(obvious_contrast(f_VF, both, anchors, tau), rel=1e-9)


@given(views=st.integers(2, 9), kappa=st.sampled_from([0.2, 1.0]), past=st.sampled_from([0.05, 0.2]))
@settings(deadline=None, max_examples=30)
def test_the_relation_loss_is_the_double_loop(views: int, kappa: float, past: float):
    f_VF, past_VF = units(views, 1), units(views, 2)
    expected = obvious_relations(f_VF, past_VF, kappa, past)
    assert relation_loss(f_VF, past_VF, kappa, past).item() == pytest.approx(expected, rel=1e-9)


def test_the_contrastive_loss_by_hand():
    """Two views of one image that agree, and one of another that is opposite; tau 1: both lose ln(e + 1/e) - 1."""
    f_VF = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    anchor_V = torch.tensor([True, True, False])
    loss = contrastive_loss(f_VF, torch.tensor([0, 0, 1]), anchor_V, 1.0)
    assert loss.item() == pytest.approx(math.log(math.e + 1 / math.e) - 1, rel=1e-6)


def test_the_relation_loss_by_hand():
    """Among three views that are all alike each sees the others as 1/2 and 1/2: ln 2, whatever the temperatures."""
    f_VF = torch.tensor([[1.0, 0.0]] * 3)
    assert relation_loss(f_VF, f_VF, 0.2, 0.01).item() == pytest.approx(math.log(2), rel=1e-6)


def test_relations_are_kept_where_both_encoders_agree():
    """Equal temperatures, equal features: the gradient is 0 though the loss is not."""
    f_VF = units(6).requires_grad_()
    relation_loss(f_VF, f_VF.detach(), 0.2, 0.2).backward()
    assert f_VF.grad is not None
    assert float(f_VF.grad.abs().max()) < 1e-12


def test_turned_features_have_the_same_relations():
    """Why rows of past tasks cannot rest: nothing says where the features point."""
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    f_VF, past_VF = units(6), units(6, 1)
    straight, turned = relation_loss(f_VF, past_VF, 0.2, 0.01), relation_loss(f_VF @ turn, past_VF, 0.2, 0.01)
    assert turned.item() == pytest.approx(straight.item(), rel=1e-9)


def test_gradients_are_numbers_though_a_view_is_not_compared_with_itself():
    f_VF = units(4).requires_grad_()
    loss = contrastive_loss(f_VF, torch.tensor([0, 1, 0, 1]), torch.ones(4, dtype=torch.bool), 0.5)
    (loss + relation_loss(f_VF, units(4, 1), 0.2, 0.01)).backward()
    assert f_VF.grad is not None
    assert bool(torch.isfinite(f_VF.grad).all())


@pytest.mark.parametrize(("height", "width", "pad"), [(8, 8, 1), (32, 32, 4), (6, 4, 1), (16, 24, 2)])
@pytest.mark.parametrize("flip", [True, False])
def test_views_are_images_shifted_and_flipped_as_drawn(height: int, width: int, pad: int, flip: bool):
    """Image by image: pad, cut, flip."""
    x_NCHW = torch.rand(5, 3, height, width, generator=torch.Generator().manual_seed(1))
    views = draw_views(x_NCHW, rng(3), flip=flip)
    order = rng(3)
    dy_N, dx_N = order.integers(0, 2 * pad + 1, (2, 5))
    flips_N = order.random(5) < 0.5
    for i in range(5):
        cut = F.pad(x_NCHW[i], (pad, pad, pad, pad))[:, dy_N[i] : dy_N[i] + height, dx_N[i] : dx_N[i] + width]
        expected = cut.flip(-1) if flip and flips_N[i] else cut
        torch.testing.assert_close(views[i], expected, atol=0, rtol=0)


def test_draws_follow_from_the_generator():
    x_NCHW = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    first, again, other = (draw_views(x_NCHW, rng(seed), flip=True) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    np.testing.assert_array_equal(first.shape, x_NCHW.shape)
