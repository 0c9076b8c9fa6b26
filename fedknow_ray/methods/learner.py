"""The one training loop: batches in a seeded order, a gradient rule, one optimizer step over one flat vector.

A method changes the gradient by giving a `GradientRule`; everything else is the same for all methods. The learner is a
workspace: clients of one process take turns in it, and nothing of a client stays behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedknow_ray.errors import DivergenceError
from fedknow_ray.methods.costs import StepCosts, WorkLog
from fedknow_ray.methods.method import TaskData
from fedknow_ray.models.network import FlatNetwork

if TYPE_CHECKING:
    from fedknow_ray.config.model import TrainingConfig


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: *indices* into the task's images, *x_NCHW* normalised (channels-last in memory), *y_N* labels."""

    indices: NDArray[np.int64]
    x_NCHW: Tensor
    y_N: Tensor


#: Fills the learner's gradient for one batch and returns the batch's loss.
GradientRule = Callable[["Learner", Batch], float]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """x -> (x / 255 - mean) / std a channel, written as x * scale + shift; None of it for images that are floats."""

    scale_C: Tensor
    shift_C: Tensor

    @staticmethod
    def of(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalisation:
        """Return the normalisation for a mean and a standard deviation a channel, in units of 0..1."""
        mean_C, std_C = torch.tensor(mean), torch.tensor(std)
        return Normalisation(1 / (255 * std_C), -mean_C / std_C)

    def __call__(self, images_NHWC: NDArray[np.generic]) -> Tensor:
        """Return float32 images (N, H, W, C)."""
        if images_NHWC.dtype == np.float32:
            return torch.from_numpy(images_NHWC.copy())
        return torch.from_numpy(images_NHWC.astype(np.float32)).mul_(self.scale_C).add_(self.shift_C)


class Learner:
    """A network with the loop around it.

    *seed* is set for each visit by `begin`; it drives the order of the batches, and torch's generator (dropout) is
    seeded by the caller for the length of the visit.
    """

    def __init__(
        self, network: FlatNetwork, training: TrainingConfig, costs: StepCosts, normalisation: Normalisation
    ) -> None:
        self.network = network
        network.precision = training.precision
        self.training = training
        self.costs = costs
        self.normalisation = normalisation
        self.begin(np.random.Generator(np.random.PCG64(0)))

    def begin(self, order: np.random.Generator) -> None:
        """Start a visit: a fresh optimizer, step 0, an empty work log."""
        self.order = order
        self.log = WorkLog()
        self._optimizer = DecayingOptimizer(self.training, self.network.theta, self.network.grad)
        self._after_step: Callable[[], None] | None = None
        self._trained_rows = self.network.rows

    def train(self, data: TaskData, epochs: int, rule: GradientRule, step: Callable[[], None] | None = None) -> float:
        """Train for some epochs with a gradient rule; return the mean loss of an image. Shuffles unless told not to.

        *step* makes an optimizer step in place of `optimize`, where it is not the network's vector that is trained.

        Raises:
            DivergenceError: if the loss is no finite number.
        """
        self.network.features.train()
        images = self.normalisation(data.images_NHWC)
        labels = torch.from_numpy(data.labels_N)
        total = 0.0
        for _ in range(epochs):
            for indices in self._batches(len(labels)):
                index = torch.from_numpy(indices)
                batch = Batch(indices, images[index].permute(0, 3, 1, 2), labels[index])
                total += rule(self, batch) * len(indices)
                (step or self.optimize)()
        return _mean_loss(total, epochs * len(labels))

    @property
    def step(self) -> int:
        """Optimizer steps that this visit has made so far."""
        return self._optimizer.steps

    @property
    def rate(self) -> float:
        """The learning rate of the coming optimizer step."""
        return self._optimizer.rate

    def optimize(self) -> None:
        """Make one optimizer step with the gradient that is there."""
        self._optimizer.step()
        self.log.add(self.costs.optimize(self._trained_rows))
        if self._after_step is not None:
            look, self._after_step = self._after_step, None
            look()

    def freeze_head(self) -> None:
        """Let the rest of the visit train the features alone, with a fresh optimizer: no momentum and no decay moves
        the head rows, whatever gradient a rule gives them."""
        weights = slice(0, self.network.P)
        self._optimizer = DecayingOptimizer(self.training, self.network.theta[weights], self.network.grad[weights])
        self._trained_rows = 0

    def after_step(self, look: Callable[[], None]) -> None:
        """Have something called once, right after the coming optimizer step."""
        self._after_step = look

    def train_head(self, data: TaskData, epochs: int | None = None) -> float:
        """Train the head alone, for the local epochs unless told otherwise, on the features as evaluation sees them;
        return the mean loss."""
        z_NF = self.features_of(data.images_NHWC, "head")
        labels = torch.from_numpy(data.labels_N)
        grad = torch.zeros_like(self.network.head)
        optimizer = DecayingOptimizer(self.training, self.network.head, grad)
        total, epochs = 0.0, self.training.local_epochs if epochs is None else epochs
        for _ in range(epochs):
            for indices in self._batches(len(labels)):
                index = torch.from_numpy(indices)
                loss, _ = head_pass(self.network.head, z_NF[index], labels[index], grad)
                optimizer.step()
                self.log.add(self.costs.head_step(len(indices), self.network.rows))
                total += loss * len(indices)
        return _mean_loss(total, epochs * len(labels))

    def features_of(self, images_NHWC: NDArray[np.generic], phase: str) -> Tensor:
        """Return the features (N, F) in evaluation mode, batch by batch; counted under *phase*."""
        return self.forward_batches(images_NHWC, phase, 0, self.network)

    def forward_batches(
        self, images_NHWC: NDArray[np.generic], phase: str, classes: int, model: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return a model's output for all images in evaluation mode, without gradients, batch by batch."""
        self.network.features.eval()
        x = self.normalisation(images_NHWC).permute(0, 3, 1, 2)
        out, start = [], 0
        with torch.no_grad():
            for n in self.costs.batches(len(images_NHWC)):
                out.append(model(x[start : start + n]))
                self.log.add(self.costs.forward(phase, n, classes))
                start += n
        return torch.cat(out)

    def _batches(self, images: int) -> Iterator[NDArray[np.int64]]:
        order = self.order.permutation(images) if self.training.shuffle else np.arange(images)
        start = 0
        for n in self.costs.batches(images):
            yield order[start : start + n]
            start += n


def _mean_loss(total: float, images: int) -> float:
    if not math.isfinite(total):
        raise DivergenceError(f"the training loss is {total}")
    return total / images


def head_pass(head_RF: Tensor, z_NF: Tensor, y_N: Tensor, grad_RF: Tensor) -> tuple[float, Tensor]:
    """Return the mean cross entropy and its gradient for the logits (N, R); write the head's gradient into *grad_RF*.

    The gradient of the mean cross entropy for the logits is (softmax - onehot) / N; logits are z W' + b, with the bias
    as the last column of the head.
    """
    with torch.no_grad():
        weight, bias = head_RF[:, :-1], head_RF[:, -1]
        log_p = F.log_softmax(torch.addmm(bias, z_NF.detach(), weight.T), dim=1)
        loss = F.nll_loss(log_p, y_N)
        d_logits = log_p.exp_()
        d_logits[torch.arange(len(y_N)), y_N] -= 1
        d_logits /= len(y_N)
        grad_RF[:, :-1] = d_logits.T @ z_NF.detach()
        grad_RF[:, -1] = d_logits.sum(0)
        return float(loss), d_logits


def cross_entropy_rule(learner: Learner, batch: Batch, phase: str = "train") -> float:
    """Fill the gradient of the task's own mean cross entropy: what every method starts from."""
    network = learner.network
    network.grad.zero_()
    z_NF = network(batch.x_NCHW)
    loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
    torch.autograd.backward(z_NF, d_logits_NR @ network.head[:, :-1])
    learner.log.add(learner.costs.forward_backward(phase, len(batch.y_N), network.rows))
    return loss


class DecayingOptimizer:
    """The config's optimizer over one flat tensor; the rate of step s is lr / (1 + lr_decay * s), s from 0.

    `steps` counts the steps that were made.
    """

    def __init__(self, training: TrainingConfig, values: Tensor, grad: Tensor) -> None:
        parameter = nn.Parameter(values)
        parameter.grad = grad
        self._chosen = training.optimizer
        self.steps = 0
        self._optimizer: torch.optim.Optimizer
        # One fused kernel over one flat vector: 3 ms for 2.4 million weights, where a loop over tensors takes 7.
        if self._chosen.name == "adam":
            self._optimizer = torch.optim.Adam(
                [parameter], lr=self._chosen.lr, weight_decay=self._chosen.weight_decay, fused=True
            )
        else:
            self._optimizer = torch.optim.SGD(
                [parameter],
                lr=self._chosen.lr,
                momentum=self._chosen.momentum,
                weight_decay=self._chosen.weight_decay,
                fused=True,
            )

    @property
    def rate(self) -> float:
        """The rate of the coming step."""
        return self._chosen.lr / (1 + self._chosen.lr_decay * self.steps)

    def step(self) -> None:
        """Make one step with the gradient that is there."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate
        self._optimizer.step()
        self.steps += 1
