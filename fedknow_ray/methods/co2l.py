"""Co2L: contrastive features, held by how the encoder of the last task saw which images are alike.

    loss = L_con + distillation_weight L_ird,          f = z / |z|, of two augmented views of each image
    L_con = - 1/|A| sum_{i in A} 1/|P_i| sum_{j in P_i} log [ exp(f_i.f_j / tau) / sum_{l != i} exp(f_i.f_l / tau) ]
    L_ird = - 1/V sum_i sum_{j != i} q_ij log p_ij
    p_i = softmax_{j != i} (f_i.f_j / kappa),          q_i = softmax_{j != i} (f*_i.f*_j / kappa*)

V views in all: of the batch and of as many images of the memory (`replay_ratio`, as in replay). A are the views of the
batch, so images of past tasks are no anchors: they only are what others differ from ("asymmetric"). P_i are the other
views of i's class. f* are features by the client's own encoder at the end of the last task, in evaluation mode. Without
past tasks the loss is L_con alone.

A view is the image flipped with probability 1/2 (`flip`; turn it off where sides mean something, as for digits), padded
with zeros (the mean colour) by an eighth of its side and cut back at a random place. Draws are the client's own.

At the end of each training visit, and of a task where the features have changed, the head is trained on the features
as they are: the rows of the task on its images and, with `past_heads: trained`, those of each past task on what is kept
of it. This is the linear classifier of the source; contrastive features turn as they are trained, and rows that rest
(`past_heads: frozen`) then read features that are no longer there.

Cha, Lee and Shin, "Co2L: Contrastive Continual Learning", ICCV 2021, arXiv:2106.14413; on each client of federated
averaging here. Keeps images of past tasks, and one encoder. Sends the model and nothing else.
Differs from it: no projection head and no colour jitter; means over anchors, not sums; no factor for the temperature;
the classifier is one for each task, whose images are known to be of it. It is never FedAvg, not even in the first task,
since its features do not see the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional as F

from fedknow_ray.methods.contrast import VIEWS, contrastive_items, contrastive_loss, draw_views, relation_loss
from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.episodic import Episode, EpisodicMemory, EpisodicMethod, Recall, recall_item
from fedknow_ray.methods.learner import Batch, Learner
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.methods.replay import ReplaySettings, join, joined_images
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.simulation.work import Work, WorkItem


class Co2lSettings(ReplaySettings):
    """What there is to choose in Co2L."""

    temperature: float = Field(0.5, gt=0)
    """tau of the contrastive loss."""
    present_temperature: float = Field(0.2, gt=0)
    """kappa: softening of similarities by the encoder that is trained."""
    past_temperature: float = Field(0.01, gt=0)
    """kappa*: softening of similarities by the encoder of the last task."""
    distillation_weight: float = Field(1.0, ge=0)
    """Weight of the distillation beside 1 of the contrastive loss; 0 keeps no encoder."""
    flip: bool = True
    """Whether views are flipped at random; false where left and right mean something, as in digits."""
    past_heads: Literal["trained", "frozen"] = "trained"
    """Whether head rows of past tasks follow the features, trained on what is kept of their images."""


@dataclass(frozen=True, slots=True, eq=False)
class Co2lMemory:
    """Images of past tasks, and the client's own encoder at the end of the last one; None where it is not asked for."""

    episodic: EpisodicMemory
    encoder_S: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Co2lRule:
    """Fills the gradient of the features; that of the head is 0."""

    settings: Co2lSettings
    first_row: int
    recall: Recall | None
    encoder_S: Tensor | None

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient."""
        network, n = learner.network, len(batch.y_N)
        x_NCHW, class_N = self._join(learner, batch)
        x_VCHW = torch.cat([draw_views(x_NCHW, learner.order, flip=self.settings.flip) for _ in range(VIEWS)])
        z_VF = network(x_VCHW)
        f_VF = z_VF.detach().requires_grad_()
        anchor_V = (torch.arange(len(class_N)) < n).repeat(VIEWS)
        unit_VF = F.normalize(f_VF, dim=1)
        loss = contrastive_loss(unit_VF, class_N.repeat(VIEWS), anchor_V, self.settings.temperature)
        if self.encoder_S is not None:
            past_VF = F.normalize(past_features(network, self.encoder_S, x_VCHW), dim=1)
            kappas = self.settings.present_temperature, self.settings.past_temperature
            loss = loss + self.settings.distillation_weight * relation_loss(unit_VF, past_VF, *kappas)
        network.grad.zero_()
        torch.autograd.backward(z_VF, torch.autograd.grad(loss, f_VF))
        for item in contrastive_items(learner.costs, len(class_N), distils=self.encoder_S is not None):
            learner.log.add(item)
        return loss.item()

    def _join(self, learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the images of the batch and those that join it, and their classes as head rows of all tasks."""
        class_N = self.first_row + batch.y_N
        if self.recall is None:
            return batch.x_NCHW, class_N
        joined = join(batch, self.recall, learner.order, self.settings.replay_ratio)
        return joined.x_NCHW, torch.cat([class_N, self.recall.rows_M[torch.from_numpy(joined.places_M)]])


def past_features(network: FlatNetwork, encoder_S: Tensor, x_NCHW: Tensor) -> Tensor:
    """Return the features of images by another encoder, in evaluation mode; the network stays as it is."""
    network.features.eval()
    with torch.no_grad():
        z_NF = network.call_with(network.as_tensors(encoder_S[: network.P]), encoder_S[network.P :], x_NCHW)
    network.features.train()
    return z_NF


class Co2l(EpisodicMethod):
    """Co2L on each client."""

    hyperparameters: ClassVar[type[BaseModel]] = Co2lSettings
    memory_types: ClassVar[tuple[type, ...]] = (Co2lMemory, EpisodicMemory, Episode)

    @property
    def settings(self) -> Co2lSettings:
        """The hyper-parameters, typed."""
        return cast(Co2lSettings, self.hyper)

    @property
    def evicts(self) -> bool:
        """The encoder of the last task cannot go."""
        return False

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train the features for the local epochs, then the head on them."""
        memory, network = state.memory if isinstance(state.memory, Co2lMemory) else None, learner.network
        recall = self.recall(learner, memory.episodic, data) if memory else None
        encoder_S = None
        if memory and memory.encoder_S is not None:
            encoder_S = torch.tensor(memory.encoder_S)
            learner.log.add(self.costs.stored("recall", 1, self.costs.model_bytes))
        head_RF = network.head.clone()
        rule = Co2lRule(self.settings, data.rows.start, recall, encoder_S)
        loss = learner.train(data, self.training.local_epochs, rule)
        network.head.copy_(head_RF)  # weight decay has moved it
        learner.train_head(data)
        past_heads = self._train_past_heads(learner, memory.episodic.episodes if memory else (), data)
        return Outcome(memory, loss, past_heads=past_heads)

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Keep some of the task's images and the encoder; where the features are new ones, past rows follow them."""
        memory = state.memory if isinstance(state.memory, Co2lMemory) else None
        before = memory.episodic if memory else None
        past_heads = None
        if self.takes_final(facts) and before and self._trained_heads(facts):
            learner.log.add(recall_item(self.costs, sum(self._trained_heads(facts))))
            past_heads = self._train_past_heads(learner, before.episodes, data)
        kept = super().finish_task(learner, replace(state, memory=before), data, facts).memory
        encoder_S = None
        if self.settings.distillation_weight:
            encoder_S = learner.network.state()
            learner.log.add(self._store_encoder())
        return Outcome(Co2lMemory(kept or EpisodicMemory(), encoder_S), None, past_heads=past_heads)

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the work of training the features, and then the head."""
        costs, stored, distils = self.costs, self.remembered(facts), self._distils(facts)
        step = []
        for n in costs.batches(facts.images):
            joined = n + joined_images(n, self.settings.replay_ratio, sum(stored))
            step += [*contrastive_items(costs, joined, distils=distils), costs.optimize(facts.classes)]
        reads = [recall_item(costs, sum(stored))] if stored else []
        reads += [costs.stored("recall", 1, costs.model_bytes)] if distils else []
        work = repeat(reads, 1) + repeat(step, self.training.local_epochs)
        work += costs.head_training(facts) + self._plan_past_heads(facts)
        return Plan(work, max(self._feature_peak_bytes(facts), self._head_peak_bytes(facts)))

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the work of writing images and encoder, and of past rows where the features are new ones."""
        plan = super().plan_finish(facts)
        work, peak_bytes = plan.work, plan.peak_memory_bytes
        if self.settings.distillation_weight:
            work += repeat([self._store_encoder()], 1)
            peak_bytes += self.costs.model_bytes
        if self.takes_final(facts) and self._trained_heads(facts):
            work += repeat([recall_item(self.costs, sum(self.remembered(facts)))], 1) + self._plan_past_heads(facts)
            peak_bytes = max(peak_bytes, self._head_peak_bytes(facts))
        return Plan(work, peak_bytes)

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of the images of past tasks, and of one encoder."""
        return super().kept_bytes(facts) + (self.costs.model_bytes if self._distils(facts) else 0)

    def _distils(self, facts: VisitFacts) -> bool:
        return facts.task_index > 0 and self.settings.distillation_weight > 0

    def _store_encoder(self) -> WorkItem:
        return self.costs.stored("store", 1, self.costs.model_bytes)

    def _trained_heads(self, facts: VisitFacts) -> tuple[int, ...]:
        """Return how many images there are of each past task whose head rows are trained."""
        return self.remembered(facts) if self.settings.past_heads == "trained" else ()

    def _plan_past_heads(self, facts: VisitFacts) -> Work:
        heads = (self.costs.head_training(replace(facts, images=images)) for images in self._trained_heads(facts))
        return sum(heads, start=Work.none())

    def _train_past_heads(
        self, learner: Learner, episodes: Sequence[Episode], data: TaskData
    ) -> tuple[NDArray[np.float32], ...] | None:
        """Return the head rows of past tasks, trained on the features as they are; None where they rest."""
        if not episodes or self.settings.past_heads == "frozen":
            return None
        head, trained = learner.network.head, []
        present_RF = head.clone()
        for one in episodes:
            head.copy_(torch.tensor(data.past_heads[one.task_index]))
            learner.train_head(TaskData(one.images_NHWC, one.labels_N.copy(), data.past_rows[one.task_index]))
            trained.append(learner.network.head_rows())
        head.copy_(present_RF)
        return tuple(trained)

    def _feature_peak_bytes(self, facts: VisitFacts) -> int:
        """Plain training with both views of a joined batch in place of the batch, the memory, and the old encoder."""
        n = min(self.training.batch_size, facts.images)
        views = VIEWS * (n + joined_images(n, self.settings.replay_ratio, sum(self.remembered(facts))))
        encoder_bytes = self.costs.model_bytes if self._distils(facts) else 0
        more_bytes = (views - n) * self.costs.footprint.kept_bytes
        return self.costs.training_bytes(facts) + more_bytes + self.recalling_bytes(facts) + encoder_bytes

    def _head_peak_bytes(self, facts: VisitFacts) -> int:
        """Training of the head on the largest of the tasks, with the memory."""
        largest = max((facts.images, *self._trained_heads(facts)))
        return self.costs.head_training_bytes(replace(facts, images=largest)) + self.recalling_bytes(facts)
