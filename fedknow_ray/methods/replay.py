"""Experience replay: every batch of the task at hand is joined by images of past tasks that the client has kept.

    loss = 1/(n + m) [ sum_n CE(head_t(z), y) + sum_m CE(head_task(z), y) ],   m = min(round(replay_ratio n), |M|)

n images of the batch; m drawn without replacement, for each batch anew, from the memory M of all past tasks together
(episodic). Each is judged under the head rows of its own task; past rows stay as they are. The joined batch goes
through the network at once, so statistics of batch normalisation are of both.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv:1902.10486; on each client of federated
averaging here. Keeps the images of past tasks. Sends the model and nothing else.
Differs from it: the memory is a share of each task, drawn at the task's end, where theirs is one buffer of a fixed size
that a stream of images goes through once; the task of an image is known.

Without past tasks, with `memory_fraction: 0`, and with `replay_ratio: 0` it is FedAvg to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.episodic import EpisodicMethod, EpisodicSettings, Recall, past_heads_item, recall_item
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule, head_pass
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.simulation.work import WorkItem


class ReplaySettings(EpisodicSettings):
    """What there is to choose in experience replay."""

    replay_ratio: float = Field(1.0, ge=0, le=100)
    """Images of the memory that join a batch, for each image of the batch; no more than there are."""


def joined_images(n: int, ratio: float, stored: int) -> int:
    """Return how many of the *stored* images join a batch of n."""
    return min(round(ratio * n), stored)


def joined_items(costs: StepCosts, phase: str, n: int, m: int, classes: int, tasks: int) -> list[WorkItem]:
    """Return the work of one forward and backward pass of a batch of n that m images of so many past tasks have joined:
    the features of both, the rows being learnt of the n, past rows of the m."""
    f, both = costs.footprint, costs.forward_backward(phase, n + m, 0)
    head_flops = f.head_forward_flops(n, classes) + f.head_backward_flops(n, classes)
    return [
        WorkItem(phase, 1, both.flops + head_flops, both.moved_bytes),
        *([past_heads_item(costs, phase, m, classes, tasks)] if m else []),
    ]


@dataclass(frozen=True, slots=True)
class Joined:
    """A batch of n images, and m of the memory after them in *x_NCHW*; *y_N* labels of the n, *places_M* of the m."""

    x_NCHW: Tensor
    y_N: Tensor
    places_M: NDArray[np.int64]

    def with_x(self, x_NCHW: Tensor) -> Joined:
        """Return the same with other images."""
        return Joined(x_NCHW, self.y_N, self.places_M)


def join(batch: Batch, recall: Recall, order: np.random.Generator, ratio: float) -> Joined:
    """Return a batch that images of the memory have joined."""
    count = joined_images(len(batch.y_N), ratio, len(recall))
    if not count:
        return Joined(batch.x_NCHW, batch.y_N, np.empty(0, dtype=np.int64))
    places_M = recall.draw(order, count)
    # joined as (N, H, W, C), which is how both lie in memory
    x_NHWC = torch.cat([x.permute(0, 2, 3, 1) for x in (batch.x_NCHW, recall.x_NCHW(places_M))])
    return Joined(x_NHWC.permute(0, 3, 1, 2), batch.y_N, places_M)


def joined_pull(network: FlatNetwork, z_NF: Tensor, joined: Joined, recall: Recall | None) -> tuple[float, Tensor]:
    """Return the mean cross entropy of a joined batch and its gradient for the features; write that of the head's."""
    n, m = len(joined.y_N), len(joined.places_M)
    loss, d_logits_NR = head_pass(network.head, z_NF[:n], joined.y_N, network.head_grad)
    dz_NF = d_logits_NR @ network.head[:, :-1]
    if recall is None or not m:
        return loss, dz_NF
    past_loss, dz_MF = recall.pull(z_NF[n:], joined.places_M)
    share = n / (n + m)
    network.head_grad.mul_(share)
    return share * loss + past_loss / (n + m), torch.cat([dz_NF.mul_(share), dz_MF.div_(n + m)])


def joined_gradient(network: FlatNetwork, joined: Joined, recall: Recall | None) -> float:
    """Fill the network's gradient with that of the joined batch's mean cross entropy, and return the loss."""
    network.grad.zero_()
    z_NF = network(joined.x_NCHW)
    loss, dz_NF = joined_pull(network, z_NF, joined, recall)
    torch.autograd.backward(z_NF, dz_NF)
    return loss


@dataclass(frozen=True, slots=True)
class ReplayRule:
    """The gradient of a batch that images of the memory have joined."""

    recall: Recall
    ratio: float

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient."""
        network, recall = learner.network, self.recall
        joined = join(batch, recall, learner.order, self.ratio)
        loss = joined_gradient(network, joined, recall)
        n, m = len(joined.y_N), len(joined.places_M)
        for item in joined_items(learner.costs, "train", n, m, network.rows, len(recall.slices)):
            learner.log.add(item)
        return loss


class Replay(EpisodicMethod):
    """Experience replay on each client."""

    hyperparameters: ClassVar[type[BaseModel]] = ReplaySettings
    begins_as_fedavg = True

    @property
    def ratio(self) -> float:
        """How many images join a batch, for each of its own."""
        return cast(ReplaySettings, self.hyper).replay_ratio

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs."""
        memory = self.memory_of(state, facts)
        recall = self.recall(learner, memory, data) if self.ratio else None
        rule = cross_entropy_rule if recall is None else ReplayRule(recall, self.ratio)
        return Outcome(memory, learner.train(data, self.training.local_epochs, rule))

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the work of the local epochs with joined batches."""
        stored = self.remembered(facts)
        if not stored or not self.ratio:
            return super().plan_train(facts)
        step = []
        for n in self.costs.batches(facts.images):
            m = joined_images(n, self.ratio, sum(stored))
            step += joined_items(self.costs, "train", n, m, facts.classes, len(stored))
            step += [self.costs.optimize(facts.classes)]
        work = repeat([recall_item(self.costs, sum(stored))], 1) + repeat(step, self.training.local_epochs)
        return Plan(work, self.joined_peak_bytes(facts, self.ratio))

    def joined_peak_bytes(self, facts: VisitFacts, ratio: float) -> int:
        """Return the most that training with joined batches holds: plain training, the memory, and the activations of
        the images that join the largest batch."""
        n = min(self.training.batch_size, facts.images)
        m = joined_images(n, ratio, sum(self.remembered(facts)))
        plain = self.costs.training_bytes(facts) + self.recalling_bytes(facts)
        return plain + m * self.costs.footprint.kept_bytes
