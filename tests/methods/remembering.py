"""A client that remembers images of two past tasks, for the tests of what it does with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from workbench import CLASSES, task_data

from fedknow_ray.methods.episodic import EpisodicMemory, Recall, remember
from fedknow_ray.methods.learner import Batch, Learner
from fedknow_ray.methods.method import TaskData


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def memory_of(*tasks: TaskData, fraction: float = 0.25) -> EpisodicMemory:
    """What is kept of some tasks: of 20 images, five."""
    return EpisodicMemory(tuple(remember(data, i, fraction, rng(i)) for i, data in enumerate(tasks)))


def third_task(seed: int = 9) -> TaskData:
    """A task after two others, with head rows of these."""
    heads = rng(seed).normal(size=(2, CLASSES, 6)).astype(np.float32)
    return replace(task_data(2, task_index=2), past_heads=tuple(heads))


def batch_of(learner: Learner, data: TaskData, n: int = 6) -> Batch:
    """The first n images of a task."""
    x_NHWC = learner.normalisation(data.images_NHWC[:n])
    return Batch(np.arange(n), x_NHWC.permute(0, 3, 1, 2), torch.from_numpy(data.labels_N[:n]))


def recall_of(learner: Learner, data: TaskData) -> Recall:
    """Five images each of two past tasks; nothing counted."""
    recall = Recall(learner, memory_of(task_data(0), task_data(1)), data)
    learner.begin(rng())
    return recall
