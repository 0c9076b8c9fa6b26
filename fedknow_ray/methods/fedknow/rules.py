"""The two gradients of FedKNOW, as rules for the training loop.

Restoration: one forward pass of the current batch serves all k + 1 gradients. The gradient of each past task's loss for
the features' output is closed-form, so each task costs one backward pass through activations that are there:

    G_0 = d CE(z W' ) / d w,     G_i = d distillation(z W_i', labels of task i) / d w,     g' = integrate(G)

Second use, against negative transfer: the aggregate is where training starts, the client's own model before aggregation
sets the one constraint, on the same batch and the same dropout mask:

    g' = integrate([g at the model being trained, g_b at the client's own model])

All gradients of a step lie in one buffer (k + 1, P), made once a visit and freed with the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.integrator import integrate, violations_after
from fedknow_ray.methods.fedknow.restorer import distillation_logit_gradient
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.signature import choose_without_gradients, distance, farthest, measures_gradients
from fedknow_ray.methods.learner import Batch, Learner, head_pass
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.seeding import torch_mark
from fedknow_ray.simulation.work import WorkItem

#: Passes over the weights that one distance takes: it reads two gradients.
SELECT_PASSES = 2


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


@dataclass(slots=True)
class RestoreRule:
    """Integrates the batch's gradient with those of the signature tasks, chosen at the visit's first batch.

    *labels_NC* of each past task for the client's images, *heads_RF* the frozen head rows of each past task.
    """

    labels_NC: Sequence[Tensor]
    heads_RF: Sequence[Tensor]
    settings: FedKnowSettings
    rng: np.random.Generator
    tally: Tally
    chosen: tuple[int, ...] | None = None
    _buffer: Tensor | None = None

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient with g'."""
        network = learner.network
        z_NF = network(batch.x_NCHW)
        loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
        if self._buffer is None:
            self._buffer = torch.empty(1 + min(len(self.labels_NC), self.settings.signature_tasks), network.P)
        backward_into(network, z_NF, d_logits_NR @ network.head[:, :-1], self._buffer[0])
        learner.log.add(learner.costs.forward_backward("train", len(batch.y_N), network.rows))
        if self.chosen is None:
            self.chosen = self._choose(learner, batch, z_NF)
        for row, task in enumerate(self.chosen, start=1):
            self._restore(learner, batch, z_NF, task, self._buffer[row])
        _integrate_into(learner, self._buffer, self.settings.margin, self.tally)
        return loss

    def _choose(self, learner: Learner, batch: Batch, z_NF: Tensor) -> tuple[int, ...]:
        """Return the signature tasks; where gradients decide, each is restored into the same spare row to be measured.

        Restoring the chosen ones again costs k of the visit's passes once, and keeps the buffer at k + 1 rows for any
        t.
        """
        t, k, name = len(self.labels_NC), self.settings.signature_tasks, self.settings.selection
        if not measures_gradients(name, t, k):
            return choose_without_gradients(name, t, k, self.rng)
        assert self._buffer is not None
        distances = []
        for task in range(t):
            self._restore(learner, batch, z_NF, task, self._buffer[1])
            distances.append(distance(name, self._buffer[0], self._buffer[1]))
            learner.log.add(learner.costs.passes("select", SELECT_PASSES))
        return farthest(distances, k)

    def _restore(self, learner: Learner, batch: Batch, z_NF: Tensor, task: int, out_P: Tensor) -> None:
        head_RF = self.heads_RF[task]
        weight_RF = head_RF[:, :-1]
        with torch.no_grad():
            logits_NR = torch.addmm(head_RF[:, -1], z_NF.detach(), weight_RF.T)
            labels_NR = self.labels_NC[task][torch.from_numpy(batch.indices)]
            temperature = self.settings.temperature if self.settings.labels == "soft" else 1.0
            d_logits_NR = distillation_logit_gradient(logits_NR, labels_NR, temperature)
        backward_into(learner.network, z_NF, d_logits_NR @ weight_RF, out_P)
        learner.log.add(learner.costs.backward("restore", len(batch.y_N), len(head_RF)))


@dataclass(slots=True)
class SecondUseRule:
    """Integrates the batch's gradient with the gradient at the client's own model before aggregation.

    *own_P*, *own_B*, *own_head_RF*: that model. Sums of the norm of g_b and of cos(g, g_b) are kept for the notes.
    """

    own_P: Tensor
    own_B: Tensor
    own_head_RF: Tensor
    margin: float
    tally: Tally
    norms: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    _buffer: Tensor | None = None
    _own: dict[str, Tensor] | None = None

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient with g'."""
        network = learner.network
        if self._buffer is None:
            self._buffer = torch.empty(2, network.P)
        repeat_draws = torch_mark()
        z_NF = network(batch.x_NCHW)
        loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
        backward_into(network, z_NF, d_logits_NR @ network.head[:, :-1], self._buffer[0])
        learner.log.add(learner.costs.forward_backward("train", len(batch.y_N), network.rows))
        repeat_draws()
        self._own_gradient(learner, batch, self._buffer[1])
        self._note_angle(self._buffer)
        _integrate_into(learner, self._buffer, self.margin, self.tally)
        return loss

    def _own_gradient(self, learner: Learner, batch: Batch, out_P: Tensor) -> None:
        network = learner.network
        if self._own is None:
            self._own = {name: t.requires_grad_() for name, t in network.as_tensors(self.own_P).items()}
        z_NF = network.call_with(self._own, self.own_B, batch.x_NCHW)
        unused = torch.empty_like(self.own_head_RF)
        _, d_logits_NR = head_pass(self.own_head_RF, z_NF, batch.y_N, unused)
        gradients = torch.autograd.grad(z_NF, list(self._own.values()), d_logits_NR @ self.own_head_RF[:, :-1])
        network.write_gradients(gradients, out_P)
        learner.log.add(learner.costs.forward_backward("second_use", len(batch.y_N), network.rows))

    def _note_angle(self, G_2P: Tensor) -> None:
        norm, norm_b = float(G_2P[0].norm()), float(G_2P[1].norm())
        self.norms.append(norm_b)
        if norm and norm_b:
            self.cosines.append(float(G_2P[0] @ G_2P[1]) / (norm * norm_b))


def backward_into(network: FlatNetwork, z_NF: Tensor, dz_NF: Tensor, out_P: Tensor) -> None:
    """Write the gradient of the feature weights, from that of the features' output (N, F), into out_P (P,).

    Keeps the graph, so that the next gradient of the same batch needs no forward pass.
    """
    gradients = torch.autograd.grad(z_NF, network.feature_parameters, dz_NF, retain_graph=True)
    network.write_gradients(gradients, out_P)


def _integrate_into(learner: Learner, G_RP: Tensor, margin: float, tally: Tally) -> None:
    """Write g' into the learner's gradient, and have the update that follows looked at."""
    network = learner.network
    result = integrate(G_RP, margin, out=network.grad[: network.P])
    learner.log.add(integration_work(learner.costs, len(G_RP) - 1))
    tally.integrated_steps += 1
    tally.violated_steps += result.violated
    before_P = network.theta[: network.P].clone()

    def look() -> None:
        update_P = before_P.sub_(network.theta[: network.P])
        tally.violated_after_steps += violations_after(update_P, G_RP[1:], result.norm_k) > 0

    learner.after_step(look)
