"""APFL: each client mixes the shared model w with a personal one v, and learns how much of which.

    m = alpha v + (1 - alpha) w                                     the client's own model
    w <- w - eta grad f(w)                                          sent, and averaged as FedAvg does
    v <- v - eta alpha grad f(m)                                    stays with the client
    alpha <- clip(alpha - eta <v - w, grad f(m)>, 0, 1)             unless it is fixed

Deng, Kamani and Mahdavi, "Adaptive Personalized Federated Learning", 2020, arXiv:2003.13461. All of a step's gradients
are taken where it starts, on one batch and, with dropout, under one mask.

Sent: w, up and down. Kept: v and alpha, in memory, from one visit to the next and over all tasks. With alpha fixed at 0
it is FedAvg to the bit.

Deviations. Weights are mixed, as in the paper (the published FedKNOW code mixes logits); only the features are: the
client has one head, under w and m alike, whose gradient is (1 - alpha) that under w + alpha that under m. A local head
is so never mixed, and a global one is sent with w. Both w and v are stepped by the config's optimizer, fresh in each
visit; with Adam, which has no use for the size of a gradient, the factor alpha of v's makes next to no difference.
alpha is adapted in each step, at the step's rate. v starts as the first model that the client receives. Running
statistics: v is never passed through, so its are those of m. A client that was never sampled in a task takes the final
features as its own, as with every method here, and keeps its v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.learner import Batch, DecayingOptimizer, Learner, cross_entropy_rule, head_pass
from fedknow_ray.methods.method import ClientState, Hyperparameters, Method, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.seeding import torch_mark
from fedknow_ray.simulation.work import Work, WorkItem

MIXING_PASSES = 3  # over the weights: read v and w, write m
SCALING_PASSES = 2  # read the gradient, write it times alpha
ADAPTING_PASSES = 3  # read v, w and the gradient


class ApflSettings(Hyperparameters):
    """How much of a client's own model is personal."""

    alpha: float = Field(0.5, ge=0, le=1)
    """Share of the personal model as a client begins: 0 is the shared model alone, 1 the personal one alone."""
    adapt_alpha: bool = True
    """Whether each step moves it; else it stays."""


@dataclass(frozen=True, slots=True, eq=False)
class ApflMemory:
    """The personal model: its features *personal_S* (S,), and its share in the client's own."""

    personal_S: NDArray[np.float32]
    alpha: float


class Apfl(Method):
    """FedAvg of w, with v beside it."""

    hyperparameters: ClassVar[type[BaseModel]] = ApflSettings
    memory_types: ClassVar[tuple[type, ...]] = (ApflMemory,)

    @property
    def settings(self) -> ApflSettings:
        """The hyper-parameters, typed."""
        return cast(ApflSettings, self.hyper)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train both models for the local epochs; leave their mix in the network, and send w."""
        network = learner.network
        memory = state.memory if isinstance(state.memory, ApflMemory) else None
        rule = MixingRule(learner, memory or ApflMemory(network.state(), self.settings.alpha), self.settings)
        loss = learner.train(data, self.training.local_epochs, rule)
        shared_S = network.state()
        rule.load_mix(network)
        learner.log.add(ending_item(self.costs))
        return Outcome(rule.memory(), loss, notes={"alpha": rule.alpha}, sent_S=shared_S)

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return FedAvg's work and as much again for v, and memory for v, the mix, and the training of v."""
        costs, epochs = self.costs, self.training.local_epochs
        work = costs.training_epochs("train", facts.images, facts.classes, epochs)
        steps = [
            item
            for n in costs.batches(facts.images)
            for item in personal_items(costs, n, facts.classes, adapts=self.settings.adapt_alpha)
        ]
        work += repeat(steps, epochs) + repeat([ending_item(costs)], 1)
        personal_bytes = 2 * costs.model_bytes + costs.optimizer_bytes(costs.footprint.P)
        return Plan(work, costs.training_bytes(facts) + personal_bytes)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return no work, and room for v."""
        ending_bytes = self.costs.ending_bytes(facts, trains_head=self.takes_final(facts))
        return Plan(Work.none(), ending_bytes + self.kept_bytes(facts))

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of v, which there is from a client's first visit on."""
        return self.costs.model_bytes if facts.task_index or facts.trained_this_task else 0


def personal_items(costs: StepCosts, n: int, classes: int, *, adapts: bool) -> list[WorkItem]:
    """Return what a step with v adds to a plain one: m and its gradient, and a step of v."""
    passes = MIXING_PASSES + SCALING_PASSES + (ADAPTING_PASSES if adapts else 0)
    return [costs.forward_backward("personal", n, classes), costs.passes("mix", passes), costs.optimize(0)]


def ending_item(costs: StepCosts) -> WorkItem:
    """Return the work of the mix that a visit ends with."""
    return costs.passes("mix", MIXING_PASSES)


class MixingRule:
    """Steps v and alpha, and fills the learner's gradient for w and the head.

    *memory* as the visit starts; the learner's network holds w.
    """

    def __init__(self, learner: Learner, memory: ApflMemory, settings: ApflSettings) -> None:
        network, P = learner.network, learner.network.P
        self.alpha = memory.alpha
        self._adapts = settings.adapt_alpha
        self._personal_P = torch.tensor(memory.personal_S[:P])
        self._grad_P = torch.zeros(P)
        self._optimizer = DecayingOptimizer(learner.training, self._personal_P, self._grad_P)
        self._mixed_P = torch.empty(P)
        self._mixed_B = self.alpha * torch.tensor(memory.personal_S[P:]) + (1 - self.alpha) * network.buffers
        views = network.as_tensors(self._mixed_P)
        self._weights = {name: view.detach().requires_grad_() for name, view in views.items()}

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Make the step of v and alpha; return the loss of the mix."""
        network, rate = learner.network, learner.rate
        repeat_draws = torch_mark()
        cross_entropy_rule(learner, batch)
        repeat_draws()
        loss = self._mixed_gradient(network, batch)
        slope = self._slope(network) if self._adapts else 0.0
        self._grad_P.mul_(self.alpha)
        self._optimizer.step()
        self.alpha = min(1.0, max(0.0, self.alpha - rate * slope))
        for item in personal_items(learner.costs, len(batch.y_N), network.rows, adapts=self._adapts):
            learner.log.add(item)
        return loss

    def load_mix(self, network: FlatNetwork) -> None:
        """Put the mix of both models, as they are now, in place of w."""
        self._mix(network)
        network.theta[: network.P] = self._mixed_P
        network.buffers.copy_(self._mixed_B)

    def memory(self) -> ApflMemory:
        """Return what the client keeps."""
        return ApflMemory(np.concatenate([self._personal_P.numpy(), self._mixed_B.numpy()]), self.alpha)

    def _mix(self, network: FlatNetwork) -> None:
        torch.mul(network.theta[: network.P], 1 - self.alpha, out=self._mixed_P)
        self._mixed_P.add_(self._personal_P, alpha=self.alpha)

    def _mixed_gradient(self, network: FlatNetwork, batch: Batch) -> float:
        """Write the gradient of the mix for its features, add its share to the head's, and return its loss."""
        self._mix(network)
        z_NF = network.call_with(self._weights, self._mixed_B, batch.x_NCHW)
        head_grad_RF = torch.empty_like(network.head)
        loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, head_grad_RF)
        gradients = torch.autograd.grad(z_NF, list(self._weights.values()), d_logits_NR @ network.head[:, :-1])
        network.write_gradients(gradients, self._grad_P)
        network.head_grad.mul_(1 - self.alpha).add_(head_grad_RF, alpha=self.alpha)
        return loss

    def _slope(self, network: FlatNetwork) -> float:
        """Return the derivative of the mix's loss for alpha: <v - w, grad f(m)>; uses up the mix."""
        torch.sub(self._personal_P, network.theta[: network.P], out=self._mixed_P)
        return float(self._mixed_P @ self._grad_P)
