"""FedWEIT: weights are shared ones under a mask for each task, and what each task adapts of its own.

    theta^i = B * sigma(m^i) + A^i            B shared, m a value an output channel; i one of the client's tasks
    loss    CE(theta^t) + lambda_1 (sum_{i<=t} |A^i|_1 + lambda_mask |m^t|_1)
            + lambda_2 sum_{i<t} 1/2 |B * sigma(m^i) + A^i - theta*^i|^2,      theta*^i = theta^i when task i was over

B, m^t, A^t, the head, and the A^i of all past tasks (*retroactively*) are trained together; gradients are by hand.
Yoon, Jeong, Lee, Yang and Hwang, "Federated Continual Learning with Weighted Inter-client Transfer", ICML 2021,
arXiv:2003.03196; the weights of the loss are those of the published code (github.com/wyjeong/FedWeIT).

Kept of each past task: A^i, theta*^i (P each), m^i, batch-norm statistics; and the client's own B. Sent up: the rows of
B (output channels) whose |m| is largest, of each tensor all but a `client_sparsity` of them, a bit a row, and the
statistics; down: B, whole. A client's own model for task i is B * sigma(m^i) + A^i with its last B (`evaluation:
restored`), or with `current` theta^t for all, which is what the code published with FedKNOW scores.

**No knowledge base** (`knowledge_base: "off"`, the one value): the paper adds sum_j alpha_j A_j over what other clients
sent of A in the task before; nothing of A is sent here, so bytes are fewer and there is no transfer between clients but
by B. Other deviations: a row that is not sent counts as unchanged in the mean (the published server leaves out zeros);
the largest masks are found in each tensor, and so many that the update's length is fixed; biases and norms are masked
too, each value by itself; optimizer, learning rate and weight decay are the run's, and decay all that is trained. The
sums over weights are no means, so lambda_2 = 100 wants Adam: with SGD a rate of 0.02 is too much. The global model is B
under each client's head, which no client uses as it is. A client that was never sampled in a task keeps the final B
for it, as m = 0 and A = B / 2. A task begins so too, at theta = B; with a third, as we read the published code, each
layer begins at 5/6 of B, and a deep network then learns little (configs/quickstart.yaml: accuracy 0.69, against 0.85).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.decomposition import Decomposed, LossWeights, TaskParts, composed, keep_rows
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import ClientState, Hyperparameters, Method, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.models.layout import TensorSlice
from fedknow_ray.simulation.work import WorkItem
from fedknow_ray.transport.rows import ChangedRows

if TYPE_CHECKING:
    from fedknow_ray.config.model import CommonConfig
    from fedknow_ray.config.yaml import KeyPath
    from fedknow_ray.transport.update_layout import UpdateLayout

#: Passes over the weights: theta is made of B and A; a step reads its gradient, B and A, and writes those of B and A;
#: each past task reads B, A and theta*, writes A's gradient and adds to B's; rows are left out of a copy of B.
COMPOSE_PASSES, STEP_PASSES, PAST_PASSES, CHOOSE_PASSES = 3, 5, 6, 2
#: theta is copied as theta*, A as what is kept.
KEEP_PASSES = 4


class FedWeitSettings(Hyperparameters):
    """What there is to choose in FedWEIT; weights in the loss are without unit."""

    lambda_1: float = Field(1e-3, ge=0, le=1e6, allow_inf_nan=False)
    """Weight of the sizes of all A: of the sum of |A_j|."""
    lambda_2: float = Field(100.0, ge=0, le=1e6, allow_inf_nan=False)
    """Weight of how far past tasks have gone from what they were."""
    lambda_mask: float = Field(0.0, ge=0, le=1e6, allow_inf_nan=False)
    """Weight of the sizes of the present mask, times `lambda_1`."""
    client_sparsity: float = Field(0.3, ge=0, lt=1)
    """Share of each tensor's rows, those of the smallest masks, that an update leaves out."""
    adaptive_start: float = Field(0.5, ge=0, le=1)
    """A at a task's beginning, in parts of B; m is 0 then, so 0.5 begins at B itself."""
    knowledge_base: Literal["off"] = "off"
    """Whether other clients' A take part."""
    evaluation: Literal["restored", "current"] = "restored"
    """What the own model is for a past task."""


@dataclass(frozen=True, slots=True, eq=False)
class FedWeitMemory:
    """The client's own B (P,), its past tasks, and the present one, number *current_task*, once it is trained."""

    base_P: Tensor
    past: tuple[TaskParts, ...] = ()
    current: TaskParts | None = None
    current_task: int = -1


class FedWeit(Method):
    """Decomposed weights, without the knowledge base."""

    hyperparameters: ClassVar[type[BaseModel]] = FedWeitSettings
    memory_types: ClassVar[tuple[type, ...]] = (FedWeitMemory, TaskParts)
    shortens_updates = True

    @property
    def settings(self) -> FedWeitSettings:
        """The hyper-parameters, typed."""
        return cast(FedWeitSettings, self.hyper)

    @classmethod
    def conflicts(cls, hyper: BaseModel, config: CommonConfig) -> Iterator[tuple[KeyPath, str]]:
        """Refuse a second way to shorten updates."""
        chosen = config.compression.name
        if chosen != "none":
            yield (
                ("compression", "name"),
                f"{chosen!r} does not go with fedweit, which leaves out rows by a rule of its own "
                "(method.client_sparsity); leave compression out, or choose another method",
            )

    def compressor(self, pieces: Sequence[TensorSlice], layout: UpdateLayout) -> ChangedRows:
        """Return what sends rows of B."""
        return ChangedRows(layout, [piece.shape[0] for piece in pieces], self.settings.client_sparsity)

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the work of `train`: a step is over B, m, the head, and A of each task."""
        costs, batches = self.costs, self.costs.batches(facts.images)
        values = self._trained_values(facts)
        steps = [
            item for n in batches for item in (costs.forward_backward("train", n, facts.classes), *self._step(facts))
        ]
        once = [costs.passes("compose", COMPOSE_PASSES), costs.passes("choose rows", CHOOSE_PASSES)]
        # beside the network, which holds theta and its gradient
        more_bytes = (
            FLOAT_BYTES * values + costs.optimizer_bytes(values) - costs.optimizer_bytes(self._network_values(facts))
        )
        more_bytes += FLOAT_BYTES * self._network_values(facts) + self._held_bytes(facts)
        work = repeat(steps, self.training.local_epochs) + repeat(once, 1)
        return Plan(work, costs.training_bytes(facts) + more_bytes)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs; the network holds B as it came."""
        network, memory = learner.network, _memory(state)
        received_P = network.theta[: network.P].clone()
        current = memory.current if memory is not None and memory.current_task == facts.task_index else None
        if current is None:
            start_P = self.settings.adaptive_start * received_P
            current = TaskParts(start_P, torch.zeros(self.costs.footprint.units), network.buffers.clone())
        past = () if memory is None else memory.past
        model = Decomposed(learner, received_P, current, past, self._weights())
        learner.log.add(self.costs.passes("compose", COMPOSE_PASSES))

        def step() -> None:
            model.step()
            for item in self._step(facts):
                learner.log.add(item)

        loss = learner.train(data, self.training.local_epochs, model.fill_gradient, step)
        learner.log.add(self.costs.passes("choose rows", CHOOSE_PASSES))
        adapted = zip(past, model.past_adaptive, strict=True)
        past = tuple(replace(task, adaptive_P=adaptive_P.clone()) for task, adaptive_P in adapted)
        memory = FedWeitMemory(model.base_P.clone(), past, model.parts(), facts.task_index)
        sent_P = keep_rows(network.layout, model.base_P, received_P, model.mask_M, self.settings.client_sparsity)
        return Outcome(memory, loss, sent_S=_state(sent_P, network.buffers))

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the work of keeping the task, and of making each task's weights for the evaluation."""
        return Plan(repeat(self._finish(facts), 1), self.costs.resident_bytes(facts) + self._held_bytes(facts))

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Keep A, m and theta* of the task."""
        network, memory = learner.network, _memory(state)
        theta_P = network.theta[: network.P].clone()
        past = () if memory is None else memory.past
        if facts.trained_this_task and memory is not None and memory.current is not None:
            base_P, parts = memory.base_P, replace(memory.current, target_P=theta_P)
        else:
            mask_M = torch.zeros(self.costs.footprint.units)
            base_P, parts = theta_P, TaskParts(theta_P / 2, mask_M, network.buffers.clone(), theta_P)
        for item in self._finish(facts):
            learner.log.add(item)
        return Outcome(FedWeitMemory(base_P, (*past, parts)), None)

    def features_of_task(self, learner: Learner, state: ClientState, task_index: int) -> NDArray[np.float32] | None:
        """Return B * sigma(m) + A of a past task, with the client's own B."""
        memory = _memory(state)
        if self.settings.evaluation == "current" or memory is None or task_index >= len(memory.past):
            return None
        parts = memory.past[task_index]
        return _state(composed(memory.base_P, parts, learner.network.layout), parts.statistics_B)

    def kept_bytes(self, facts: VisitFacts) -> int:
        """A, theta*, m and statistics of each past task, and the client's own B once there is one."""
        f, t = self.costs.footprint, facts.task_index
        return FLOAT_BYTES * (t * (2 * f.P + f.units + f.B) + (f.P if t else 0))

    def _weights(self) -> LossWeights:
        return LossWeights(self.settings.lambda_1, self.settings.lambda_2, self.settings.lambda_mask)

    def _held_bytes(self, facts: VisitFacts) -> int:
        """What is kept, and A, m and statistics of the present task; B in the first task too."""
        f = self.costs.footprint
        return self.kept_bytes(facts) + FLOAT_BYTES * (f.P * (1 if facts.task_index else 2) + f.units + f.B)

    def _network_values(self, facts: VisitFacts) -> int:
        return self.costs.footprint.P + facts.classes * (self.costs.footprint.F + 1)

    def _trained_values(self, facts: VisitFacts) -> int:
        """B and the head, m, and A of every task so far."""
        f = self.costs.footprint
        return self._network_values(facts) + f.units + (facts.task_index + 1) * f.P

    def _step(self, facts: VisitFacts) -> list[WorkItem]:
        passes = COMPOSE_PASSES + STEP_PASSES + PAST_PASSES * facts.task_index
        return [self.costs.optimize_values(self._trained_values(facts)), self.costs.passes("decompose", passes)]

    def _finish(self, facts: VisitFacts) -> list[WorkItem]:
        restored = facts.task_index + 1 if self.settings.evaluation == "restored" else 0
        return [self.costs.passes("keep", KEEP_PASSES), self.costs.passes("restore", COMPOSE_PASSES * restored)]


def _memory(state: ClientState) -> FedWeitMemory | None:
    return cast("FedWeitMemory | None", state.memory)


def _state(theta_P: Tensor, statistics_B: Tensor) -> NDArray[np.float32]:
    return np.concatenate([theta_P.numpy(), statistics_B.numpy()])
