"""Which past tasks take part in learning the present one: the signature tasks, chosen at a client's first visit in it.

Where there are no more past tasks than `signature_tasks`, all of them. Else by the rule `selection` (signature); where
that compares gradients, they are those of one batch, the first images of the task, at the model that the visit starts
from and in evaluation mode:

    g = d CE / d w,     g_i = d distillation(z W_i', labels of task i) / d w      for each of the t past tasks

so that only the k chosen tasks label all of the images and are heard in each step. A task then costs t forward and
backward passes of one batch more, and k times what a signature task costs: flat in t but for the batch.

N images of the batch, R head rows of a task, F features, P feature weights.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedknow.extractor import Knowledge
from fedknow_ray.methods.fedknow.past_tasks import backward_into, logit_gradient
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.signature import choose_without_gradients, distance, farthest, measures_gradients
from fedknow_ray.methods.fedknow.storage import read_item
from fedknow_ray.methods.fedknow.teaching import labels_of
from fedknow_ray.methods.learner import Learner, head_pass
from fedknow_ray.methods.method import TaskData, VisitFacts
from fedknow_ray.simulation.work import Work

#: Passes over the weights that one distance takes: it reads two gradients.
SELECT_PASSES = 2
#: Vectors of all weights that measuring holds at once: the gradient, a restored one, the past model.
MEASURING_ROWS = 3


def choose_tasks(
    learner: Learner, knowledge: tuple[Knowledge, ...], data: TaskData, settings: FedKnowSettings
) -> tuple[int, ...]:
    """Return which of the tasks that *knowledge* is of, the client's newest ones, are signature tasks: places in it,
    ascending. The learner's network holds the visit's start model."""
    t, k, name = len(knowledge), settings.signature_tasks, settings.selection
    if not measures_gradients(name, t, k):
        return choose_without_gradients(name, t, k, learner.order)
    n = learner.costs.batches(len(data.labels_N))[0]
    batch = replace(data, images_NHWC=data.images_NHWC[:n], labels_N=data.labels_N[:n])
    return farthest(_distances(learner, knowledge, batch, settings), k)


def plan_choice(costs: StepCosts, facts: VisitFacts, settings: FedKnowSettings) -> Work:
    """Return the work of `choose_tasks`."""
    if not measures_gradients(settings.selection, facts.remembered_tasks, settings.signature_tasks):
        return Work.none()
    n = costs.batches(facts.images)[0]
    each = [
        read_item(costs, facts.classes, settings),
        costs.forward("teach", n, facts.classes),
        costs.backward("select", n, facts.classes),
        costs.passes("select", SELECT_PASSES),
    ]
    return repeat([costs.forward_backward("select", n, facts.classes)], 1) + repeat(each, facts.remembered_tasks)


def _distances(
    learner: Learner, knowledge: tuple[Knowledge, ...], batch: TaskData, settings: FedKnowSettings
) -> list[float]:
    """Return how unlike g each task's restored gradient is; all are restored into one spare row, one by one."""
    network, costs, n = learner.network, learner.costs, len(batch.labels_N)
    labels = [labels_of(learner, one, batch, settings) for one in knowledge]
    network.features.eval()
    z_NF = network(learner.normalisation(batch.images_NHWC).permute(0, 3, 1, 2))
    _, d_logits_NR = head_pass(
        network.head, z_NF, torch.from_numpy(batch.labels_N), torch.empty_like(network.head_grad)
    )
    g_P, spare_P = torch.empty(2, network.P)
    backward_into(network, z_NF, d_logits_NR @ network.head[:, :-1], g_P)
    learner.log.add(costs.forward_backward("select", n, network.rows))
    distances = []
    heads = batch.past_heads[len(batch.past_heads) - len(knowledge) :]
    for labels_NR, head in zip(labels, heads, strict=True):
        backward_into(network, z_NF, _pull(z_NF, torch.tensor(head), labels_NR, settings), spare_P)
        distances.append(distance(settings.selection, g_P, spare_P))
        learner.log.add(costs.backward("select", n, len(head)))
        learner.log.add(costs.passes("select", SELECT_PASSES))
    return distances


def _pull(z_NF: Tensor, head_RF: Tensor, labels_NR: Tensor, settings: FedKnowSettings) -> Tensor:
    with torch.no_grad():
        return logit_gradient(z_NF, head_RF, labels_NR, settings) @ head_RF[:, :-1]
