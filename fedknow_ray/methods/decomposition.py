"""Weights that are shared ones under a mask, plus what a task adapts of its own: theta = B * sigma(m) + A.

Legend: P feature weights, M *units*: the first sides of all tensors together, so that m has one value for each output
channel of each tensor. FedWEIT (`methods.fedweit`) has the loss; here it is differentiated by hand and stepped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedknow_ray.methods.learner import Batch, DecayingOptimizer, Learner, cross_entropy_rule
from fedknow_ray.models.layout import TensorSlice
from fedknow_ray.transport.compression import largest
from fedknow_ray.transport.rows import rows_sent


@dataclass(frozen=True, slots=True, eq=False)
class TaskParts:
    """A (P,), m (M,) and statistics (B,) of one task; theta* (P,) once it is over."""

    adaptive_P: Tensor
    mask_M: Tensor
    statistics_B: Tensor
    target_P: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The weights of FedWEIT's loss, by their names there."""

    lambda_1: float
    lambda_2: float
    lambda_mask: float


def spread(values_M: Tensor, layout: Sequence[TensorSlice]) -> Tensor:
    """Return a value for each weight (P,) from one for each unit."""
    counts_M = torch.tensor([piece.size // piece.shape[0] for piece in layout for _ in range(piece.shape[0])])
    return torch.repeat_interleave(values_M, counts_M)


def unit_sums(values_P: Tensor, layout: Sequence[TensorSlice]) -> Tensor:
    """Return the sum over the weights of each unit (M,): the transpose of `spread`."""
    return torch.cat([values_P[piece.start : piece.stop].view(piece.shape[0], -1).sum(dim=1) for piece in layout])


def composed(base_P: Tensor, parts: TaskParts, layout: Sequence[TensorSlice]) -> Tensor:
    """Return B * sigma(m) + A."""
    return base_P * spread(torch.sigmoid(parts.mask_M), layout) + parts.adaptive_P


def keep_rows(
    layout: Sequence[TensorSlice], base_P: Tensor, received_P: Tensor, mask_M: Tensor, share: float
) -> Tensor:
    """Return B where the masks are largest, of each tensor all units but a share, and elsewhere what was received."""
    kept_P, unit = received_P.clone(), 0
    for piece in layout:
        units, place = piece.shape[0], slice(piece.start, piece.stop)
        sent = largest(mask_M[unit : unit + units].numpy(), rows_sent(units, share))
        kept_P[place].view(units, -1)[sent] = base_P[place].view(units, -1)[sent]
        unit += units
    return kept_P


class Decomposed:
    """B, head, A and m of the present task, and A of the past ones, as one vector that an optimizer steps.

    The learner's network holds theta and the head rows as they come of it; of *past* tasks m and theta* stay.
    """

    def __init__(
        self, learner: Learner, base_P: Tensor, parts: TaskParts, past: Sequence[TaskParts], weights: LossWeights
    ) -> None:
        self._network, self._past, self._weights = learner.network, past, weights
        head = learner.network.theta[learner.network.P :]
        pieces = [base_P, head, parts.adaptive_P, parts.mask_M, *(task.adaptive_P for task in past)]
        self._values = torch.cat(pieces)
        self._grad = torch.zeros_like(self._values)
        sizes = [len(piece) for piece in pieces]
        self.base_P, self._head, self.adaptive_P, self.mask_M, *self.past_adaptive = torch.split(self._values, sizes)
        self._grads = torch.split(self._grad, sizes)
        self._optimizer = DecayingOptimizer(learner.training, self._values, self._grad)
        self._compose()

    def fill_gradient(self, learner: Learner, batch: Batch) -> float:
        """Fill the gradient of the whole loss; return the batch's cross entropy."""
        loss = cross_entropy_rule(learner, batch)
        network, layout, by = self._network, self._network.layout, self._weights
        grad_B, grad_head, grad_A, grad_m, *grads_past = self._grads
        g_P = network.grad[: network.P]
        grad_head.copy_(network.grad[network.P :])
        torch.mul(g_P, spread(self._gate_M, layout), out=grad_B)
        torch.add(g_P, self.adaptive_P.sign(), alpha=by.lambda_1, out=grad_A)
        slope_M = self._gate_M * (1 - self._gate_M)
        grad_m.copy_(unit_sums(g_P * self.base_P, layout) * slope_M)
        grad_m.add_(self.mask_M.sign(), alpha=by.lambda_1 * by.lambda_mask)
        for task, adaptive_P, grad_P in zip(self._past, self.past_adaptive, grads_past, strict=True):
            gate_P = spread(torch.sigmoid(task.mask_M), layout)
            away_P = self.base_P * gate_P + adaptive_P - _target(task)
            torch.mul(away_P, by.lambda_2, out=grad_P)
            grad_B.addcmul_(grad_P, gate_P)
            grad_P.add_(adaptive_P.sign(), alpha=by.lambda_1)
        return loss

    def step(self) -> None:
        """Make one optimizer step, and have the network hold what it leads to."""
        self._optimizer.step()
        self._compose()

    def parts(self) -> TaskParts:
        """Return a copy of what the present task has now."""
        return TaskParts(self.adaptive_P.clone(), self.mask_M.clone(), self._network.buffers.clone())

    def _compose(self) -> None:
        network = self._network
        self._gate_M = torch.sigmoid(self.mask_M)
        network.theta[: network.P] = self.base_P * spread(self._gate_M, network.layout) + self.adaptive_P
        network.theta[network.P :] = self._head


def _target(task: TaskParts) -> Tensor:
    if task.target_P is None:
        raise ValueError("a past task has the weights that it ended with")
    return task.target_P
