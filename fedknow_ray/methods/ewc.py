"""Elastic weight consolidation on each client, with federated averaging.

    loss(w) + lambda / 2 sum_j F_j (w_j - w*_j)^2,     F = 1/N sum_n (d log p(y_n | x_n) / dw)^2 for one task
    F <- (t F + F_new) / (t + 1)                       after task t, from 0

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 114(13), 2017, arXiv:1612.00796. The
Fisher information's diagonal is estimated at the end of each task, on the client's own model and all of its images, one
image at a time (the square of a batch's mean gradient is another thing, and smaller). y_n is drawn from the model's own
word, as the definition has it, or (`fisher: labels`) the image's label, which is the empirical Fisher information.

Keeps w* and F, 2 P floats for any number of tasks; sends the model. Deviations: one anchor w*, the last one, and a
running mean of F, where the paper has an anchor and a penalty for each past task; the penalty is over the features.

N images, R head rows, P feature weights.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.fedavg import FedAvgSettings
from fedknow_ray.methods.importance import HeldByImportance, image_gradients
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import TaskData


class EwcSettings(FedAvgSettings):
    """What there is to choose in EWC."""

    strength: float = Field(1e4, ge=0, allow_inf_nan=False)
    """lambda, weight of the penalty; 0 is FedAvg."""
    fisher: Literal["sampled", "labels"] = "sampled"
    """Which labels the Fisher information is of: drawn from the model's own probabilities, or the images' own."""


class Ewc(HeldByImportance):
    """FedAvg held by the Fisher information."""

    hyperparameters: ClassVar[type[BaseModel]] = EwcSettings
    begins_as_fedavg = True

    @property
    def settings(self) -> EwcSettings:
        """The hyper-parameters."""
        return cast(EwcSettings, self.hyper)

    @property
    def strength(self) -> float:
        """Lambda."""
        return self.settings.strength

    def importance(self, learner: Learner, data: TaskData) -> Tensor:
        """Return the diagonal (P,) of the Fisher information, of the task's head rows, per image."""
        sampled = self.settings.fisher == "sampled"
        drawn_N = learner.order.random(len(data.labels_N)) if sampled else None

        def push(logits_1R: Tensor, index: int) -> Tensor:
            p_1R = torch.softmax(logits_1R, dim=1)
            p_1R[0, int(data.labels_N[index]) if drawn_N is None else label_at(p_1R[0], drawn_N[index])] -= 1
            return p_1R

        fisher_P = torch.zeros(learner.network.P)
        for g_P in image_gradients(learner, data, push):
            fisher_P.addcmul_(g_P, g_P)
        return fisher_P.div_(len(data.labels_N))

    def merge(self, old_P: Tensor, new_P: Tensor, past_tasks: int) -> Tensor:
        """Return the mean over all tasks."""
        return new_P.add_(old_P, alpha=past_tasks).div_(past_tasks + 1)


def label_at(p_R: Tensor, quantile: float) -> int:
    """Return the class at a quantile in [0, 1) of the distribution p_R: drawn from it, if the quantile is uniform."""
    cumulative_R = np.cumsum(p_R.double().numpy())
    # rounding may leave the last sum below the quantile
    return min(int(np.searchsorted(cumulative_R, quantile, side="right")), len(cumulative_R) - 1)
