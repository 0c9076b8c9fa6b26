"""The past tasks of a visit: what they say of the batch, their head rows, and which of them are heard.

For a batch of N images with features z, past task i with head rows W_i and labels p_i asks the features to move along

    dz_i = (softmax(z W_i' / T) - p_i) W_i / (N T)

and, where past heads are trained, its head rows along the gradient of the same loss (`past_heads`). Signature tasks are
chosen at the visit's first batch; from then on only those cost anything.

N images, R head rows of a task, F features, P feature weights, t past tasks, k of them chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.restorer import distillation_logit_gradient
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.signature import choose_without_gradients, distance, farthest, measures_gradients
from fedknow_ray.methods.learner import Batch, DecayingOptimizer, Learner
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.simulation.work import WorkItem

if TYPE_CHECKING:
    from fedknow_ray.config.model import TrainingConfig

#: Passes over the weights that one distance takes: it reads two gradients.
SELECT_PASSES = 2


@dataclass(slots=True, eq=False)
class PastTasks:
    """*labels_NR* of each past task for all of the client's images, *heads_RF* (R, F + 1) its rows as the visit starts.

    After `choose`, *chosen* has the signature tasks, and `pulls` and `heads` are about these, in this order.
    """

    labels_NR: Sequence[Tensor]
    heads_RF: Sequence[Tensor]
    settings: FedKnowSettings
    rng: np.random.Generator
    training: TrainingConfig
    chosen: tuple[int, ...] | None = None
    _labels_kNR: Tensor = field(init=False)
    _heads_kRF: Tensor = field(init=False)
    _grad_kRF: Tensor | None = None
    _optimizer: DecayingOptimizer | None = None

    @property
    def k(self) -> int:
        """How many tasks are heard."""
        return min(len(self.labels_NR), self.settings.signature_tasks)

    def choose(self, learner: Learner, batch: Batch, z_NF: Tensor, gradient: Callable[[], Tensor]) -> None:
        """Choose the signature tasks at the visit's first batch; later calls do nothing.

        *gradient* gives the batch's own gradient g (P,) where distances decide.
        """
        if self.chosen is not None:
            return
        t, k, name = len(self.labels_NR), self.settings.signature_tasks, self.settings.selection
        if measures_gradients(name, t, k):
            self.chosen = farthest(self._distances(learner, batch, z_NF, gradient()), k)
        else:
            self.chosen = choose_without_gradients(name, t, k, self.rng)
        self._labels_kNR = torch.stack([self.labels_NR[task] for task in self.chosen])
        self._heads_kRF = torch.stack([self.heads_RF[task] for task in self.chosen])
        if self.settings.past_heads == "trained":
            self._grad_kRF = torch.zeros_like(self._heads_kRF)
            self._optimizer = DecayingOptimizer(self.training, self._heads_kRF, self._grad_kRF)

    def pulls(self, z_NF: Tensor, indices: NDArray[np.int64]) -> Tensor:
        """Return dz (k, N, F) of the chosen tasks; notes the gradient of their head rows where these are trained."""
        with torch.no_grad():
            labels_kNR = self._labels_kNR[:, torch.from_numpy(indices)]
            d_logits_kNR = self._d_logits(z_NF, self._heads_kRF, labels_kNR)
            if self._grad_kRF is not None:
                self._grad_kRF[:, :, :-1] = d_logits_kNR.transpose(1, 2) @ z_NF
                self._grad_kRF[:, :, -1] = d_logits_kNR.sum(1)
            return d_logits_kNR @ self._heads_kRF[:, :, :-1]

    def train_heads(self, learner: Learner, n: int) -> None:
        """Make a step of the chosen tasks' head rows with the gradient of the last `pulls`, where they are trained."""
        if self._optimizer is not None:
            self._optimizer.step()
            learner.log.add(learner.costs.update_head("restore", n, self._heads_kRF.shape[0] * learner.network.rows))

    def heads(self) -> tuple[NDArray[np.float32], ...] | None:
        """Return the head rows (R, F + 1) of all past tasks as they are now, None if they stayed as they were."""
        if self._optimizer is None or self.chosen is None:
            return None
        trained = dict(zip(self.chosen, self._heads_kRF, strict=True))
        return tuple(trained.get(task, head_RF).numpy().copy() for task, head_RF in enumerate(self.heads_RF))

    def _distances(self, learner: Learner, batch: Batch, z_NF: Tensor, g_P: Tensor) -> list[float]:
        """Return how unlike g each task's restored gradient is; all are restored into one spare row, one by one.

        Restoring the chosen ones again costs k of the visit's passes once, and keeps buffers at k + 1 rows for any t.
        """
        spare_P, distances = torch.empty_like(g_P), []
        for labels_NR, head_RF in zip(self.labels_NR, self.heads_RF, strict=True):
            with torch.no_grad():
                d_logits_NR = self._d_logits(z_NF, head_RF, labels_NR[torch.from_numpy(batch.indices)])
            backward_into(learner.network, z_NF, d_logits_NR @ head_RF[:, :-1], spare_P)
            distances.append(distance(self.settings.selection, g_P, spare_P))
            for item in measuring_items(learner.costs, len(batch.y_N), len(head_RF)):
                learner.log.add(item)
        return distances

    def _d_logits(self, z_NF: Tensor, head_RF: Tensor, labels_NR: Tensor) -> Tensor:
        """Return the losses' gradients for the logits, (N, R), or (k, N, R) of as many heads."""
        logits_NR = z_NF @ head_RF[..., :-1].transpose(-1, -2) + head_RF[..., None, :, -1]
        temperature = self.settings.temperature if self.settings.labels == "soft" else 1.0
        return distillation_logit_gradient(logits_NR, labels_NR, temperature)


def measuring_items(costs: StepCosts, n: int, classes: int) -> list[WorkItem]:
    """Return the work of measuring the distance of one past task's gradient."""
    return [costs.backward("restore", n, classes), costs.passes("select", SELECT_PASSES)]


def backward_into(network: FlatNetwork, z_NF: Tensor, dz_NF: Tensor, out_P: Tensor) -> None:
    """Write the gradient of the feature weights, from that of the features' output (N, F), into out_P (P,).

    Keeps the graph, so that the next gradient of the same batch needs no forward pass.
    """
    gradients = torch.autograd.grad(z_NF, network.feature_parameters, dz_NF, retain_graph=True)
    network.write_gradients(gradients, out_P)
