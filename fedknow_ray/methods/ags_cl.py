"""AGS-CL on each client, with federated averaging: group sparsity by the importance of nodes.

    loss(w) + mu sum_{n: O_n = 0} |w_n| + lambda sum_{n: O_n > 0} O_n |w_n - w*_n|
    O <- eta O + mean activation of each node, after each task

Jung et al., "Continual Learning with Node-Importance based Adaptive Group Sparse Regularization", NeurIPS 2020,
arXiv:2003.13726. A node is a channel that a convolution gives or a row of a linear layer, w_n its incoming weights with
the bias, O_n its importance, w* the client's own model at the end of its last task. After each epoch a proximal step
with the optimizer's rate: the weights of each node go straight to their centre (0 or w*_n) by rate mu or rate lambda
O_n, and stop there. So unimportant nodes die and important ones freeze, exactly. When a new task begins

    weights from unimportant to important nodes are 0, and stay so, that new features do not disturb old ones;
    a fraction of the unimportant nodes gets new random incoming weights, so that there is something to learn with.

Keeps w* and O, P + M floats for any number of tasks; sends the model. Deviations: the beginning is that of each client,
at its first visit in a task, on the broadcast; nodes are those of the features, which are what is shared, so weights
from the last of them to past head rows are left as they are; the activation of a node is the positive part of its
layer's own output, before a normalisation if there is one. FedKNOW's authors' code reaches the head alone with its
proximal step, and never a convolution.

P feature weights, M nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.fedavg import FedAvg, FedAvgSettings
from fedknow_ray.methods.learner import Batch, GradientRule, Learner, cross_entropy_rule
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.methods.nodes import NodeLayer, clear, mean_activations, node_layers, open_edges, redraw, shrink
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import WorkItem

#: Passes over the weights: an epoch's proximal step reads w and writes it, and reads w* where there is one; masking
#: reads what is masked and the mask, and writes; drawing anew writes; a copy reads and writes.
SHRINKING_PASSES, CENTRE_PASSES, MASKING_PASSES, DRAWING_PASSES, COPYING_PASSES = 2, 1, 3, 1, 2


class AgsClSettings(FedAvgSettings):
    """What there is to choose in AGS-CL; with `sparsity` and `stability` 0 it is FedAvg."""

    sparsity: float = Field(10.0, ge=0, allow_inf_nan=False)
    """mu: an epoch takes rate times mu off the length of an unimportant node's weights."""
    stability: float = Field(8.0, ge=0, allow_inf_nan=False)
    """lambda: an epoch takes rate times lambda times its importance off an important node's way from the anchor."""
    importance_decay: float = Field(0.9, ge=0, le=1)
    """eta: what is left of a node's importance after another task."""
    redrawn_fraction: float = Field(0.3, ge=0, le=1)
    """rho: share of the unimportant nodes, by chance, whose weights are drawn anew when a task begins."""


@dataclass(frozen=True, slots=True)
class NodeAnchor:
    """What is kept of past tasks: *centre_P* w* (P,), 0 for unimportant nodes and for weights from these to important
    ones, and *importance_M* O (M,), not below 0."""

    centre_P: Tensor
    importance_M: Tensor


class AgsCl(FedAvg):
    """FedAvg whose nodes freeze or die."""

    hyperparameters: ClassVar[type[BaseModel]] = AgsClSettings
    memory_types: ClassVar[tuple[type, ...]] = (NodeAnchor,)

    @property
    def settings(self) -> AgsClSettings:
        """The hyper-parameters."""
        return cast(AgsClSettings, self.hyper)

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return FedAvg's work, a proximal step an epoch, and from the second task on the mask of each step."""
        plan, epochs, past = super().plan_train(facts), self.training.local_epochs, facts.task_index > 0
        if not self._acts:
            return plan
        work = plan.work + repeat([self._shrinking(facts)], epochs)
        if past:
            masking = self.costs.passes("hold", MASKING_PASSES)
            work += repeat([masking for _ in self.costs.batches(facts.images)], epochs) + repeat([masking], 1)
        if past and not facts.trained_this_task:
            work += repeat([self.costs.passes("redraw", DRAWING_PASSES)], 1)
        # the way to the centre, and the centre where none is kept, or the mask where one is
        memory_bytes = plan.peak_memory_bytes + self.kept_bytes(facts) + 2 * self.costs.footprint.weight_bytes
        return Plan(work, memory_bytes)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs, with a proximal step after each."""
        if not self._acts:
            return super().train(learner, state, data, facts)
        network, layers = learner.network, node_layers(learner.network)
        anchor = _anchor(state, network.P, layers)
        rule: GradientRule = cross_entropy_rule
        if facts.task_index:
            rule = self._begin(learner, layers, anchor, facts, known=state.memory is not None)
        total, epochs = 0.0, self.training.local_epochs
        for _ in range(epochs):
            total += learner.train(data, 1, rule)
            shrink(layers, network.theta[: network.P], anchor.centre_P, learner.rate * self._pulls(anchor.importance_M))
            learner.log.add(self._shrinking(facts))
        return Outcome(state.memory, total / epochs)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the work of a forward pass of all images, and of the new anchor."""
        if not self._acts:
            return super().plan_finish(facts)
        own = self.costs.resident_bytes(facts) + 2 * self.costs.footprint.weight_bytes
        own += self.costs.activation_bytes(facts.images)
        ending = self.costs.ending_bytes(facts, trains_head=self.takes_final(facts))
        items = [self.costs.forward("importance", n, 0) for n in self.costs.batches(facts.images)]
        work = repeat([*items, self.costs.passes("importance", COPYING_PASSES)], 1)
        return Plan(work, max(own, ending) + self.kept_bytes(facts))

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Bring the importance of nodes up to date, and move the anchor to the client's own model."""
        if not self._acts:
            return super().finish_task(learner, state, data, facts)
        network, layers = learner.network, node_layers(learner.network)
        importance_M = _anchor(state, network.P, layers).importance_M * self.settings.importance_decay
        importance_M += mean_activations(learner, layers, data, "importance")
        important_M = importance_M > 0
        centre_P = open_edges(layers, important_M, network.P).mul_(network.theta[: network.P])
        clear(layers, centre_P, ~important_M)
        learner.log.add(self.costs.passes("importance", COPYING_PASSES))
        notes = {"important_nodes": float(important_M.sum()), "nodes": float(len(important_M))}
        return Outcome(NodeAnchor(centre_P, importance_M), None, notes=notes)

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of w* and O; nothing before the first task is over."""
        footprint = self.costs.footprint
        return footprint.weight_bytes + FLOAT_BYTES * footprint.nodes if self._acts and facts.task_index else 0

    @property
    def _acts(self) -> bool:
        return self.settings.sparsity > 0 or self.settings.stability > 0

    def _shrinking(self, facts: VisitFacts) -> WorkItem:
        return self.costs.passes("proximal", SHRINKING_PASSES + (CENTRE_PASSES if facts.task_index else 0))

    def _pulls(self, importance_M: Tensor) -> Tensor:
        """Return how far each node goes to its centre at a rate of 1."""
        sparsity_M = torch.full_like(importance_M, self.settings.sparsity)
        return torch.where(importance_M > 0, self.settings.stability * importance_M, sparsity_M)

    def _begin(
        self, learner: Learner, layers: Sequence[NodeLayer], anchor: NodeAnchor, facts: VisitFacts, *, known: bool
    ) -> GradientRule:
        """Close the weights from unimportant to important nodes, draw some nodes anew, and return the rule of a step.

        A client that knows nothing of its past (not *known*) does the work and changes no weight.
        """
        w_P = learner.network.theta[: learner.network.P]
        important_M = anchor.importance_M > 0
        mask_P = open_edges(layers, important_M, len(w_P))
        w_P.mul_(mask_P)
        learner.log.add(self.costs.passes("hold", MASKING_PASSES))
        if not facts.trained_this_task:
            lucky_M = torch.from_numpy(learner.order.random(len(important_M)) < self.settings.redrawn_fraction)
            redraw(layers, w_P, lucky_M & ~important_M & known, learner.order)
            learner.log.add(self.costs.passes("redraw", DRAWING_PASSES))
        return _masked_rule(mask_P)


def _masked_rule(mask_P: Tensor) -> GradientRule:
    """Return cross entropy's gradient, with none for closed weights: at 0, they stay there with any optimizer."""

    def rule(learner: Learner, batch: Batch) -> float:
        loss = cross_entropy_rule(learner, batch)
        learner.network.grad[: learner.network.P].mul_(mask_P)
        learner.log.add(learner.costs.passes("hold", MASKING_PASSES))
        return loss

    return rule


def _anchor(state: ClientState, P: int, layers: Sequence[NodeLayer]) -> NodeAnchor:
    """Return what a client keeps; before its first task is over, no node is important and all centres are 0."""
    if isinstance(state.memory, NodeAnchor):
        return state.memory
    return NodeAnchor(torch.zeros(P), torch.zeros(layers[-1].nodes.stop))
