"""FedProx: FedAvg whose clients are held near the model that they start from.

    loss_c(w) + mu / 2 |w - w_G|^2,     so the gradient of each step gains mu (w - w_G)

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv:1812.06127. w_G is the broadcast of the
visit. Keeps nothing of past tasks, and sends the model. Deviations: the term is over the features, which are what is
shared by default, and head rows are left free with a global head too; every client does all of its local epochs, where
the paper lets slow ones do fewer.

P feature weights.
"""

from __future__ import annotations

from typing import ClassVar, cast

from pydantic import BaseModel, Field

from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.fedavg import FedAvg, FedAvgSettings
from fedknow_ray.methods.learner import Batch, Learner, cross_entropy_rule
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts

#: Passes over the weights, each step: read w, w_G and the gradient, write the gradient.
PASSES = 4


class FedProxSettings(FedAvgSettings):
    """What there is to choose in FedProx."""

    mu: float = Field(0.1, ge=0, allow_inf_nan=False)
    """Weight of the proximal term; 0 is FedAvg."""


class FedProx(FedAvg):
    """FedAvg with a proximal term in every step."""

    hyperparameters: ClassVar[type[BaseModel]] = FedProxSettings

    @property
    def settings(self) -> FedProxSettings:
        """The hyper-parameters."""
        return cast(FedProxSettings, self.hyper)

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return FedAvg's work and the passes of the term; memory for w_G and for w - w_G."""
        plan = super().plan_train(facts)
        if not self.settings.mu:
            return plan
        steps = [self.costs.passes("proximal", PASSES) for _ in self.costs.batches(facts.images)]
        memory_bytes = plan.peak_memory_bytes + 2 * self.costs.footprint.weight_bytes
        return Plan(plan.work + repeat(steps, self.training.local_epochs), memory_bytes)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs; the network holds the broadcast when this is called."""
        mu = self.settings.mu
        if not mu:
            return super().train(learner, state, data, facts)
        P = learner.network.P
        start_P = learner.network.theta[:P].clone()

        def rule(learner: Learner, batch: Batch) -> float:
            loss = cross_entropy_rule(learner, batch)
            learner.network.grad[:P].add_(learner.network.theta[:P] - start_P, alpha=mu)
            learner.log.add(learner.costs.passes("proximal", PASSES))
            return loss

        return Outcome(state.memory, learner.train(data, self.training.local_epochs, rule))
