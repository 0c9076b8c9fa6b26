"""Joint training: federated averaging that may look at the images of earlier tasks again. An upper bound.

    w_G <- sum_c (n_c / n) w_c,     w_c = local_epochs of minibatch steps on  1/N sum_n CE(z_n W_t(n)', y_n),  from w_G

over all N images of the client's tasks 0 .. t, in one order; image n counts under the head rows W_t(n) of its own task,
and the rows of all tasks are trained. This is the multi-task bound that tables of continual learning set beside their
methods, as "joint training" in Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282; federated by
McMahan et al., AISTATS 2017, arXiv:1602.05629. A visit grows with the number of tasks.

Sent: the shared model, up and down. Kept: the images of all tasks, in memory. On one task it is FedAvg to the bit.

Deviations. An epoch goes over the images of all tasks, so a visit makes more steps than one of any other method: it is
a bound on accuracy, not on cost. The server weighs a client by its images of the task at hand, as it does for all
methods. With `own_model: final` the head rows of the task at hand are trained on the final features, those of earlier
tasks stay as the last visit left them. A task that recurs has its images twice and its head rows once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedavg import FedAvg
from fedknow_ray.methods.learner import Batch, DecayingOptimizer, Learner, head_pass
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import Work, WorkItem


class Joint(FedAvg):
    """FedAvg on the images of all tasks so far."""

    sees_past_data = True

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs on the images of all tasks."""
        everything = [data, *data.past]
        rule = JointRule(learner, data)
        union = replace(
            data,
            images_NHWC=np.concatenate([part.images_NHWC for part in everything]),
            labels_N=np.concatenate([part.labels_N for part in everything]),
        )
        loss = learner.train(union, self.training.local_epochs, rule)
        return Outcome(state.memory, loss, past_heads=rule.past_heads(learner))

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return FedAvg's work on the images of all tasks, and a step of the past head rows a batch."""
        costs, together, rows = self.costs, _with_past(facts), facts.task_index * facts.classes
        plan, values = super().plan_train(together), rows * (costs.footprint.F + 1)
        head_steps = [past_heads_item(costs, rows)] * len(costs.batches(together.images)) if rows else []
        heads_bytes = FLOAT_BYTES * values + costs.optimizer_bytes(values)
        work = plan.work + repeat(head_steps, self.training.local_epochs)
        return Plan(work, plan.peak_memory_bytes + heads_bytes)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return no work, and room for the images."""
        ending_bytes = self.costs.ending_bytes(facts, trains_head=self.takes_final(facts))
        return Plan(Work.none(), ending_bytes + self.kept_bytes(facts))

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of the images of all earlier tasks."""
        return sum(facts.past_images) * self.costs.footprint.input_bytes


def past_heads_item(costs: StepCosts, rows: int) -> WorkItem:
    """Return an optimizer step of so many past head rows; their gradient is in the price of the forward and backward
    pass, in which each image has the rows of one task."""
    return costs.update_head("past_heads", 0, rows)


class JointRule:
    """Mean cross entropy of a batch whose images are of several tasks, each under the head rows of its own.

    *data* is that of a visit; the images of a batch are counted on from its own through those of its `past`. The rows
    of the task at hand are the network's, those of past tasks a copy with an optimizer of its own.
    """

    def __init__(self, learner: Learner, data: TaskData) -> None:
        network = learner.network
        stacked = [torch.from_numpy(head_RF) for head_RF in data.past_heads]
        self._heads_kRF = torch.stack(stacked) if stacked else torch.empty(0, *network.head.shape)
        self._grad_kRF = torch.zeros_like(self._heads_kRF)
        self._optimizer = DecayingOptimizer(learner.training, self._heads_kRF, self._grad_kRF) if stacked else None
        # rows have one head, the network's first, also where a task recurs
        self._head_of_past = _first_of_each([data.rows, *data.past_rows])[1:]
        heads = [0, *self._head_of_past]
        self._head_of_N = np.repeat(heads, [len(part.labels_N) for part in (data, *data.past)])

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient, make a step of the past head rows, and return the loss."""
        network, n = learner.network, len(batch.y_N)
        heads, grads = [network.head, *self._heads_kRF], [network.head_grad, *self._grad_kRF]
        network.grad.zero_()
        self._grad_kRF.zero_()
        z_NF = network(batch.x_NCHW)
        dz_NF, loss, head_of_N = torch.zeros_like(z_NF), 0.0, self._head_of_N[batch.indices]
        for head in np.unique(head_of_N):
            those = torch.from_numpy(np.flatnonzero(head_of_N == head))
            part_loss, d_logits_NR = head_pass(heads[head], z_NF.detach()[those], batch.y_N[those], grads[head])
            # means over the images of one task, of which the batch has this share
            share = len(those) / n
            loss += share * part_loss
            grads[head].mul_(share)
            dz_NF[those] = d_logits_NR.mul_(share) @ heads[head][:, :-1]
        torch.autograd.backward(z_NF, dz_NF)
        learner.log.add(learner.costs.forward_backward("train", n, network.rows))
        if self._optimizer is not None:
            self._optimizer.step()
            learner.log.add(past_heads_item(learner.costs, len(self._heads_kRF) * network.rows))
        return loss

    def past_heads(self, learner: Learner) -> tuple[NDArray[np.float32], ...] | None:
        """Return the head rows (R, F + 1) of each past task as they are now; None where there is none."""
        if self._optimizer is None:
            return None
        heads = [learner.network.head, *self._heads_kRF]
        return tuple(heads[head].detach().numpy().copy() for head in self._head_of_past)


def _first_of_each(rows: Sequence[range]) -> list[int]:
    """Return, for each of these, the place of the first one that is equal to it."""
    return [rows.index(one) for one in rows]


def _with_past(facts: VisitFacts) -> VisitFacts:
    """Return the facts of a visit whose task has the images of the earlier ones too."""
    return replace(facts, images=facts.images + sum(facts.past_images))
