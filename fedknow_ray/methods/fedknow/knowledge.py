"""What a FedKNOW client keeps of its tasks, and how it is made and read.

At the end of a task a copy of the client's own model is pruned to its largest weights, the kept weights are trained
again on the task's images, and mask, values and head rows are stored. In a later task the signature tasks are chosen
(choice) and label the client's current images once (teaching); the labels are kept for the whole task (240 images x 9
tasks x 10 classes: 86 kB).

A client may throw away the knowledge of its oldest tasks, and their labels with it. Where it had heard only some of its
past tasks by then, it chooses among the rest, and labels, anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedknow.choice import MEASURING_ROWS, choose_tasks, plan_choice
from fedknow_ray.methods.fedknow.extractor import Knowledge, keep_mask, pack, restore_mask
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.signature import measures_gradients
from fedknow_ray.methods.fedknow.storage import knowledge_bytes, prune_item, store_item
from fedknow_ray.methods.fedknow.teaching import labels_of, plan_labelling
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule
from fedknow_ray.methods.method import TaskData, VisitFacts
from fedknow_ray.simulation.work import Work, WorkItem


@dataclass(frozen=True, slots=True, eq=False)
class FedKnowMemory:
    """The knowledge of past tasks, and what the signature tasks say of the images of the task being learnt.

    *knowledge* of the newest past tasks in their order: all of them, but for those evicted. *chosen* are the signature
    tasks of the task *labelled_task* (-1 before the first), *labels_NC* one tensor (N, R) each.
    """

    knowledge: tuple[Knowledge, ...] = ()
    labelled_task: int = -1
    chosen: tuple[int, ...] = ()
    labels_NC: tuple[Tensor, ...] = ()

    def without(self, evicted_tasks: int) -> FedKnowMemory:
        """Return the memory without the client's so many oldest tasks."""
        if not evicted_tasks:
            return self
        heard = [pair for pair in zip(self.chosen, self.labels_NC, strict=True) if pair[0] >= evicted_tasks]
        return FedKnowMemory(
            knowledge=tuple(one for one in self.knowledge if one.task_index >= evicted_tasks),
            labelled_task=self.labelled_task,
            chosen=tuple(task for task, _ in heard),
            labels_NC=tuple(labels for _, labels in heard),
        )


def hears(facts: VisitFacts, settings: FedKnowSettings) -> bool:
    """Return whether a training visit chooses signature tasks and labels by them: a client's first one in a task, and
    the first one after an eviction if not all past tasks had been heard until then."""
    before = facts.remembered_tasks + facts.newly_evicted
    return not facts.trained_this_task or (facts.newly_evicted > 0 and before > settings.signature_tasks)


def hear_past_tasks(
    learner: Learner, memory: FedKnowMemory, data: TaskData, facts: VisitFacts, settings: FedKnowSettings
) -> FedKnowMemory:
    """Return the memory with the signature tasks of this task and their labels: made in a visit that `hears`, kept
    after it."""
    if memory.labelled_task == facts.task_index and not hears(facts, settings):
        return memory
    places = choose_tasks(learner, memory.knowledge, data, settings)
    labels = tuple(labels_of(learner, memory.knowledge[place], data, settings) for place in places)
    chosen = tuple(facts.evicted_tasks + place for place in places)
    return replace(memory, labelled_task=facts.task_index, chosen=chosen, labels_NC=labels)


def plan_hearing(costs: StepCosts, facts: VisitFacts, settings: FedKnowSettings) -> Work:
    """Return the work of choosing the signature tasks and of labelling by them."""
    k = min(facts.remembered_tasks, settings.signature_tasks)
    return plan_choice(costs, facts, settings) + plan_labelling(costs, facts, k, settings)


def hearing_bytes(costs: StepCosts, facts: VisitFacts, settings: FedKnowSettings) -> int:
    """Return the most that hearing past tasks holds, labels aside.

    Beside what is resident that is one task's knowledge as it was read, the past model made of it, the activations of a
    batch, and two gradients where distances choose. Gradients and optimizer state of training come after it.
    """
    choosing = measures_gradients(settings.selection, facts.remembered_tasks, settings.signature_tasks)
    vectors = (MEASURING_ROWS if choosing else 1) * costs.footprint.weight_bytes
    read = knowledge_bytes(costs, facts.classes, settings)
    return costs.resident_bytes(facts) + vectors + read + costs.activation_bytes(facts.images)


def extraction_bytes(costs: StepCosts, facts: VisitFacts, settings: FedKnowSettings) -> int:
    """Return the most that an extraction holds, labels aside.

    A byte a weight is the mask, and another with `masks: disjoint` what past tasks have taken; beside them it is
    training of what is kept, or the knowledge that is put together for storage.
    """
    masks = costs.footprint.P * (2 if settings.masks == "disjoint" else 1)
    storing = costs.resident_bytes(facts) + knowledge_bytes(costs, facts.classes, settings)
    return masks + (max(costs.training_bytes(facts), storing) if settings.retrain_epochs else storing)


def plan_extraction(costs: StepCosts, facts: VisitFacts, settings: FedKnowSettings) -> Work:
    """Return the work of pruning, retraining and storing."""
    step = [item for n in costs.batches(facts.images) for item in _retraining_step(costs, n, facts.classes)]
    around = [prune_item(costs, facts.remembered_tasks, settings), store_item(costs, facts.classes, settings)]
    return repeat(around, 1) + repeat(step, settings.retrain_epochs)


def extract(
    learner: Learner, memory: FedKnowMemory, data: TaskData, facts: VisitFacts, settings: FedKnowSettings
) -> tuple[Knowledge, float | None]:
    """Return the knowledge of the task just learnt, and its mean loss in the last epoch of retraining (None without).

    Uses up the model in the learner's network.
    """
    network, costs = learner.network, learner.costs
    mask_P = keep_mask(
        network.theta[: network.P],
        network.layout,
        settings.retained_fraction,
        per_layer=settings.threshold == "layer",
        taken_P=_taken(memory.knowledge, network.P) if settings.masks == "disjoint" else None,
    )
    network.theta[: network.P] *= mask_P
    learner.log.add(prune_item(costs, facts.remembered_tasks, settings))
    loss = None
    for _ in range(settings.retrain_epochs):
        loss = learner.train(data, 1, _MaskedRule(mask_P))
    rows = (data.rows.start, data.rows.stop)
    learner.log.add(store_item(costs, facts.classes, settings))
    knowledge = pack(
        facts.task_index,
        rows,
        network.theta[: network.P],
        mask_P,
        network.head,
        network.buffers,
        layout=network.layout,
        bits=settings.stored_bits,
    )
    return knowledge, loss


@dataclass(frozen=True, slots=True)
class _MaskedRule:
    """Cross entropy with the gradient of pruned weights set to 0.

    They are 0 themselves, so a fresh optimizer never moves them, weight decay included.
    """

    mask_P: Tensor

    def __call__(self, learner: Learner, batch: Batch) -> float:
        loss = cross_entropy_rule(learner, batch, "retrain")
        learner.network.grad[: len(self.mask_P)] *= self.mask_P
        learner.log.add(learner.costs.passes("retrain", 2))
        return loss


def _retraining_step(costs: StepCosts, n: int, classes: int) -> Iterator[WorkItem]:
    yield costs.forward_backward("retrain", n, classes)
    yield costs.passes("retrain", 2)
    yield costs.optimize(classes)


def _taken(knowledge: tuple[Knowledge, ...], P: int) -> Tensor | None:
    masks = [restore_mask(one, P) for one in knowledge]
    return reduce(torch.logical_or, masks) if masks else None
