"""What past models say of the images of a later task: a client's labels for restoring their gradients.

A past model is put together from what was kept of it (extractor) and run in evaluation mode, with its own head rows and
statistics. Its word is a probability for each class of its task, softened by the temperature, or the likeliest class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedknow.extractor import Knowledge, restore_weights
from fedknow_ray.methods.fedknow.restorer import hard_labels, soft_labels
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.storage import read_item
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import TaskData, VisitFacts
from fedknow_ray.simulation.work import Work


def labels_of(learner: Learner, knowledge: Knowledge, data: TaskData, settings: FedKnowSettings) -> Tensor:
    """Return the labels (N, R) of all images by one past model; the learner's network stays as it is."""
    network, head_RF = learner.network, knowledge.head
    weights = network.as_tensors(restore_weights(knowledge, network.P, network.layout))
    learner.log.add(read_item(learner.costs, len(head_RF), settings))

    def features(x_NCHW: Tensor) -> Tensor:
        return network.call_with(weights, knowledge.statistics, x_NCHW)

    logits_NR = logits_of(learner, data, features, head_RF)
    return soft_labels(logits_NR, settings.temperature) if settings.labels == "soft" else hard_labels(logits_NR)


def logits_of(learner: Learner, data: TaskData, features: Callable[[Tensor], Tensor], head_CF: Tensor) -> Tensor:
    """Return the logits (N, C) that features and head rows (C, F + 1) give all of the task's images."""

    def model(x_NCHW: Tensor) -> Tensor:
        return torch.addmm(head_CF[:, -1], features(x_NCHW), head_CF[:, :-1].T)

    return learner.forward_batches(data.images_NHWC, "teach", len(head_CF), model)


def plan_labelling(costs: StepCosts, facts: VisitFacts, tasks: int, settings: FedKnowSettings) -> Work:
    """Return the work of labelling all images by so many past models: load each, forward passes."""
    passes = [costs.forward("teach", n, facts.classes) for n in costs.batches(facts.images)]
    return repeat([read_item(costs, facts.classes, settings), *passes], tasks)
