"""Importance of weights, and the penalty that holds important ones: what EWC and MAS have in common.

    loss(w) + lambda / 2 sum_j I_j (w_j - w*_j)^2,     so the gradient of each step gains lambda I (w - w*)

w* is the client's own model at the end of its last task. I is estimated there, image by image, from gradients of the
network's output in evaluation mode: dropout is off and batch normalisation uses its running statistics, so each image
has a gradient of its own. Both are over the features, which are what is shared; past head rows rest by themselves. A
client keeps the two vectors whatever the number of its tasks, and sends the model alone.

With Adam the sum of the two gradients is the step's. With SGD it would leave every bound where rate * lambda * I is
above 2, which single weights easily are; there the penalty is taken at the end of the step in place of its beginning
(the proximal step), which has the same optimum and is stable for any lambda:

    w' = w - rate (g + lambda I (w' - w*)),     so the step's gradient is (g + lambda I (w - w*)) / (1 + rate lambda I)

N images, R head rows of the task, P feature weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedavg import FedAvg
from fedknow_ray.methods.learner import Batch, GradientRule, Learner, cross_entropy_rule
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.simulation.work import Work, WorkItem

#: Passes over the weights: a step reads w, w*, I and the gradient, and writes the gradient ...
PULL_PASSES = 5
#: ... an image's gradient is read, and the sum is read and written ...
ADDING_PASSES = 3
#: ... the end of a task copies w, and brings the old and the new importance together.
COPYING_PASSES, MERGING_PASSES = 2, 3


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is kept of past tasks: *weights_P* w* (P,) and *importance_P* I (P,), not below 0."""

    weights_P: Tensor
    importance_P: Tensor


class HeldByImportance(FedAvg):
    """FedAvg whose clients are held near their own last model, each weight as its importance says."""

    memory_types: ClassVar[tuple[type, ...]] = (Anchor,)

    @property
    @abstractmethod
    def strength(self) -> float:
        """lambda; with 0 nothing is estimated or kept, and the method is FedAvg."""

    @abstractmethod
    def importance(self, learner: Learner, data: TaskData) -> Tensor:
        """Return the importance (P,) of the weights for a task whose model the network holds; `image_gradients` counts
        the work, `add_up` that of the sum.
        """

    @abstractmethod
    def merge(self, old_P: Tensor, new_P: Tensor, past_tasks: int) -> Tensor:
        """Return the importance of so many past tasks and one more; may change *new_P*."""

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return FedAvg's work and the penalty's, once there is a past task; memory for w*, I and w - w*."""
        plan = super().plan_train(facts)
        if not self._holds(facts):
            return plan
        steps = [self.costs.passes("hold", PULL_PASSES) for _ in self.costs.batches(facts.images)]
        memory_bytes = plan.peak_memory_bytes + self.kept_bytes(facts) + self.costs.footprint.weight_bytes
        return Plan(plan.work + repeat(steps, self.training.local_epochs), memory_bytes)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs, held by the anchor."""
        if not self._holds(facts):
            return super().train(learner, state, data, facts)
        rule = holding_rule(_anchor(state, learner.network.P), self.strength)
        return Outcome(state.memory, learner.train(data, self.training.local_epochs, rule))

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the work of the estimate: a forward and a backward pass of every image by itself."""
        if not self.strength:
            return super().plan_finish(facts)
        own = self.costs.resident_bytes(facts) + 3 * self.costs.footprint.weight_bytes + self.costs.footprint.kept_bytes
        ending = self.costs.ending_bytes(facts, trains_head=self.takes_final(facts))
        work = plan_image_gradients(self.costs, facts) + repeat([_merging(self.costs, facts)], 1)
        return Plan(work, max(own, ending) + self.kept_bytes(facts))

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Estimate the importance for the task, and move the anchor to the client's own model."""
        if not self.strength:
            return super().finish_task(learner, state, data, facts)
        weights_P = learner.network.theta[: learner.network.P].clone()
        importance_P = self.importance(learner, data)
        if facts.task_index:
            importance_P = self.merge(_anchor(state, learner.network.P).importance_P, importance_P, facts.task_index)
        learner.log.add(_merging(self.costs, facts))
        return Outcome(Anchor(weights_P, importance_P), None, notes={"mean_importance": float(importance_P.mean())})

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of w* and I; nothing before the first task is over."""
        return 2 * self.costs.footprint.weight_bytes if self._holds(facts) else 0

    def _holds(self, facts: VisitFacts) -> bool:
        return self.strength > 0 and facts.task_index > 0


def holding_rule(anchor: Anchor, strength: float) -> GradientRule:
    """Return cross entropy's gradient with that of the penalty."""

    def rule(learner: Learner, batch: Batch) -> float:
        loss = cross_entropy_rule(learner, batch)
        network = learner.network
        rate = learner.rate if learner.training.optimizer.name == "sgd" else None
        pull(network.theta[: network.P], network.grad[: network.P], anchor, strength, rate)
        learner.log.add(learner.costs.passes("hold", PULL_PASSES))
        return loss

    return rule


def pull(weights_P: Tensor, grad_P: Tensor, anchor: Anchor, strength: float, rate: float | None) -> None:
    """Add the penalty's gradient to *grad_P*; with a *rate* so that a plain step of it is the proximal one."""
    way_P = weights_P - anchor.weights_P
    grad_P.addcmul_(way_P, anchor.importance_P, value=strength)
    if rate is not None:
        grad_P.div_(torch.mul(anchor.importance_P, rate * strength, out=way_P).add_(1))


def image_gradients(learner: Learner, data: TaskData, push: Callable[[Tensor, int], Tensor]) -> Iterator[Tensor]:
    """Yield for each image the gradient (P,) of what has the gradient *push(logits (1, R), index)* for its logits.

    In evaluation mode; what is yielded is a view, which the next image overwrites.
    """
    network, costs = learner.network, learner.costs
    network.features.eval()
    x_NCHW = learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    weight_RF, bias_R = network.head[:, :-1], network.head[:, -1]
    for index in range(len(x_NCHW)):
        network.grad.zero_()
        z_1F = network(x_NCHW[index : index + 1])
        with torch.no_grad():
            dz_1F = push(torch.addmm(bias_R, z_1F, weight_RF.T), index) @ weight_RF
        torch.autograd.backward(z_1F, dz_1F)
        for item in _image_items(costs, network.rows):
            learner.log.add(item)
        yield network.grad[: network.P]


def plan_image_gradients(costs: StepCosts, facts: VisitFacts) -> Work:
    """Return the work of the gradients of all images, and of adding them up."""
    return repeat(_image_items(costs, facts.classes), facts.images)


def _image_items(costs: StepCosts, rows: int) -> list[WorkItem]:
    phase = "importance"
    return [costs.forward(phase, 1, 0), costs.backward(phase, 1, rows), costs.passes(phase, ADDING_PASSES)]


def _merging(costs: StepCosts, facts: VisitFacts) -> WorkItem:
    return costs.passes("importance", COPYING_PASSES + (MERGING_PASSES if facts.task_index else 0))


def _anchor(state: ClientState, P: int) -> Anchor:
    """Return what a client keeps; where it knows nothing of its past, an anchor that holds no weight."""
    return state.memory if isinstance(state.memory, Anchor) else Anchor(torch.zeros(P), torch.zeros(P))
