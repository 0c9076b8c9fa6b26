"""Episodic memory: a client keeps some of the images of each past task, and learns from them again.

    |M_i| = max(1, round(memory_fraction n_i)) of the n_i images of task i, drawn without replacement at its end

Kept on the client's storage, as they are (one byte a value; four for a data set that is floats, which plans do not
know), with their labels within the task (8 bytes each). Every training visit reads all of it. Nothing of it is sent.

An image of a past task is judged among the classes of its task, by that task's head rows. These stay as they are while
another task is learnt, so the loss of such an image has a gradient for the features alone. A client that is short of
memory can throw away the images of its oldest tasks (`Method.evicts`).

N images of a batch, M images of the memory or some of them, R head rows of a task, k past tasks, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional as F

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedavg import FedAvg, FedAvgSettings
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import WorkItem

LABEL_BYTES = 8


class EpisodicSettings(FedAvgSettings):
    """What there is to choose of an episodic memory."""

    memory_fraction: float = Field(0.1, ge=0, le=1)
    """Share of the training images of each task that a client keeps, at least one; 0 keeps none."""


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """What is kept of one task: *images_NHWC* as the data are, *labels_N* from 0 within the task."""

    task_index: int
    images_NHWC: NDArray[Any]
    labels_N: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class EpisodicMemory:
    """The episodes of the newest past tasks in their order: of all of them, but for those evicted."""

    episodes: tuple[Episode, ...] = ()

    def without(self, evicted_tasks: int) -> EpisodicMemory:
        """Return the memory without the client's so many oldest tasks."""
        return EpisodicMemory(tuple(one for one in self.episodes if one.task_index >= evicted_tasks))


def kept_images(images: int, fraction: float) -> int:
    """Return how many of a task's images are kept."""
    return max(1, round(fraction * images)) if fraction > 0 else 0


def remembered_images(facts: VisitFacts, fraction: float) -> tuple[int, ...]:
    """Return how many images there are of each past task that is remembered, oldest first; none where none are kept."""
    return tuple(kept_images(images, fraction) for images in facts.images_of_remembered_tasks) if fraction > 0 else ()


def episode_bytes(costs: StepCosts, images: int) -> int:
    """Return the bytes of so many stored images with their labels."""
    return images * (costs.footprint.input_bytes // FLOAT_BYTES + LABEL_BYTES)


def store_item(costs: StepCosts, images: int) -> WorkItem:
    """Writing so many images to storage: read in memory, then written."""
    stored = episode_bytes(costs, images)
    return WorkItem("store", 1, 0, stored, stored)


def recall_item(costs: StepCosts, images: int) -> WorkItem:
    """Reading so many images from storage, and writing them out in memory as floats."""
    stored = episode_bytes(costs, images)
    return WorkItem("recall", 1, 0, stored + images * costs.footprint.input_bytes, stored)


def recall_bytes(costs: StepCosts, images: int) -> int:
    """Return what so many images take in memory in a visit: as they were read, and as floats."""
    return episode_bytes(costs, images) + images * costs.footprint.input_bytes


def past_heads_item(costs: StepCosts, phase: str, m: int, classes: int, tasks: int) -> WorkItem:
    """Logits of m images, each under the rows of one of the past tasks, and their gradient for the features."""
    f = costs.footprint
    return WorkItem(phase, 1, 2 * f.head_forward_flops(m, classes), 2 * FLOAT_BYTES * tasks * classes * (f.F + 1))


def remember(data: TaskData, task_index: int, fraction: float, order: np.random.Generator) -> Episode:
    """Return what is kept of a task: images drawn without replacement, in the order in which the task has them."""
    count = kept_images(len(data.labels_N), fraction)
    chosen = np.sort(order.choice(len(data.labels_N), size=count, replace=False))
    return Episode(task_index, data.images_NHWC[chosen], data.labels_N[chosen])


class Recall:
    """The memory as a visit uses it: *images_MHWC* normalised, oldest task first, with labels and frozen head rows.

    *task_M* is the place of an image's task among the remembered ones, *heads_kRF* their head rows, *slices* where the
    images of each task are. Reading it is counted.
    """

    def __init__(self, learner: Learner, memory: EpisodicMemory, data: TaskData) -> None:
        episodes = memory.episodes
        sizes = [len(one.labels_N) for one in episodes]
        self.images_MHWC = learner.normalisation(np.concatenate([one.images_NHWC for one in episodes]))
        self.labels_M = torch.from_numpy(np.concatenate([one.labels_N for one in episodes]))
        self.task_M = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        self.rows_M = torch.from_numpy(np.repeat([data.past_rows[one.task_index].start for one in episodes], sizes))
        self.rows_M += self.labels_M
        self.heads_kRF = torch.from_numpy(np.stack([data.past_heads[one.task_index] for one in episodes]))
        ends = np.cumsum(sizes).tolist()
        self.slices = tuple(np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True))
        learner.log.add(recall_item(learner.costs, len(self)))

    def __len__(self) -> int:
        return len(self.labels_M)

    def draw(self, order: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Return the places of so many images of the memory, drawn without replacement; of all if there are fewer."""
        return order.choice(len(self), size=min(count, len(self)), replace=False)

    def x_NCHW(self, places_M: NDArray[np.int64]) -> Tensor:
        """Return images of the memory as the network takes them."""
        return self.images_MHWC[torch.from_numpy(places_M)].permute(0, 3, 1, 2)

    def pull(self, z_MF: Tensor, places_M: NDArray[np.int64]) -> tuple[float, Tensor]:
        """Return the *sum* of the images' cross entropies, each under the head rows of its task, and its gradient for
        their features (M, F)."""
        index = torch.from_numpy(places_M)
        with torch.no_grad():
            labels_M, head_MRF = self.labels_M[index], self.heads_kRF[self.task_M[index]]
            logits_MR = torch.bmm(head_MRF[:, :, :-1], z_MF.detach()[:, :, None])[:, :, 0] + head_MRF[:, :, -1]
            log_p_MR = F.log_softmax(logits_MR, dim=1)
            loss = float(F.nll_loss(log_p_MR, labels_M, reduction="sum"))
            d_logits_MR = log_p_MR.exp_()
            d_logits_MR[torch.arange(len(index)), labels_M] -= 1
            return loss, torch.bmm(d_logits_MR[:, None, :], head_MRF[:, :, :-1])[:, 0]


class EpisodicMethod(FedAvg):
    """FedAvg whose clients keep an episodic memory; what they do with it is a subclass's."""

    hyperparameters: ClassVar[type[BaseModel]] = EpisodicSettings
    memory_types: ClassVar[tuple[type, ...]] = (EpisodicMemory, Episode)

    @property
    def memory_fraction(self) -> float:
        """The share of each task's images that is kept."""
        return cast(EpisodicSettings, self.hyper).memory_fraction

    def remembered(self, facts: VisitFacts) -> tuple[int, ...]:
        """Return how many images there are of each past task that is remembered, oldest first."""
        return remembered_images(facts, self.memory_fraction)

    def recall(self, learner: Learner, memory: EpisodicMemory | None, data: TaskData) -> Recall | None:
        """Return the memory as a visit uses it; None where there is nothing in it."""
        return Recall(learner, memory, data) if memory is not None and memory.episodes else None

    def memory_of(self, state: ClientState, facts: VisitFacts) -> EpisodicMemory | None:
        """Return what a client still remembers; None before the first end of a task."""
        return state.memory.without(facts.evicted_tasks) if isinstance(state.memory, EpisodicMemory) else None

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Keep some of the task's images."""
        memory = self.memory_of(state, facts)
        if not self.memory_fraction:
            return Outcome(memory, None)
        episode = remember(data, facts.task_index, self.memory_fraction, learner.order)
        learner.log.add(store_item(self.costs, len(episode.labels_N)))
        return Outcome(EpisodicMemory((*(memory.episodes if memory else ()), episode)), None)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the work of writing some of the task's images."""
        images = kept_images(facts.images, self.memory_fraction)
        work = repeat([store_item(self.costs, images)] if images else [], 1)
        return Plan(work, self.costs.resident_bytes(facts) + episode_bytes(self.costs, images))

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of the images of past tasks."""
        return episode_bytes(self.costs, sum(self.remembered(facts)))

    def stored_bytes(self, facts: VisitFacts) -> int:
        """All of it is on storage."""
        return self.kept_bytes(facts)

    @property
    def evicts(self) -> bool:
        """The images of the oldest tasks can go."""
        return True

    def recalling_bytes(self, facts: VisitFacts) -> int:
        """Return what the memory adds to the peak of a training visit."""
        return recall_bytes(self.costs, sum(self.remembered(facts)))
