"""Memory aware synapses on each client, with federated averaging.

    loss(w) + lambda / 2 sum_j O_j (w_j - w*_j)^2,     O <- O + 1/N sum_n |d |f(x_n)|^2 / dw| after each task

f(x) are the logits of the task's head rows. Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget",
ECCV 2018, arXiv:1711.09601. O is how much the output reacts to a weight, of any label; it is estimated at the end of
each task, on the client's own model and all of its images, one image at a time, as the paper says (not from a batch's
gradient, in which signs cancel).

Keeps w* and O, 2 P floats for any number of tasks; sends the model. Deviations: the half before the penalty, as with
EWC, which the paper has not: a strength of 400 is its 200; the penalty is over the features.

N images, P feature weights.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.fedavg import FedAvgSettings
from fedknow_ray.methods.importance import HeldByImportance, image_gradients
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import TaskData


class MasSettings(FedAvgSettings):
    """What there is to choose in MAS."""

    strength: float = Field(400.0, ge=0, allow_inf_nan=False)
    """lambda, weight of the penalty; 0 is FedAvg."""


class Mas(HeldByImportance):
    """FedAvg held by how much the output reacts."""

    hyperparameters: ClassVar[type[BaseModel]] = MasSettings
    begins_as_fedavg = True

    @property
    def strength(self) -> float:
        """Lambda."""
        return cast(MasSettings, self.hyper).strength

    def importance(self, learner: Learner, data: TaskData) -> Tensor:
        """Return the mean size (P,) of the images' gradients of the squared length of the output."""
        reaction_P = torch.zeros(learner.network.P)
        for g_P in image_gradients(learner, data, lambda logits_1R, _: 2 * logits_1R):
            reaction_P.add_(g_P.abs_())
        return reaction_P.div_(len(data.labels_N))

    def merge(self, old_P: Tensor, new_P: Tensor, past_tasks: int) -> Tensor:
        """Return the sum over all tasks."""
        return new_P.add_(old_P)
