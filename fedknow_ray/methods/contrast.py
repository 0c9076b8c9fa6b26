"""Contrastive learning: augmented views of images, and losses of which views look alike.

    contrastive_loss   - 1/|A| sum_{i in A} 1/|P_i| sum_{j in P_i} log softmax_{l != i} (f_i.f_l / tau) [j]
    relation_loss      - 1/V sum_i sum_{j != i} q_ij log p_ij,     p_i = softmax_{j != i} (f_i.f_j / kappa)

f_i are features of norm 1 of V views; A the anchors, P_i the other views of the class of i; q_i is what p_i is, of
another encoder and with a temperature of its own. The first is the supervised contrastive loss of Khosla et al.,
NeurIPS 2020, arXiv:2004.11362, with some views as anchors only; the second the instance-wise relation distillation of
Cha, Lee and Shin, ICCV 2021, arXiv:2106.14413.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import WorkItem

#: Views of each image in a step.
VIEWS = 2
#: A view is cut out of the image padded by its side divided by this: 4 of 32 pixels.
_SIDE_OVER_PAD = 8


def draw_views(x_NCHW: Tensor, order: np.random.Generator, *, flip: bool) -> Tensor:
    """Return one augmented view of each image: flipped or not, and shifted by up to an eighth of its side."""
    N, _, H, W = x_NCHW.shape
    pad = max(1, min(H, W) // _SIDE_OVER_PAD)
    dy_N, dx_N = order.integers(0, 2 * pad + 1, (2, N))
    flips_N = order.random(N) < (0.5 if flip else 0.0)
    columns_NW = np.where(flips_N[:, None], np.arange(W)[::-1], np.arange(W)) + dx_N[:, None]
    rows_NH = np.arange(H) + dy_N[:, None]
    padded_NHWC = F.pad(x_NCHW.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
    rows, columns = torch.from_numpy(rows_NH)[:, :, None], torch.from_numpy(columns_NW)[:, None, :]
    return padded_NHWC[torch.arange(N)[:, None, None], rows, columns].permute(0, 3, 1, 2)


def contrastive_loss(f_VF: Tensor, class_V: Tensor, anchor_V: Tensor, temperature: float) -> Tensor:
    """Return L_con of normalised features: *class_V* of each view, *anchor_V* whether it is an anchor."""
    log_p_VV = _log_softmax_of_others(f_VF @ f_VF.T / temperature)
    positive_VV = (class_V[:, None] == class_V[None, :]).fill_diagonal_(False)
    mean_V = (log_p_VV * positive_VV).sum(1) / positive_VV.sum(1).clamp(min=1)
    return -mean_V[anchor_V].mean()


def relation_loss(f_VF: Tensor, past_f_VF: Tensor, kappa: float, past_kappa: float) -> Tensor:
    """Return L_ird of normalised features by the present and the past encoder."""
    q_VV = _log_softmax_of_others(past_f_VF @ past_f_VF.T / past_kappa).exp().fill_diagonal_(0.0)
    return -(q_VV * _log_softmax_of_others(f_VF @ f_VF.T / kappa)).sum(1).mean()


def contrastive_items(costs: StepCosts, joined: int, *, distils: bool) -> list[WorkItem]:
    """Return the work of one step but for the optimizer: both views of the *joined* images, and all similarities.

    L_con and L_ird take a product of all pairs each, with two for its gradient; the past encoder one pass and one
    product.
    """
    f, V = costs.footprint, VIEWS * joined
    product = 2 * V * V * f.F
    similarities = WorkItem("contrast", 1, product * (3 + 4 * distils), 2 * FLOAT_BYTES * V * (V + f.F) * (1 + distils))
    return [
        costs.forward_backward("train", V, 0),
        similarities,
        *([costs.forward("distil", V, 0)] if distils else []),
    ]


def _log_softmax_of_others(s_VV: Tensor) -> Tensor:
    """Return row-wise log softmax over all but the diagonal, which is 0."""
    self_VV = torch.eye(len(s_VV), dtype=torch.bool)
    return torch.log_softmax(s_VV.masked_fill(self_VV, -torch.inf), dim=1).masked_fill(self_VV, 0.0)
