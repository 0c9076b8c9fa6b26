"""FedKNOW's integration at the features' output: past tasks pull along with the task at hand, in one backward pass.

    sum                 dz' = dz + w sum_i dz_i,     w = restored_weight
    feature_projection  dz' = integrate(dz + w sum_i dz_i; dz_1 .. dz_k)

dz (N, F) is the gradient of the batch's cross entropy for the features, dz_i that of past task i's loss (past_tasks).
`sum` is the gradient of cross entropy plus w times the distillation losses of all signature tasks: learning without
forgetting (Li and Hoiem, ECCV 2016, arXiv:1606.09282) with a teacher of its own for each task. `feature_projection`
then weighs those up that still object, as seen from the features. Either costs one backward pass for any k, where the
paper's integrator takes k + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.integrator import integrate
from fedknow_ray.methods.fedknow.past_tasks import PastTasks
from fedknow_ray.methods.fedknow.rules import Tally
from fedknow_ray.methods.learner import Batch, Learner, head_pass
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import WorkItem


def summing_items(costs: StepCosts, n: int, classes: int, k: int, integration: str) -> list[WorkItem]:
    """Return what a step with k signature tasks adds to a plain one."""
    items = [costs.through_heads("restore", n, k * classes)]
    if integration == "feature_projection":
        rows, values = k + 1, n * costs.footprint.F
        flops = 2 * rows * rows * values + 2 * rows * values
        items.append(WorkItem("integrate", 1, flops, (2 * rows + 1) * FLOAT_BYTES * values))
    return items


@dataclass(slots=True)
class SummingRule:
    """Adds the signature tasks' pulls to the batch's gradient for the features."""

    past: PastTasks
    tally: Tally

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient."""
        network, n, settings = learner.network, len(batch.y_N), self.past.settings
        z_NF = network(batch.x_NCHW)
        loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
        dz_NF = d_logits_NR @ network.head[:, :-1]
        learner.log.add(learner.costs.forward_backward("train", n, network.rows))
        dz_kNF = self.past.pulls(z_NF, batch.indices)
        for item in summing_items(learner.costs, n, network.rows, self.past.k, settings.integration):
            learner.log.add(item)
        self.past.train_heads(learner, n)
        summed_NF = dz_kNF.sum(0).mul_(settings.restored_weight).add_(dz_NF)
        if settings.integration == "feature_projection":
            summed_NF = self._project(summed_NF, dz_kNF)
        network.grad[: network.P].zero_()
        torch.autograd.backward(z_NF, summed_NF)
        return loss

    def _project(self, dz_NF: Tensor, dz_kNF: Tensor) -> Tensor:
        result = integrate(torch.cat([dz_NF[None], dz_kNF]).flatten(1), self.past.settings.margin)
        self.tally.integrated_steps += 1
        self.tally.violated_steps += result.violated
        return result.g_P.view_as(dz_NF)
