"""The work of the steps that methods are made of: FLOPs from the network's footprint, bytes moved from its sizes.

FLOPs count matrix products and convolutions, two a multiply-add. Bytes moved are the least traffic between memory and
processor: each weight, gradient and kept activation is read or written once where the step needs it. Routines without
products (optimizer, pruning, selection) have bytes only. One `WorkItem` is one step; equal steps are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedknow_ray.models.footprint import FLOAT_BYTES, Footprint
from fedknow_ray.simulation.work import Step, Work, WorkItem

if TYPE_CHECKING:
    from fedknow_ray.config.model import TrainingConfig
    from fedknow_ray.methods.method import VisitFacts

#: Passes over the weights of one optimizer step. Adam reads w, g, m, v and writes w, m, v; SGD reads w, g and writes w.
OPTIMIZER_PASSES = {"adam": 7, "sgd": 3}
MOMENTUM_PASSES = 2
#: Copies of the weights that an optimizer keeps.
OPTIMIZER_STATES = {"adam": 2, "sgd": 0}


class StepCosts:
    """Prices single steps of one network under one training setting.

    *n* images, *classes* head rows; every method returns the work of ONE step, as a `WorkItem` of count 1.
    """

    def __init__(self, footprint: Footprint, training: TrainingConfig) -> None:
        self.footprint = footprint
        self.training = training

    def forward(self, phase: str, n: int, classes: int) -> WorkItem:
        """One forward pass with a head of *classes* rows, nothing kept."""
        f = self.footprint
        flops = n * f.forward_flops + f.head_forward_flops(n, classes)
        return WorkItem(phase, 1, flops, f.weight_bytes + n * (f.input_bytes + f.kept_bytes))

    def forward_backward(self, phase: str, n: int, classes: int) -> WorkItem:
        """One forward and one backward pass: weights read twice, gradients written, activations written and read."""
        f = self.footprint
        flops = n * (f.forward_flops + f.backward_flops)
        flops += f.head_forward_flops(n, classes) + f.head_backward_flops(n, classes)
        return WorkItem(phase, 1, flops, 3 * f.weight_bytes + n * (f.input_bytes + 2 * f.kept_bytes))

    def backward(self, phase: str, n: int, classes: int) -> WorkItem:
        """One more backward pass through activations that are there, from the logits of another head.

        That head is frozen: its own forward and its gradient for the features, none for its weights.
        """
        f = self.footprint
        flops = n * f.backward_flops + 2 * f.head_forward_flops(n, classes)
        return WorkItem(phase, 1, flops, 2 * f.weight_bytes + n * f.kept_bytes)

    def through_heads(self, phase: str, n: int, classes: int) -> WorkItem:
        """Logits of *classes* more head rows, and their gradient for the features' output; no weight is touched."""
        f = self.footprint
        return WorkItem(phase, 1, 2 * f.head_forward_flops(n, classes), FLOAT_BYTES * 2 * classes * (f.F + 1))

    def update_head(self, phase: str, n: int, classes: int) -> WorkItem:
        """The gradient of *classes* more head rows, from logits that are there, and an optimizer step of them."""
        f = self.footprint
        moved = FLOAT_BYTES * classes * (f.F + 1) * (1 + self._optimizer_passes())
        return WorkItem(phase, 1, f.head_forward_flops(n, classes), moved)

    def optimize(self, classes: int) -> WorkItem:
        """One optimizer step over the features and *classes* head rows."""
        return self.optimize_values(self._trainable(classes))

    def optimize_values(self, values: int) -> WorkItem:
        """One optimizer step over so many values."""
        return WorkItem("optimize", 1, 0, self._optimizer_passes() * FLOAT_BYTES * values)

    def passes(self, phase: str, passes: int) -> WorkItem:
        """Reading or writing the feature weights *passes* times, without products."""
        return WorkItem(phase, 1, 0, passes * self.footprint.weight_bytes)

    def head_step(self, n: int, classes: int) -> WorkItem:
        """One step of the head alone, on features that are there."""
        f = self.footprint
        head = FLOAT_BYTES * classes * (f.F + 1)
        flops = f.head_forward_flops(n, classes) + f.head_backward_flops(n, classes) // 2
        return WorkItem("head", 1, flops, FLOAT_BYTES * n * f.F * 2 + head * (2 + self._optimizer_passes()))

    def stored(self, phase: str, passes: int, stored_bytes: int) -> WorkItem:
        """Writing that many bytes to storage, or reading them from it, beside *passes* over the feature weights."""
        return WorkItem(phase, 1, 0, passes * self.footprint.weight_bytes, stored_bytes)

    def batches(self, images: int) -> list[int]:
        """Sizes of the batches of one epoch, in order."""
        size = self.training.batch_size
        return [min(size, images - start) for start in range(0, images, size)]

    def training_epochs(self, phase: str, images: int, classes: int, epochs: int) -> Work:
        """Plain training: one forward, one backward and one optimizer step a batch."""
        step = [
            item
            for n in self.batches(images)
            for item in (self.forward_backward(phase, n, classes), self.optimize(classes))
        ]
        return repeat(step, epochs)

    def head_training(self, facts: VisitFacts, epochs: int | None = None) -> Work:
        """Training of the head alone, for the local epochs unless told otherwise: one pass for the features, then the
        head's steps."""
        sizes = self.batches(facts.images)
        once = [self.forward("head", n, 0) for n in sizes]
        steps = [self.head_step(n, facts.classes) for n in sizes]
        return repeat(once, 1) + repeat(steps, self.training.local_epochs if epochs is None else epochs)

    def evaluation(self, facts: VisitFacts) -> Work:
        """One forward pass of every test image of the tasks learnt so far, each under the head rows of its task."""
        return repeat([self.forward("evaluate", n, facts.classes) for n in self.batches(facts.test_images)], 1)

    def resident_bytes(self, facts: VisitFacts) -> int:
        """What every visit holds: the model that is worked on, the payload that brought it, the client's own model of
        the visit before, head rows of all tasks so far, and the images."""
        models = 2 + (facts.task_index > 0 or facts.trained_this_task)
        heads = FLOAT_BYTES * (facts.task_index + 1) * facts.classes * (self.footprint.F + 1)
        return models * self.model_bytes + heads + facts.images * self.footprint.input_bytes

    @property
    def model_bytes(self) -> int:
        """One copy of the features' weights and statistics."""
        return FLOAT_BYTES * (self.footprint.P + self.footprint.B)

    def training_bytes(self, facts: VisitFacts) -> int:
        """The most that plain training holds: resident, gradients, optimizer state, activations of one batch."""
        optimizer = self.optimizer_bytes(self._trainable(facts.classes))
        return self.resident_bytes(facts) + optimizer + self.activation_bytes(facts.images)

    def optimizer_bytes(self, values: int) -> int:
        """What there is to train so many values, besides these: their gradient and the optimizer's state."""
        return self._copies() * FLOAT_BYTES * values

    def activation_bytes(self, images: int) -> int:
        """Activations of one batch of so many images. A pass that keeps none for a backward pass holds fewer: there is
        no number for that, so it is charged these."""
        return min(self.training.batch_size, images) * self.footprint.kept_bytes

    def head_training_bytes(self, facts: VisitFacts) -> int:
        """The most that training of the head alone holds: resident, the features' output of all images, and the
        activations of a batch on the way to it, or gradients and optimizer state of the head after it."""
        outputs = FLOAT_BYTES * facts.images * self.footprint.F
        optimizer = self.optimizer_bytes(facts.classes * (self.footprint.F + 1))
        return self.resident_bytes(facts) + outputs + max(self.activation_bytes(facts.images), optimizer)

    def evaluation_bytes(self, facts: VisitFacts) -> int:
        """The most that evaluation holds: resident, and one batch of test images with its activations."""
        n = min(self.training.batch_size, facts.test_images)
        return self.resident_bytes(facts) + n * self.footprint.input_bytes + self.activation_bytes(n)

    def ending_bytes(self, facts: VisitFacts, *, trains_head: bool) -> int:
        """The most that the end of a task holds where the method does nothing more."""
        return max(self.evaluation_bytes(facts), self.head_training_bytes(facts) if trains_head else 0)

    def _copies(self) -> int:
        """Return how many values there are for each trained one besides itself: its gradient, its states."""
        return 1 + OPTIMIZER_STATES[self.training.optimizer.name] + (self._momentum() > 0)

    def _trainable(self, classes: int) -> int:
        return self.footprint.P + classes * (self.footprint.F + 1)

    def _momentum(self) -> float:
        return float(getattr(self.training.optimizer, "momentum", 0.0))

    def _optimizer_passes(self) -> int:
        return OPTIMIZER_PASSES[self.training.optimizer.name] + (MOMENTUM_PASSES if self._momentum() > 0 else 0)


def repeat(items: Iterable[WorkItem], times: int) -> Work:
    """Return the work of a list of steps done *times* times, equal steps merged."""
    log = WorkLog()
    for item in items:
        log.add(item, times)
    return log.work()


class WorkLog:
    """Counts the steps that are really done; `work()` equals the plan of the visit, in whatever order they came."""

    def __init__(self) -> None:
        self._counts: Counter[Step] = Counter()

    def add(self, item: WorkItem, times: int = 1) -> None:
        """Count one step, or so many."""
        self._counts[item.step] += item.count * times

    def work(self) -> Work:
        """Return everything counted so far."""
        return Work(
            tuple(
                WorkItem(phase, count, flops, moved_bytes, stored_bytes)
                for (phase, flops, moved_bytes, stored_bytes), count in self._counts.items()
                if count
            )
        )
