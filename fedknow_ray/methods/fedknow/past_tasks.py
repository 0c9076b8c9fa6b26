"""The signature tasks of a visit: what they say of the batch, and their head rows.

For a batch of N images with features z, past task i with head rows W_i and labels p_i asks the features to move along

    dz_i = (softmax(z W_i' / T) - p_i) W_i / (N T)

and, where past heads are trained, its head rows along the gradient of the same loss (`past_heads`).

N images, R head rows of a task, F features, P feature weights, k signature tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedknow_ray.methods.fedknow.restorer import distillation_logit_gradient
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.learner import DecayingOptimizer, Learner
from fedknow_ray.models.network import FlatNetwork

if TYPE_CHECKING:
    from fedknow_ray.config.model import TrainingConfig


class PastTasks:
    """*labels_NR* of each signature task for all of the client's images, *heads_RF* (R, F + 1) its rows as the visit
    starts; these stay as they are, and the visit works on a copy."""

    def __init__(
        self,
        labels_NR: Sequence[Tensor],
        heads_RF: Sequence[Tensor],
        settings: FedKnowSettings,
        training: TrainingConfig,
    ) -> None:
        self.settings = settings
        self._labels_kNR = torch.stack(tuple(labels_NR))
        self._heads_kRF = torch.stack(tuple(heads_RF))
        self._grad_kRF: Tensor | None = None
        self._optimizer: DecayingOptimizer | None = None
        if settings.past_heads == "trained":
            self._grad_kRF = torch.zeros_like(self._heads_kRF)
            self._optimizer = DecayingOptimizer(training, self._heads_kRF, self._grad_kRF)

    @property
    def k(self) -> int:
        """How many tasks are heard."""
        return len(self._labels_kNR)

    def pulls(self, z_NF: Tensor, indices: NDArray[np.int64]) -> Tensor:
        """Return dz (k, N, F); notes the gradient of the head rows where these are trained."""
        with torch.no_grad():
            labels_kNR = self._labels_kNR[:, torch.from_numpy(indices)]
            d_logits_kNR = logit_gradient(z_NF, self._heads_kRF, labels_kNR, self.settings)
            if self._grad_kRF is not None:
                self._grad_kRF[:, :, :-1] = d_logits_kNR.transpose(1, 2) @ z_NF
                self._grad_kRF[:, :, -1] = d_logits_kNR.sum(1)
            return d_logits_kNR @ self._heads_kRF[:, :, :-1]

    def train_heads(self, learner: Learner, n: int) -> None:
        """Make a step of the head rows with the gradient of the last `pulls`, where they are trained."""
        if self._optimizer is not None:
            self._optimizer.step()
            learner.log.add(learner.costs.update_head("restore", n, self.k * learner.network.rows))

    def heads(self) -> list[NDArray[np.float32]] | None:
        """Return the head rows (R, F + 1) of the signature tasks as they are now, None if they stay as they are."""
        if self._optimizer is None:
            return None
        return [head_RF.numpy().copy() for head_RF in self._heads_kRF]


def logit_gradient(z_NF: Tensor, head_RF: Tensor, labels_NR: Tensor, settings: FedKnowSettings) -> Tensor:
    """Return the gradient (N, R) of a past task's loss for its logits; (k, N, R) for k heads (k, R, F + 1) at once."""
    logits_NR = z_NF @ head_RF[..., :-1].transpose(-1, -2) + head_RF[..., None, :, -1]
    return distillation_logit_gradient(logits_NR, labels_NR, settings.label_temperature)


def backward_into(network: FlatNetwork, z_NF: Tensor, dz_NF: Tensor, out_P: Tensor) -> None:
    """Write the gradient of the feature weights, from that of the features' output (N, F), into out_P (P,).

    Keeps the graph, so that the next gradient of the same batch needs no forward pass.
    """
    gradients = torch.autograd.grad(z_NF, network.feature_parameters, dz_NF, retain_graph=True)
    network.write_gradients(gradients, out_P)
