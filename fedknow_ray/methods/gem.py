"""Gradient episodic memory (GEM): no step may raise the loss on what is kept of a past task, to first order.

    g' = argmin 1/2 |g - g'|^2   s.t.  <g', g_i> >= 0  for every past task i,      g_i = gradient of the mean CE on M_i
    g' = g + sum_i v_i g_i,      v >= margin minimises 1/2 v' G G' v + (G g)' v,   G = [g_1 .. g_k]

g is the gradient of the batch. All images M_i that are kept of a task are passed in every step, in batches of the
training's size. Where g is at an acute angle to every g_i, it is left as it is, bit for bit; else every multiplier is
at least the margin (the authors' "memory strength"), which pushes towards past tasks further than the constraint asks.
With a margin of 0 the constraint holds for g'; an adaptive optimizer may still step against it, which is counted.

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv:1706.08840; on each client
of federated averaging here. Keeps images of past tasks (episodic). Sends the model and nothing else.
Differs from it: the memory is a share of each task, drawn at its end, where theirs holds the last images of it; the
dual is solved as FedKNOW's is (fedknow.integrator: products in float64, non-negative least squares, a ridge of 1e-12
where theirs has 1e-3); past head rows rest, so gradients are those of the features. Rows of the task at hand have no
part in past losses, and keep their own gradient either way.

Without past tasks and with `memory_fraction: 0` it is FedAvg to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.episodic import EpisodicMethod, EpisodicSettings, Recall, past_heads_item, recall_item
from fedknow_ray.methods.fedknow.rules import Tally, integrate_into, integration_work
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.simulation.work import WorkItem

#: Vectors of P values beside g and the past gradients: the weights before a step, to see where it went.
_WEIGHTS_BEFORE = 1


class GemSettings(EpisodicSettings):
    """What there is to choose in GEM."""

    margin: float = Field(0.5, ge=0)
    """Least multiplier of each past gradient once one is violated: the authors' memory strength."""


@dataclass(slots=True)
class GemRule:
    """Integrates the batch's gradient with those of the memory, task by task."""

    recall: Recall
    margin: float
    tally: Tally = field(default_factory=Tally)
    _buffer: Tensor | None = None

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient with g'."""
        network, tasks = learner.network, len(self.recall.slices)
        if self._buffer is None:
            self._buffer = torch.empty(1 + tasks, network.P)
        for task in range(tasks):
            self._buffer[1 + task] = past_gradient(learner, self.recall, task)
        loss = cross_entropy_rule(learner, batch)
        self._buffer[0] = network.grad[: network.P]
        learner.log.add(integration_work(learner.costs, tasks))
        integrate_into(learner, self._buffer, self.margin, self.tally)
        return loss


def past_gradient(learner: Learner, recall: Recall, task: int) -> Tensor:
    """Return the gradient (P,) of the mean cross entropy of all images of one past task: a view, good until the next
    backward pass."""
    network, costs, places_M = learner.network, learner.costs, recall.slices[task]
    network.grad.zero_()
    start = 0
    for m in costs.batches(len(places_M)):
        part = places_M[start : start + m]
        z_MF = network(recall.x_NCHW(part))
        _, dz_MF = recall.pull(z_MF, part)
        torch.autograd.backward(z_MF, dz_MF.div_(len(places_M)))
        learner.log.add(costs.forward_backward("recall", m, 0))
        learner.log.add(past_heads_item(costs, "recall", m, network.rows, 1))
        start += m
    return network.grad[: network.P]


class Gem(EpisodicMethod):
    """GEM on each client."""

    hyperparameters: ClassVar[type[BaseModel]] = GemSettings
    begins_as_fedavg = True

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs."""
        memory, epochs = self.memory_of(state, facts), self.training.local_epochs
        recall = self.recall(learner, memory, data)
        if recall is None:
            return Outcome(memory, learner.train(data, epochs, cross_entropy_rule))
        rule = GemRule(recall, cast(GemSettings, self.hyper).margin)
        loss, tally = learner.train(data, epochs, rule), rule.tally
        notes = {"violated_after_steps": float(tally.violated_after_steps)}
        return Outcome(memory, loss, tally.integrated_steps, tally.violated_steps, notes)

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the work of the local epochs: in each step, all images of the memory and an integration."""
        plain, stored = super().plan_train(facts), self.remembered(facts)
        if not stored:
            return plain
        step = [item for images in stored for item in self._past_items(images, facts.classes)]
        step.append(integration_work(self.costs, len(stored)))
        steps = len(self.costs.batches(facts.images)) * self.training.local_epochs
        work = repeat([recall_item(self.costs, sum(stored))], 1) + plain.work + repeat(step, steps)
        return Plan(work, self._peak_bytes(facts, stored))

    def _past_items(self, images: int, classes: int) -> list[WorkItem]:
        return [
            item
            for m in self.costs.batches(images)
            for item in (
                self.costs.forward_backward("recall", m, 0),
                past_heads_item(self.costs, "recall", m, classes, 1),
            )
        ]

    def _peak_bytes(self, facts: VisitFacts, stored: tuple[int, ...]) -> int:
        """Plain training, the memory, all gradients, and a batch of the memory where that is the larger one."""
        costs = self.costs
        activations = max(map(costs.activation_bytes, (facts.images, *stored))) - costs.activation_bytes(facts.images)
        vectors = (len(stored) + 1 + _WEIGHTS_BEFORE) * costs.footprint.weight_bytes
        return costs.training_bytes(facts) + self.recalling_bytes(facts) + activations + vectors
