"""FedKNOW's integration by gradients of all weights, as a rule for the training loop.

One forward pass of the batch serves all k + 1 gradients: that of a past task's loss for the features' output is
closed-form (past_tasks), so each signature task costs one backward pass through activations that are there.

    projection           g' = integrate(g; g_1 .. g_k);                  the optimizer steps with g'
    sum_then_projection  g' = integrate(g + w sum_i g_i; g_1 .. g_k),    w = restored_weight
    preconditioned       the optimizer steps with g; its update u is replaced by integrate(u; g_1 .. g_k)

`integrate` gives what is closest to its first argument at acute angles to the others (integrator). All gradients of a
step lie in one buffer (k + 1, P), made once a visit and freed with the rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.integrator import combine, integrate, violations_after
from fedknow_ray.methods.fedknow.past_tasks import PastTasks, backward_into
from fedknow_ray.methods.learner import Batch, Learner, head_pass
from fedknow_ray.simulation.work import WorkItem

#: Passes over the weights in which an update is read from the weights before and after, and put back.
UPDATE_PASSES = 3


@dataclass(slots=True)
class Tally:
    """Counts of one visit: steps checked, steps changed, and steps whose *update* still went against a past task."""

    integrated_steps: int = 0
    violated_steps: int = 0
    violated_after_steps: int = 0


def integration_work(costs: StepCosts, constraints: int) -> WorkItem:
    """Return the work of one integration: Gram matrix and combination in float64, both counted whether needed or
    not."""
    rows, P = constraints + 1, costs.footprint.P
    flops = 2 * rows * rows * P + 2 * rows * P
    return WorkItem("integrate", 1, flops, (2 * rows + 1) * costs.footprint.weight_bytes)


def projection_items(costs: StepCosts, n: int, classes: int, k: int, integration: str) -> list[WorkItem]:
    """Return what a step with k signature tasks adds to a plain one."""
    items = [costs.backward("restore", n, classes) for _ in range(k)]
    if integration == "sum_then_projection":
        items.append(costs.passes("integrate", k + 2))
    if integration == "preconditioned":
        items.append(costs.passes("integrate", UPDATE_PASSES))
    return [*items, integration_work(costs, k)]


@dataclass(slots=True)
class ProjectionRule:
    """Integrates the batch's gradient, or the optimizer's update, with the gradients of the signature tasks."""

    past: PastTasks
    tally: Tally
    _buffer: Tensor | None = None

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient."""
        network, settings = learner.network, self.past.settings
        z_NF = network(batch.x_NCHW)
        loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
        if self._buffer is None:
            self._buffer = torch.empty(1 + self.past.k, network.P)
        G_RP = self._buffer
        backward_into(network, z_NF, d_logits_NR @ network.head[:, :-1], G_RP[0])
        learner.log.add(learner.costs.forward_backward("train", len(batch.y_N), network.rows))
        for row, dz_NF in enumerate(self.past.pulls(z_NF, batch.indices), start=1):
            backward_into(network, z_NF, dz_NF, G_RP[row])
        self.past.train_heads(learner, len(batch.y_N))
        for item in projection_items(learner.costs, len(batch.y_N), network.rows, self.past.k, settings.integration):
            learner.log.add(item)
        if settings.integration == "sum_then_projection":
            combine(G_RP, np.full(self.past.k, settings.restored_weight))
        if settings.integration == "preconditioned":
            project_update(learner, G_RP, settings.margin, self.tally)
        else:
            integrate_into(learner, G_RP, settings.margin, self.tally)
        return loss


def integrate_into(learner: Learner, G_RP: Tensor, margin: float, tally: Tally) -> None:
    """Write g' into the learner's gradient, and have the update that follows looked at."""
    network = learner.network
    result = integrate(G_RP, margin, out=network.grad[: network.P])
    _count(tally, violated=result.violated)
    before_P = network.theta[: network.P].clone()

    def look() -> None:
        update_P = before_P.sub_(network.theta[: network.P])
        tally.violated_after_steps += violations_after(update_P, G_RP[1:], result.norm_k) > 0

    learner.after_step(look)


def project_update(learner: Learner, G_RP: Tensor, margin: float, tally: Tally) -> None:
    """Write g into the learner's gradient, and have the update that follows integrated.

    What an adaptive optimizer makes of g is another direction; here it is the step itself that no past task objects
    to. The optimizer's moments are those of g.
    """
    network = learner.network
    network.grad[: network.P] = G_RP[0]
    before_P = network.theta[: network.P].clone()

    def replace_update() -> None:
        weights_P = network.theta[: network.P]
        G_RP[0] = before_P - weights_P
        result = integrate(G_RP, margin)
        _count(tally, violated=result.violated)
        if result.violated:
            torch.sub(before_P, result.g_P, out=weights_P)
        tally.violated_after_steps += violations_after(before_P.sub_(weights_P), G_RP[1:], result.norm_k) > 0

    learner.after_step(replace_update)


def _count(tally: Tally, *, violated: bool) -> None:
    tally.integrated_steps += 1
    tally.violated_steps += violated
