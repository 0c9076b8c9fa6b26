"""BCN: balanced continual learning as a game, in which one player makes the images harder and the other looks ahead.

    H(theta) = beta J(theta; x) + [J(theta_B; x) - J(theta; x)] + [J(theta; x^) - J(theta; x)]

J is the mean cross entropy of a batch that images of the memory have joined (replay), x its images, theta features and
the head rows of the task. For each batch

    player 1   x^ = x, then `input_steps` times   x^ <- x^ + input_step d/rms(d),   d = dJ(theta; x^) / dx^, by image
    player 2   theta_B = theta, then `weight_steps` steps of a fresh optimizer on J(theta_B; x)

and the optimizer steps with the gradient of H in which x^ is fixed and theta_B is as far from theta as it is:

    (beta - 2) grad J(theta; x) + grad J(theta_B; x) + grad J(theta; x^)

A player who makes no step has no term. Images of past tasks are under their own, frozen head rows. Every pass draws its
dropout anew; statistics of batch normalisation are those of the pass of J(theta; x) alone.

One step takes input_steps + weight_steps + 3 passes of the joined batch, forward and backward: 13 by default.

Raghavan and Balaprakash, "Formalizing the Generalization-Forgetting Trade-Off in Continual Learning", NeurIPS 2021,
arXiv:2109.14035; on each client of federated averaging here. Keeps images of past tasks. Sends the model, nothing else.
Differs from it, or fills in: the memory is a share of each task, drawn at its end; the size of a player's step is ours
(`input_step`; the training's optimizer and rate); past head rows rest. Differs from the code that FedKNOW's authors
compare with: theta_B has a gradient (to first order), and images move by a hundredth of their spread, not by 1e5.

Without both players and with `beta: 1` it is replay to the bit, and without memory FedAvg.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.costs import OPTIMIZER_STATES, StepCosts, repeat
from fedknow_ray.methods.episodic import Recall, past_heads_item, recall_item
from fedknow_ray.methods.learner import Batch, DecayingOptimizer, Learner
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.methods.replay import (
    Joined,
    Replay,
    ReplaySettings,
    join,
    joined_gradient,
    joined_images,
    joined_items,
    joined_pull,
)
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.simulation.work import WorkItem

#: Passes over the weights: the gradient of J is scaled; a player's gradient is added to it; and the weights are copied
#: and put back around looking ahead.
SCALE_PASSES, ADD_PASSES, COPY_PASSES = 2, 3, 4


class BcnSettings(ReplaySettings):
    """What there is to choose in BCN."""

    beta: float = Field(2.0, ge=0)
    """Weight of the joined batch's own loss."""
    input_steps: int = Field(5, ge=0, le=100)
    """zeta of player 1: steps by which images are made harder; 0 leaves the player out."""
    weight_steps: int = Field(5, ge=0, le=100)
    """zeta of player 2: optimizer steps that are looked ahead; 0 leaves the player out."""
    input_step: float = Field(0.01, gt=0)
    """Root mean square of one step of an image, in standard deviations of a pixel."""


def perturbing_items(costs: StepCosts, n: int, m: int, classes: int, tasks: int) -> list[WorkItem]:
    """Return the work of one pass of a joined batch, forward, and back to its images alone.

    Each layer's gradient for its input takes the products of its forward pass; no gradient of a weight is made but for
    the head.
    """
    f = costs.footprint
    flops = 2 * (n + m) * f.forward_flops + f.head_forward_flops(n, classes) + f.head_backward_flops(n, classes)
    moved_bytes = 2 * f.weight_bytes + (n + m) * 2 * (f.input_bytes + f.kept_bytes)
    past = [past_heads_item(costs, "perturb", m, classes, tasks)] if m else []
    return [WorkItem("perturb", 1, flops, moved_bytes), *past]


def game_items(costs: StepCosts, n: int, m: int, classes: int, tasks: int, settings: BcnSettings) -> list[WorkItem]:
    """Return the work of one step but for its optimizer, for a batch of n that m images of so many tasks join."""
    items = [*joined_items(costs, "train", n, m, classes, tasks), costs.passes("train", SCALE_PASSES)]
    if settings.input_steps:
        items += perturbing_items(costs, n, m, classes, tasks) * settings.input_steps
        items += [*joined_items(costs, "perturb", n, m, classes, tasks), costs.passes("perturb", ADD_PASSES)]
    if settings.weight_steps:
        ahead = joined_items(costs, "look_ahead", n, m, classes, tasks)
        items += [*ahead, costs.optimize(classes)] * settings.weight_steps
        items += [*ahead, costs.passes("look_ahead", ADD_PASSES + COPY_PASSES)]
    return items


def unit_rms(d_NCHW: Tensor) -> Tensor:
    """Return each image's gradient at a root mean square of 1; where the loss is flat it stays 0."""
    tiny, dims = torch.finfo(d_NCHW.dtype).tiny, (1, 2, 3)
    # the largest value goes first: squares of what a sure classifier passes back leave the range of float32
    scaled_NCHW = d_NCHW / d_NCHW.abs().amax(dim=dims, keepdim=True).clamp(min=tiny)
    return scaled_NCHW / scaled_NCHW.square().mean(dim=dims, keepdim=True).sqrt().clamp(min=tiny)


def perturbed(network: FlatNetwork, joined: Joined, recall: Recall | None, steps: int, step: float) -> Joined:
    """Return the batch with images that player 1 has moved towards a larger loss."""
    for _ in range(steps):
        x_NCHW = joined.x_NCHW.detach().requires_grad_()
        z_NF = network(x_NCHW)
        _, dz_NF = joined_pull(network, z_NF, joined, recall)
        torch.autograd.backward(z_NF, dz_NF, inputs=[x_NCHW])
        d_NCHW = cast(Tensor, x_NCHW.grad)
        joined = joined.with_x(x_NCHW.detach() + step * unit_rms(d_NCHW))
    return joined


def look_ahead(learner: Learner, joined: Joined, recall: Recall | None, steps: int) -> None:
    """Fill the network's gradient with that at the weights that player 2 gets to; the weights stay as they are."""
    network = learner.network
    before = network.theta.clone()
    optimizer = DecayingOptimizer(learner.training, network.theta, network.grad)
    for _ in range(steps):
        joined_gradient(network, joined, recall)
        optimizer.step()
    joined_gradient(network, joined, recall)
    network.theta.copy_(before)


@dataclass(frozen=True, slots=True)
class BcnRule:
    """Fills the gradient with that of H; the loss is J(theta; x)."""

    settings: BcnSettings
    recall: Recall | None

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient."""
        network, settings, recall = learner.network, self.settings, self.recall
        joined = self._join(learner, batch)
        loss = joined_gradient(network, joined, recall)
        statistics_B = network.buffers.clone()
        total = network.grad * (settings.beta - (settings.input_steps > 0) - (settings.weight_steps > 0))
        for gradient in self._players(learner, joined):
            total += gradient
        network.grad.copy_(total)
        network.buffers.copy_(statistics_B)
        n, m, tasks = len(joined.y_N), len(joined.places_M), len(recall.slices) if recall else 0
        for item in game_items(learner.costs, n, m, network.rows, tasks, settings):
            learner.log.add(item)
        return loss

    def _join(self, learner: Learner, batch: Batch) -> Joined:
        if self.recall is None:
            return Joined(batch.x_NCHW, batch.y_N, np.empty(0, dtype=np.int64))
        return join(batch, self.recall, learner.order, self.settings.replay_ratio)

    def _players(self, learner: Learner, joined: Joined) -> list[Tensor]:
        """Return a copy of the gradient that each player leads to."""
        network, settings, gradients = learner.network, self.settings, []
        if settings.input_steps:
            harder = perturbed(network, joined, self.recall, settings.input_steps, settings.input_step)
            joined_gradient(network, harder, self.recall)
            gradients.append(network.grad.clone())
        if settings.weight_steps:
            look_ahead(learner, joined, self.recall, settings.weight_steps)
            gradients.append(network.grad.clone())
        return gradients


class Bcn(Replay):
    """BCN on each client."""

    hyperparameters: ClassVar[type[BaseModel]] = BcnSettings

    @property
    def settings(self) -> BcnSettings:
        """The hyper-parameters, typed."""
        return cast(BcnSettings, self.hyper)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs; without past tasks the game is played on the batch alone."""
        memory = self.memory_of(state, facts)
        recall = self.recall(learner, memory, data) if self.ratio else None
        return Outcome(memory, learner.train(data, self.training.local_epochs, BcnRule(self.settings, recall)))

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the work of the local epochs."""
        stored = self.remembered(facts) if self.ratio else ()
        step = []
        for n in self.costs.batches(facts.images):
            m = joined_images(n, self.ratio, sum(stored))
            step += game_items(self.costs, n, m, facts.classes, len(stored), self.settings)
            step += [self.costs.optimize(facts.classes)]
        reads = [recall_item(self.costs, sum(stored))] if stored else []
        return Plan(repeat(reads, 1) + repeat(step, self.training.local_epochs), self._peak_bytes(facts))

    def _peak_bytes(self, facts: VisitFacts) -> int:
        """Training with joined batches; the gradients of both players, the sum, the weights and the optimizer's state
        of looking ahead; images that have moved, and their gradient."""
        optimizer, f = self.training.optimizer, self.costs.footprint
        states = OPTIMIZER_STATES[optimizer.name] + (getattr(optimizer, "momentum", 0.0) > 0)
        n = min(self.training.batch_size, facts.images)
        m = joined_images(n, self.ratio, sum(self.remembered(facts)))
        more_bytes = (4 + states) * f.weight_bytes + 2 * (n + m) * f.input_bytes
        return self.joined_peak_bytes(facts, self.ratio) + more_bytes
