"""FLCN: the server says which weights of the merged model matter, and clients hold on to these in every step.

    client   loss + lambda sum_j I_j (w_j - w_G,j)^2,      w_G the broadcast that the visit starts from
    server   I_j = mean over x of | d ||f(x)||^2 / d w_j |,   f the features of w_G, x of the proxy set

Yao and Sun, "Continual Local Training for Better Initialization of Federated Models", ICIP 2020, arXiv:2005.12657
(called FedCL elsewhere). The server has a *proxy set* of `server_samples` of the training images of the tasks seen so
far. Kept by a client: nothing. Sent: w_G and I down (P floats more than FedAvg), w up. The first broadcast has I = 0,
since nothing has been learnt; lambda = 0 trains and sends what FedAvg does, to the bit.

There is no published code; this is what the papers that compare with it say of it. Choices and deviations:
importance is that of MAS (Aljundi et al., ECCV 2018, arXiv:1711.09601), for the server has no head of its own, and this
needs no labels. It is of each image by itself; `importance_batch` above 1 takes the gradient of a batch's mean, which
is faster and gives less. It is of the features alone: a global head is not held. The proxy set is of clients' own
images, where a real server would have to gather its own. `strength` has no published value known to us: 1 is ours. The
loss that is recorded is cross entropy alone. The server's computing is not on the virtual clock; on the host it is one
backward pass an image of the proxy set, each merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.fedavg import FedAvg
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule
from fedknow_ray.methods.method import ClientState, Hyperparameters, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.simulation.work import WorkItem

IMPORTANCE = "importance"
#: A step of the penalty reads w, w_G, I and the gradient, and writes the gradient.
PENALTY_PASSES = 5


class FlcnSettings(Hyperparameters):
    """What there is to choose in FLCN."""

    strength: float = Field(1.0, ge=0, le=1e9, allow_inf_nan=False)
    """lambda, without unit: weight of the penalty beside the mean cross entropy; 0 is FedAvg."""
    server_samples: float = Field(0.1, gt=0, le=1)
    """Share of each client's training images of each task in the server's proxy set, rounded up."""
    importance_batch: int = Field(1, ge=1, le=1024)
    """Images whose gradients are taken together; 1 is the formula."""


class Flcn(FedAvg):
    """Federated averaging with a penalty whose weights the server computes."""

    hyperparameters: ClassVar[type[BaseModel]] = FlcnSettings
    serves = True

    @property
    def settings(self) -> FlcnSettings:
        """The hyper-parameters, typed."""
        return cast(FlcnSettings, self.hyper)

    @property
    def served_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """One importance for each feature weight."""
        return {IMPORTANCE: (self.costs.footprint.P,)}

    @property
    def proxy_fraction(self) -> float:
        """What `server_samples` says."""
        return self.settings.server_samples

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return FedAvg's work, and one penalty a step; w_G is the payload, which is there in any case."""
        plan = super().plan_train(facts)
        if self.settings.strength == 0:
            return plan
        steps = [self._penalty_item() for _ in self.costs.batches(facts.images)]
        return Plan(plan.work + repeat(steps, self.training.local_epochs), plan.peak_memory_bytes)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs under the penalty."""
        if self.settings.strength == 0:
            return super().train(learner, state, data, facts)
        anchor_P = learner.network.theta[: learner.network.P].clone()
        importance_P = torch.from_numpy(np.array(data.served[IMPORTANCE]))

        def rule(learner: Learner, batch: Batch) -> float:
            loss = cross_entropy_rule(learner, batch)
            add_penalty(learner, anchor_P, importance_P, self.settings.strength)
            learner.log.add(self._penalty_item())
            return loss

        return Outcome(state.memory, learner.train(data, self.training.local_epochs, rule))

    def serve(self, learner: Learner, images_NHWC: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Return the importance of each feature weight of the merged model."""
        return {IMPORTANCE: importance(learner, images_NHWC, self.settings.importance_batch).numpy()}

    def _penalty_item(self) -> WorkItem:
        return self.costs.passes("penalty", PENALTY_PASSES)


def add_penalty(learner: Learner, anchor_P: Tensor, importance_P: Tensor, strength: float) -> None:
    """Add the gradient of strength * sum_j I_j (w_j - w_G,j)^2 to that of the features."""
    network = learner.network
    away_P = network.theta[: network.P] - anchor_P
    network.grad[: network.P].addcmul_(importance_P, away_P, value=2 * strength)


def importance(learner: Learner, images_NHWC: NDArray[Any], batch: int) -> Tensor:
    """Return mean | d ||f(x)||^2 / d w_j | (P,) over images, in evaluation mode.

    Of *batch* images at a time the gradient of their mean, weighted by their number. The network's gradient is used up.
    """
    network = learner.network
    network.features.eval()
    total_P = torch.zeros(network.P)
    for start in range(0, len(images_NHWC), batch):
        x_NCHW = learner.normalisation(images_NHWC[start : start + batch]).permute(0, 3, 1, 2)
        network.grad.zero_()
        z_NF = network(x_NCHW)
        # the gradient of the sum, whose size is that of the mean times the number of images
        torch.autograd.backward(z_NF, 2 * z_NF.detach())
        total_P += network.grad[: network.P].abs_()
    return total_P / len(images_NHWC)
