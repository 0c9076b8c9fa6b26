"""Learning without forgetting on each client, with federated averaging.

    loss(w) - lambda / N sum_i sum_n sum_c p_inc log softmax(z_i(x_n) / T)_c,     p_in = softmax(y_i(x_n) / T)

Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282. Before a client learns a task, its own model
says of the task's images what they are to each past task i (y_i, logits of that task's head rows); while it learns, the
features must go on saying so through the same rows. One pass over its images a task, since images are not augmented.

Keeps these labels while the task is learnt, t N R floats, and nothing once it is over: the teacher is the client's own
model, which it has anyway. Sends the model. As in the paper T is 2, and there is no factor T^2. Deviations: past head
rows rest, where the paper trains them too; its first epochs on the new head rows alone are left out, and so is its
weight decay; the student starts from the broadcast, and the teacher is the client's own model.

N images, R head rows of a task, F features, t past tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedavg import FedAvg, FedAvgSettings
from fedknow_ray.methods.fedknow.restorer import distillation_logit_gradient, soft_labels
from fedknow_ray.methods.learner import Batch, GradientRule, Learner, head_pass
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import Work, WorkItem


class LwfSettings(FedAvgSettings):
    """What there is to choose in learning without forgetting."""

    strength: float = Field(1.0, ge=0, allow_inf_nan=False)
    """lambda, weight of each past task's loss beside 1 of the task at hand; 0 is FedAvg."""
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False)
    """T, softening of the labels and of what they are compared with."""


@dataclass(frozen=True, slots=True)
class PastLabels:
    """What a client's model has said of the images of the task at hand: *labels_tNR* (t, N, R), oldest task first."""

    labels_tNR: Tensor


class Lwf(FedAvg):
    """FedAvg with a distillation loss for each past task."""

    hyperparameters: ClassVar[type[BaseModel]] = LwfSettings
    memory_types: ClassVar[tuple[type, ...]] = (PastLabels,)

    @property
    def settings(self) -> LwfSettings:
        """The hyper-parameters."""
        return cast(LwfSettings, self.hyper)

    @classmethod
    def past_settings(cls, hyper: BaseModel, task_index: int, *, finished: bool) -> dict[str, Any]:
        """Return the settings that can have made a difference by then: FedAvg's own in the first task."""
        if cls is Lwf and task_index == 0:
            own_model = cast(LwfSettings, hyper).own_model
            return FedAvg.past_settings(FedAvgSettings(own_model=own_model), 0, finished=finished)
        return super().past_settings(hyper, task_index, finished=finished)

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return FedAvg's work, that of the past head rows in every step, and the labelling once a task."""
        plan = super().plan_train(facts)
        if not self._distils(facts):
            return plan
        rows = facts.task_index * facts.classes
        steps = [self.costs.through_heads("distil", n, rows) for n in self.costs.batches(facts.images)]
        work = plan.work + repeat(steps, self.training.local_epochs)
        if not facts.trained_this_task:
            work += plan_labelling(self.costs, facts)
        return Plan(work, plan.peak_memory_bytes + self.kept_bytes(facts))

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Label the images at the first visit in a task, and train for the local epochs."""
        if not self._distils(facts):
            return super().train(learner, state, data, facts)
        heads_tRF = torch.stack([torch.tensor(head_RF) for head_RF in data.past_heads])
        memory = state.memory
        if not (facts.trained_this_task and isinstance(memory, PastLabels)):
            memory = PastLabels(self._label(learner, state, data))
        rule = distilling_rule(memory.labels_tNR, heads_tRF, self.settings)
        return Outcome(memory, learner.train(data, self.training.local_epochs, rule))

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return no work; the labels are there until the task is over."""
        plan = super().plan_finish(facts)
        resting = max(plan.peak_memory_bytes, self.costs.evaluation_bytes(facts))
        return Plan(plan.work, resting + self.kept_bytes(facts))

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Forget the labels."""
        return Outcome(None, None)

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of the labels of the task at hand: one number for each image and past head row."""
        return FLOAT_BYTES * facts.task_index * facts.images * facts.classes if self._distils(facts) else 0

    def _distils(self, facts: VisitFacts) -> bool:
        return self.settings.strength > 0 and facts.task_index > 0

    def _label(self, learner: Learner, state: ClientState, data: TaskData) -> Tensor:
        """Return what the client's own model says; a client without one takes what it has downloaded."""
        network = learner.network
        own_S = torch.tensor(network.state() if state.own_S is None else state.own_S)
        weights, buffers_B = network.as_tensors(own_S[: network.P]), own_S[network.P :]
        heads = [torch.tensor(state.head_CF[rows.start : rows.stop]) for rows in data.past_rows]
        head_CF = torch.cat(heads)

        def model(x_NCHW: Tensor) -> Tensor:
            z_NF = network.call_with(weights, buffers_B, x_NCHW)
            return torch.addmm(head_CF[:, -1], z_NF, head_CF[:, :-1].T)

        logits_NC = learner.forward_batches(data.images_NHWC, "teach", len(head_CF), model)
        logits_tNR = logits_NC.view(len(logits_NC), len(heads), -1).transpose(0, 1)
        return soft_labels(logits_tNR, self.settings.temperature).contiguous()


def plan_labelling(costs: StepCosts, facts: VisitFacts) -> Work:
    """Return the work of one pass over all images, under the head rows of all past tasks."""
    rows = facts.task_index * facts.classes
    items: list[WorkItem] = [costs.forward("teach", n, rows) for n in costs.batches(facts.images)]
    return repeat(items, 1)


def distilling_rule(labels_tNR: Tensor, heads_tRF: Tensor, settings: LwfSettings) -> GradientRule:
    """Return the gradient of cross entropy and of the past tasks' losses, in one backward pass.

    *labels_tNR* (t, N, R) of all images of the task, *heads_tRF* (t, R, F + 1) head rows, which rest.
    """
    weight_tRF, bias_t1R = heads_tRF[:, :, :-1], heads_tRF[:, None, :, -1]

    def rule(learner: Learner, batch: Batch) -> float:
        network, n = learner.network, len(batch.y_N)
        network.grad.zero_()
        z_NF = network(batch.x_NCHW)
        loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
        dz_NF = d_logits_NR @ network.head[:, :-1]
        learner.log.add(learner.costs.forward_backward("train", n, network.rows))
        with torch.no_grad():
            logits_tNR = z_NF @ weight_tRF.transpose(1, 2) + bias_t1R
            said_tNR = labels_tNR[:, torch.from_numpy(batch.indices)]
            pushed_tNR = distillation_logit_gradient(logits_tNR, said_tNR, settings.temperature)
            dz_NF = dz_NF.add_((pushed_tNR @ weight_tRF).sum(0), alpha=settings.strength)
        learner.log.add(learner.costs.through_heads("distil", n, len(heads_tRF) * network.rows))
        torch.autograd.backward(z_NF, dz_NF)
        return loss

    return rule
