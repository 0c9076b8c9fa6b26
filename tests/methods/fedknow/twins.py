"""Past tasks at random, and what they ask for as anybody would compute it: a copy, a forward and a backward pass."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from workbench import CLASSES, DRY, flat_gradient, make_learner, task_data, training, twin_of

from fedknow_ray.config.model import TrainingConfig
from fedknow_ray.methods.fedknow.extractor import Knowledge, keep_mask, pack
from fedknow_ray.methods.fedknow.past_tasks import PastTasks
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.learner import Batch, Learner
from fedknow_ray.methods.method import TaskData
from fedknow_ray.models.catalogue import ModelSpec

TASKS = 4


def batch_of(learner: Learner, n: int = 6, data: TaskData | None = None) -> Batch:
    """The first n images of a task."""
    data = data or task_data()
    x_NHWC = learner.normalisation(data.images_NHWC[:n])
    return Batch(np.arange(len(x_NHWC)), x_NHWC.permute(0, 3, 1, 2), torch.from_numpy(data.labels_N[:n]))


def past(tasks: int = TASKS, seed: int = 3, images: int = 20) -> tuple[list[Tensor], list[Tensor]]:
    """Labels (N, C) and head rows (C, F + 1) of past tasks."""
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.softmax(3 * torch.randn(images, CLASSES, generator=generator), dim=1) for _ in range(tasks)]
    return labels, [torch.randn(CLASSES, 6, generator=generator) for _ in range(tasks)]


def past_tasks(
    tasks: int = TASKS, config: TrainingConfig | None = None, *, seed: int = 3, **settings: Any
) -> PastTasks:
    """The same as a visit has them, the likeliest class alone where labels are hard."""
    (labels, heads), hyper = past(tasks, seed), FedKnowSettings(**settings)
    if hyper.labels == "hard":
        labels = [F.one_hot(label.argmax(1), CLASSES).float() for label in labels]
    return PastTasks(labels, heads, hyper, config or training())


def agreeing_tasks(learner: Learner, **settings: Any) -> PastTasks:
    """One past task that wants what the task at hand wants: its labels, head and temperature 1."""
    labels = F.one_hot(torch.from_numpy(task_data().labels_N), CLASSES).float()
    return PastTasks([labels], [learner.network.head.clone()], FedKnowSettings(temperature=1.0, **settings), training())


def past_learner(spec: ModelSpec = DRY, task: int = 0) -> Learner:
    """A learner that holds the model of a past task; with running statistics of images that it has seen."""
    learner = make_learner(spec, seed=20 + task)
    learner.network.features.train()(torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(task)))
    return learner


def kept(learner: Learner, task: int = 0, fraction: float = 1.0, bits: int = 32) -> Knowledge:
    """The knowledge of a task whose model a learner holds."""
    network, rows = learner.network, (task * CLASSES, (task + 1) * CLASSES)
    w_P, layout = network.theta[: network.P], network.layout
    mask_P = keep_mask(w_P, layout, fraction)
    return pack(task, rows, w_P, mask_P, network.head, network.buffers, layout=layout, bits=bits)


def present(tasks: int = TASKS, images: int = 20) -> TaskData:
    """A task after so many, with head rows of these that have moved since their models were stored."""
    heads = tuple(head.numpy() for head in past(tasks)[1])
    return replace(task_data(images=images, task_index=tasks), past_heads=heads)


def obvious_labels(past: Learner, spec: ModelSpec, images_NHWC: NDArray[np.uint8], temperature: float) -> Tensor:
    """What an ordinary module with a past model's weights says in evaluation mode, softened."""
    with torch.no_grad():
        z_NF = twin_of(past, spec).eval()(past.normalisation(images_NHWC).permute(0, 3, 1, 2))
    return torch.softmax(logits_of(z_NF, past.network.head) / temperature, dim=1)


def logits_of(z_NF: Tensor, head_RF: Tensor) -> Tensor:
    return z_NF @ head_RF[:, :-1].T + head_RF[:, -1]


def soft_loss(z_NF: Tensor, head_RF: Tensor, labels_NR: Tensor, temperature: float = 2.0) -> Tensor:
    """The distillation loss as the description has it, without a factor T^2."""
    return -(labels_NR * torch.log_softmax(logits_of(z_NF, head_RF) / temperature, dim=1)).sum(1).mean()


def obvious_gradient(
    model: nn.Module, head_RF: Tensor, batch: Batch, labels_NR: Tensor, temperature: float, spec: ModelSpec = DRY
) -> Tensor:
    """Copy the model, run it forward and backward on soft cross entropy, throw the copy away."""
    twin = deepcopy(model)
    soft_loss(twin(batch.x_NCHW), head_RF, labels_NR, temperature).backward()
    return flat_gradient(make_learner(spec).network, twin)


def obvious_own_gradient(model: nn.Module, head_RF: Tensor, batch: Batch, spec: ModelSpec = DRY) -> Tensor:
    twin = deepcopy(model)
    F.cross_entropy(logits_of(twin(batch.x_NCHW), head_RF), batch.y_N).backward()
    return flat_gradient(make_learner(spec).network, twin)
