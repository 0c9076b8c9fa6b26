"""The pack net of FedKNOW's `authors_code` variant: a network of the client's own, of which each task owns a share.

It learns beside the federated model and never sees its weights. In task t, with the prunable weights F_t that no
earlier task owns:

    train      F_t for local_epochs - r epochs
    claim      the ceil(rho |F_t|) largest |w| of F_t for task t; the rest of F_t becomes 0
    retrain    what was claimed for r epochs

Shares are geometric, rho (1 - rho)^t of the prunable weights: 0.1, 0.09, 0.081, ... A later visit in the same task
gives the claim up and does all three again. The teacher of a past task i is made of the weights of tasks 0 to i, with
head rows of its own. Biases and norms are trained in task 0 and rest from then on, and so does every claimed weight:
after each optimizer step they are put back bit for bit, weight decay and momentum notwithstanding.

P feature weights, B batch-norm statistics (all teachers share them, and they follow the task at hand), R head rows of a
task, F features.

Mallya and Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018,
arXiv:1711.05769, as the authors of FedKNOW use it; written from a description of their code, not from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts, repeat
from fedknow_ray.methods.fedknow.extractor import prunable_P
from fedknow_ray.methods.fedknow.storage import PRUNE_PASSES
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule
from fedknow_ray.methods.method import TaskData, VisitFacts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.models.layout import TensorSlice
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.seeding import torch_stream
from fedknow_ray.simulation.work import Work, WorkItem

#: Owners of a weight that are no tasks: every teacher has what is SHARED (biases, norms), and none what is FREE.
SHARED, FREE = -1, 32_767
OWNER_BYTES = 2
#: Passes over the weights of putting frozen ones back: read both, write one.
FREEZE_PASSES = 3
#: Passes of a change of model: save the federated one, load the pack net, save it, load the other; all read and write.
SWAP_PASSES = 8


@dataclass(frozen=True, slots=True, eq=False)
class PackNet:
    """A client's pack net; a value, its tensors are never written again."""

    weights_P: Tensor
    statistics_B: Tensor
    owner_P: Tensor
    """int16 (P,): the task that owns each weight, SHARED or FREE."""
    heads_RF: tuple[Tensor, ...] = ()
    """(R, F + 1) head rows of each task, oldest first."""

    def teacher_P(self, task: int) -> Tensor:
        """Return the weights (P,) of the past model of a task: those of tasks 0 to *task*, 0 elsewhere."""
        return torch.where(self.owner_P <= task, self.weights_P, 0.0)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long a pack net trains in one visit, and which share of the free weights a task claims."""

    epochs: int
    retrain_epochs: int
    fraction: float

    @property
    def retraining(self) -> int:
        """r: `retrain_epochs`, or fewer where less than one epoch would be left before the claim."""
        return min(self.retrain_epochs, self.epochs - 1)


def unowned(layout: Sequence[TensorSlice], P: int) -> Tensor:
    """Return the owners (P,) before task 0: prunable weights are free, the others shared."""
    return torch.where(prunable_P(layout, P), FREE, SHARED).to(torch.int16)


def give_up(owner_P: Tensor, task: int) -> Tensor:
    """Return the owners without the claim of a task."""
    return torch.where(owner_P == task, FREE, owner_P).to(torch.int16)


def claim(w_P: Tensor, owner_P: Tensor, task: int, fraction: float) -> Tensor:
    """Return the owners after a task has claimed the ceil(fraction * free) largest |w| that are free, ties by lower
    index; the fraction is the decimal that it is written as."""
    free_P = owner_P == FREE
    count = math.ceil(Fraction(str(fraction)) * int(free_P.sum()))
    # a magnitude is never negative, so -1 ranks below every free weight
    order_P = w_P.abs().masked_fill_(~free_P, -1.0).argsort(descending=True, stable=True)
    claimed_P = owner_P.clone()
    claimed_P[order_P[:count]] = task
    return claimed_P


def train_pack(
    pack: PackNet | None,
    learner: Learner,
    data: TaskData,
    head_RF: Tensor,
    task: int,
    schedule: Schedule,
) -> PackNet:
    """Return the pack net after one visit's training in a task; None starts one from weights of its own.

    *head_RF* is where the task's head rows begin, if the pack net has none of this task yet. The learner's network
    holds the same model before and after. Draws come from a stream spawned from the visit's, which does not move on.
    """
    network, spawned = learner.network, learner.order.spawn(1)[0]
    learnt = 0 if pack is None else len(pack.heads_RF)
    federated_S, federated_RF = network.state(), network.head_rows()
    aside = Learner(network, learner.training, learner.costs, learner.normalisation)
    aside.begin(spawned)
    aside.log = learner.log
    with torch_stream(int(spawned.integers(2**63))):
        pack = _start(network) if pack is None else pack
        _load(pack, network, pack.heads_RF[task] if task < len(pack.heads_RF) else head_RF)
        owner_P = _train_and_claim(aside, data, give_up(pack.owner_P, task), task, schedule)
    trained = replace(
        pack,
        weights_P=network.theta[: network.P].clone(),
        statistics_B=network.buffers.clone(),
        owner_P=owner_P,
        heads_RF=(*pack.heads_RF[:task], network.head.clone()),
    )
    network.load(federated_S, federated_RF)
    learner.log.add(swap_item(learner.costs, len(head_RF), learnt, len(trained.heads_RF)))
    return trained


def plan_packing(costs: StepCosts, facts: VisitFacts, epochs: int) -> Work:
    """Return the work of `train_pack`."""
    freezing = [costs.passes("pack", FREEZE_PASSES)] * len(costs.batches(facts.images))
    swap = swap_item(costs, facts.classes, facts.task_index + facts.trained_this_task, facts.task_index + 1)
    around = [swap, costs.passes("prune", PRUNE_PASSES)]
    return (
        costs.training_epochs("pack", facts.images, facts.classes, epochs)
        + repeat(freezing, epochs)
        + Work(tuple(around))
    )


def swap_item(costs: StepCosts, classes: int, learnt_before: int, learnt_after: int) -> WorkItem:
    """Changing to the pack net and back: read from storage as the last visit left it, and written as it is now."""
    stored = pack_bytes(costs, classes, learnt_before) + pack_bytes(costs, classes, learnt_after)
    return costs.stored("pack", SWAP_PASSES, stored)


def pack_bytes(costs: StepCosts, classes: int, tasks: int) -> int:
    """Return the bytes of a pack net that has learnt so many tasks; 0 before the first, when there is none."""
    f = costs.footprint
    weights = FLOAT_BYTES * (f.P + f.B) + OWNER_BYTES * f.P
    return weights + tasks * FLOAT_BYTES * classes * (f.F + 1) if tasks else 0


def _start(network: FlatNetwork) -> PackNet:
    """Draw new weights and return them; uses up those in the network.

    Raises:
        ValueError: if a module of the network has weights and no `reset_parameters`, torch's way of drawing them anew.
    """
    for name, module in network.features.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise ValueError(f"a pack net draws its own start weights, and module {name!r} has no reset_parameters()")
    P = network.P
    return PackNet(network.theta[:P].clone(), network.buffers.clone(), unowned(network.layout, P))


def _load(pack: PackNet, network: FlatNetwork, head_RF: Tensor) -> None:
    network.theta[: network.P] = pack.weights_P
    network.buffers[:] = pack.statistics_B
    network.head[:] = head_RF


def _train_and_claim(learner: Learner, data: TaskData, owner_P: Tensor, task: int, schedule: Schedule) -> Tensor:
    """Train, claim and retrain the pack net in the network; return the owners."""
    w_P = learner.network.theta[: learner.network.P]
    shared_P = (owner_P == SHARED) if task == 0 else torch.zeros_like(owner_P, dtype=torch.bool)
    first = schedule.epochs - schedule.retraining
    learner.train(data, first, _FreezingRule((owner_P == FREE) | shared_P, w_P.clone()))
    owner_P = claim(w_P, owner_P, task, schedule.fraction)
    w_P[owner_P == FREE] = 0.0
    learner.log.add(learner.costs.passes("prune", PRUNE_PASSES))
    if schedule.retraining:
        learner.train(data, schedule.retraining, _FreezingRule((owner_P == task) | shared_P, w_P.clone()))
    return owner_P


@dataclass(frozen=True, slots=True)
class _FreezingRule:
    """Cross entropy, after whose step the weights that *moving_P* leaves out are put back to *rest_P*."""

    moving_P: Tensor
    rest_P: Tensor

    def __call__(self, learner: Learner, batch: Batch) -> float:
        loss = cross_entropy_rule(learner, batch, "pack")
        learner.after_step(partial(self._put_back, learner.network.theta[: learner.network.P]))
        learner.log.add(learner.costs.passes("pack", FREEZE_PASSES))
        return loss

    def _put_back(self, w_P: Tensor) -> None:
        w_P.copy_(torch.where(self.moving_P, w_P, self.rest_P))
