"""What a FedKNOW client keeps of its tasks, and how it is made and read.

At the end of a task a copy of the client's own model is pruned to its largest weights, the kept weights are trained
again on the task's images, and mask, values and head rows are stored. In a later task the pruned models label the
client's current images once; the labels are kept for the whole task (240 images x 9 past tasks x 10 classes: 86 kB).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedknow.extractor import Knowledge, keep_mask, pack, restore_mask, restore_weights
from fedknow_ray.methods.fedknow.restorer import hard_labels, soft_labels
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule
from fedknow_ray.methods.method import TaskData, VisitFacts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import Work, WorkItem

#: Passes over the weights that pruning takes: read magnitudes, find the threshold, write the masked copy.
PRUNE_PASSES = 4


@dataclass(frozen=True, slots=True, eq=False)
class FedKnowMemory:
    """The knowledge of all past tasks, and the labels that it gives the images of the task being learnt.

    *labels_NC* one tensor (N, R) a past task, for the task *labelled_task*; -1 before the first.
    """

    knowledge: tuple[Knowledge, ...] = ()
    labelled_task: int = -1
    labels_NC: tuple[Tensor, ...] = ()


def plan_labelling(costs: StepCosts, facts: VisitFacts) -> Work:
    """Return the work of labelling the task's images by every past model: load each, forward passes."""
    once = [costs.passes("teach", 1), *(costs.forward("teach", n, facts.classes) for n in costs.batches(facts.images))]
    return repeat(once, facts.task_index)


def label_images(
    learner: Learner, memory: FedKnowMemory, data: TaskData, facts: VisitFacts, settings: FedKnowSettings
) -> FedKnowMemory:
    """Return the memory with labels for this task's images: computed at the first visit in a task, kept after it."""
    if memory.labelled_task == facts.task_index:
        return memory
    labels = tuple(_labels_of(learner, knowledge, data, settings) for knowledge in memory.knowledge)
    return replace(memory, labelled_task=facts.task_index, labels_NC=labels)


def _labels_of(learner: Learner, knowledge: Knowledge, data: TaskData, settings: FedKnowSettings) -> Tensor:
    network, head_RF = learner.network, knowledge.head
    weights = network.as_tensors(restore_weights(knowledge, network.P, network.layout))
    learner.log.add(learner.costs.passes("teach", 1))

    def logits(x_NCHW: Tensor) -> Tensor:
        z_NF = network.call_with(weights, knowledge.statistics, x_NCHW)
        return torch.addmm(head_RF[:, -1], z_NF, head_RF[:, :-1].T)

    logits_NR = learner.forward_batches(data.images_NHWC, "teach", len(head_RF), logits)
    return soft_labels(logits_NR, settings.temperature) if settings.labels == "soft" else hard_labels(logits_NR)


def plan_extraction(costs: StepCosts, facts: VisitFacts, settings: FedKnowSettings) -> Work:
    """Return the work of pruning, retraining and storing."""
    step = [item for n in costs.batches(facts.images) for item in _retraining_step(costs, n, facts.classes)]
    stored = knowledge_bytes(costs, facts.classes, settings)
    around = [costs.passes("prune", PRUNE_PASSES), WorkItem("store", 1, 0, 2 * stored)]
    return repeat(around, 1) + repeat(step, settings.retrain_epochs)


def knowledge_bytes(costs: StepCosts, classes: int, settings: FedKnowSettings) -> int:
    """Return about how many bytes one task's knowledge takes: kept values, one bit a weight that may be missing, head
    rows.

    The weights that are always kept (biases) are counted as if they were pruned, 0.1 % of cnn6; the scales of codes are
    left out, 0.5 % of what is kept of cnn6 at 4 bits.
    """
    footprint = costs.footprint
    values = round(settings.retained_fraction * footprint.P) * settings.stored_bits // 8
    mask = footprint.P // 8 if settings.retained_fraction < 1 else 0
    return values + mask + FLOAT_BYTES * (classes * (footprint.F + 1) + footprint.B)


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
    learner.log.add(costs.passes("prune", PRUNE_PASSES))
    loss = None
    for _ in range(settings.retrain_epochs):
        loss = learner.train(data, 1, _MaskedRule(mask_P))
    rows = (data.rows.start, data.rows.stop)
    learner.log.add(WorkItem("store", 1, 0, 2 * knowledge_bytes(costs, facts.classes, settings)))
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
