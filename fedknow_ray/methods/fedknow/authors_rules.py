"""The two phases of FedKNOW's `authors_code` variant, as rules for the training loop.

    head phase   one optimizer step on soft CE to the old model (T = 1), then one on the task's own CE
    rep phase    g' = g + G' v,  v >= margin minimises 1/2 v' G G' v + (G g)' v;  then ||g'|| is cut to 50

Rows of G are the gradients of soft CE to past models, which one forward pass of the student serves: first the old model
on the classes of all past tasks together, then pack teachers on the classes of one task each, oldest first. Without a
violation g' is g, bit for bit; the shipped test for one looks at the first pack teacher's gradient in place of g.

N images, C classes of a past model, F features, P feature weights, R = 1 + past gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedknow_ray.errors import DivergenceError
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.integrator import combine, gram, solve_dual
from fedknow_ray.methods.fedknow.past_tasks import backward_into
from fedknow_ray.methods.fedknow.restorer import distillation_logit_gradient, soft_labels
from fedknow_ray.methods.fedknow.rules import integration_work
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule, head_pass
from fedknow_ray.simulation.work import WorkItem

#: The largest norm of a projected gradient, features and head together.
CLIP_NORM = 50.0
#: Passes over the weights of cutting the norm: one read for it, one read and one write.
CLIP_PASSES = 3
HEAD_PHASE_TEMPERATURE = 1.0


@dataclass(slots=True)
class StepCounts:
    """Steps of one visit: checked against past gradients, changed, and in conflict with one but not changed."""

    checked: int = 0
    changed: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Teacher:
    """What one past model says: *logits_NC* of all images of the task; *head_CF* the frozen rows of those classes."""

    logits_NC: Tensor
    head_CF: Tensor

    def pull(self, z_NF: Tensor, indices: NDArray[np.int64], temperature: float) -> Tensor:
        """Return the gradient (N, F) of the soft cross entropy of a batch for the features' output z."""
        weight_CF = self.head_CF[:, :-1]
        with torch.no_grad():
            student_NC = torch.addmm(self.head_CF[:, -1], z_NF.detach(), weight_CF.T)
            labels_NC = soft_labels(self.logits_NC[torch.from_numpy(indices)], temperature)
            return distillation_logit_gradient(student_NC, labels_NC, temperature) @ weight_CF


def distilling_items(costs: StepCosts, n: int, classes: int) -> list[WorkItem]:
    """Return the work of the head phase's first step before the optimizer: a pass of the features, and back through a
    frozen head of all past classes."""
    return [costs.forward("distil", n, 0), costs.backward("distil", n, classes)]


def cut_projection_items(costs: StepCosts, constraints: int) -> list[WorkItem]:
    """Return the work of one projection and of cutting the norm, both counted whether needed or not."""
    return [integration_work(costs, constraints), costs.passes("integrate", CLIP_PASSES)]


@dataclass(frozen=True, slots=True)
class HeadPhaseRule:
    """A step towards the old model on the past classes, then the gradient of the task's own cross entropy."""

    old: Teacher

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Make the first step, and fill the learner's gradient for the second."""
        network, costs, n = learner.network, learner.costs, len(batch.y_N)
        network.grad.zero_()
        z_NF = network(batch.x_NCHW)
        torch.autograd.backward(z_NF, self.old.pull(z_NF, batch.indices, HEAD_PHASE_TEMPERATURE))
        for item in distilling_items(costs, n, len(self.old.head_CF)):
            learner.log.add(item)
        learner.optimize()
        return cross_entropy_rule(learner, batch)


@dataclass(slots=True)
class RepPhaseRule:
    """Projects the batch's gradient by those of the old model and of the oldest pack teachers."""

    teachers: Sequence[Teacher]
    settings: FedKnowSettings
    counts: StepCounts
    _buffer: Tensor | None = None

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient with g'."""
        network, costs, n = learner.network, learner.costs, len(batch.y_N)
        z_NF = network(batch.x_NCHW)
        loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
        if self._buffer is None:
            self._buffer = torch.empty(1 + len(self.teachers), network.P)
        backward_into(network, z_NF, d_logits_NR @ network.head[:, :-1], self._buffer[0])
        learner.log.add(costs.forward_backward("train", n, network.rows))
        for row, teacher in enumerate(self.teachers, start=1):
            dz_NF = teacher.pull(z_NF, batch.indices, self.settings.temperature)
            backward_into(network, z_NF, dz_NF, self._buffer[row])
            learner.log.add(costs.backward("restore", n, len(teacher.head_CF)))
        project(self._buffer, network.grad, self.settings, self.counts)
        for item in cut_projection_items(costs, len(self.teachers)):
            learner.log.add(item)
        return loss


def project(G_RP: Tensor, grad: Tensor, settings: FedKnowSettings, counts: StepCounts) -> None:
    """Write g' into the first P values of *grad*; the head's gradient behind them is cut with it.

    Rows of G: g, the old model's gradient, those of the pack teachers, oldest first.

    Raises:
        DivergenceError: if a gradient holds a NaN or an infinity.
    """
    gram_RR = gram(G_RP)
    if not np.isfinite(gram_RR).all():
        raise DivergenceError("a gradient holds a NaN or an infinity")
    # with k = 1 there is no pack teacher, and the shipped test finds g in the column that it looks at
    tested = 2 if settings.violation_test == "oldest_task" and len(G_RP) > 2 else 0
    violated, found = ((gram_RR[row, 1:] < 0).any() for row in (0, tested))
    counts.checked += 1
    counts.changed += int(found)
    counts.missed += int(violated and not found)
    if not found:
        grad[: G_RP.shape[1]] = G_RP[0]
        return
    combine(G_RP, solve_dual(gram_RR, settings.margin), grad[: G_RP.shape[1]])
    norm = float(grad.norm())
    if norm > CLIP_NORM:
        grad *= CLIP_NORM / norm
