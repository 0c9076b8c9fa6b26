"""FedKNOW's second use, against negative transfer: the client's own model before aggregation sets one constraint.

Training starts at the aggregate w; the client's own model of the round before is w_c.

    gradient      g' = integrate(g; g_b),       g_b = d CE / d w at w_c, on the same batch and the same dropout mask
    displacement  g' = integrate(g; w_G - w_c), w_G the aggregate as it came: no step leads away from the own model

The first is the paper's, the second needs no further pass. Both last for one epoch and are of the task at hand alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.past_tasks import backward_into
from fedknow_ray.methods.fedknow.rules import Tally, integrate_into, integration_work
from fedknow_ray.methods.learner import Batch, Learner, head_pass
from fedknow_ray.models.network import FlatNetwork
from fedknow_ray.seeding import torch_mark
from fedknow_ray.simulation.work import WorkItem

#: Passes over the weights that the displacement takes, once a visit: both models are read, and it is written.
DISPLACEMENT_PASSES = 3


def displacement_item(costs: StepCosts) -> WorkItem:
    """Return the work of the displacement, made once a visit."""
    return costs.passes("second_use", DISPLACEMENT_PASSES)


def second_use_items(costs: StepCosts, n: int, classes: int, *, displacement: bool) -> list[WorkItem]:
    """Return what a step in second use adds to a plain one."""
    own = [] if displacement else [costs.forward_backward("second_use", n, classes)]
    return [*own, integration_work(costs, 1)]


@dataclass(slots=True)
class SecondUseRule:
    """Integrates the batch's gradient with the constraint of the client's own model.

    *own_P*, *own_B*, *own_head_RF*: that model. Norms of the constraint and its cosines with g are kept for the notes;
    *tally* counts its steps by themselves, for they are checked against no past task.
    """

    own_P: Tensor
    own_B: Tensor
    own_head_RF: Tensor
    margin: float
    displacement: bool
    tally: Tally = field(default_factory=Tally)
    norms: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    _buffer: Tensor | None = None
    _own: dict[str, Tensor] | None = None

    def __call__(self, learner: Learner, batch: Batch) -> float:
        """Fill the learner's gradient with g'."""
        network, n = learner.network, len(batch.y_N)
        if self._buffer is None:
            self._buffer = self._start(learner)
        repeat_draws = torch_mark()
        z_NF = network(batch.x_NCHW)
        loss, d_logits_NR = head_pass(network.head, z_NF, batch.y_N, network.head_grad)
        backward_into(network, z_NF, d_logits_NR @ network.head[:, :-1], self._buffer[0])
        learner.log.add(learner.costs.forward_backward("train", n, network.rows))
        if not self.displacement:
            repeat_draws()
            self._own_gradient(network, batch, self._buffer[1])
        for item in second_use_items(learner.costs, n, network.rows, displacement=self.displacement):
            learner.log.add(item)
        self._note_angle(self._buffer)
        integrate_into(learner, self._buffer, self.margin, self.tally)
        return loss

    def notes(self) -> dict[str, float]:
        """Return the counts of the steps, the mean norm of the constraint and, where there is one, its mean cosine
        with g."""
        counts = {
            "second_use_steps": float(self.tally.integrated_steps),
            "second_use_violated_steps": float(self.tally.violated_steps),
            "second_use_violated_after_steps": float(self.tally.violated_after_steps),
        }
        angles = {"own_gradient_norm": fmean(self.norms)}
        return {**counts, **angles, **({"own_gradient_cosine": fmean(self.cosines)} if self.cosines else {})}

    def _start(self, learner: Learner) -> Tensor:
        """Return the buffer (2, P) of the gradient and the constraint; the displacement is there from the start."""
        network = learner.network
        buffer = torch.empty(2, network.P)
        if self.displacement:
            torch.sub(network.theta[: network.P], self.own_P, out=buffer[1])
            learner.log.add(displacement_item(learner.costs))
        return buffer

    def _own_gradient(self, network: FlatNetwork, batch: Batch, out_P: Tensor) -> None:
        if self._own is None:
            self._own = {name: t.requires_grad_() for name, t in network.as_tensors(self.own_P).items()}
        z_NF = network.call_with(self._own, self.own_B, batch.x_NCHW)
        unused = torch.empty_like(self.own_head_RF)
        _, d_logits_NR = head_pass(self.own_head_RF, z_NF, batch.y_N, unused)
        gradients = torch.autograd.grad(z_NF, list(self._own.values()), d_logits_NR @ self.own_head_RF[:, :-1])
        network.write_gradients(gradients, out_P)

    def _note_angle(self, G_2P: Tensor) -> None:
        norm, norm_b = float(G_2P[0].norm()), float(G_2P[1].norm())
        self.norms.append(norm_b)
        if norm and norm_b:
            self.cosines.append(float(G_2P[0] @ G_2P[1]) / (norm * norm_b))
