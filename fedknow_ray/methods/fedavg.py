"""FedAvg: every client trains the shared model on its own data, the server takes the mean weighted by samples.

    w_G <- sum_c (n_c / n) w_c,     w_c = local_epochs of minibatch steps on cross entropy, from w_G

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
arXiv:1602.05629. With `model.head: local` only the features are shared, which others call FedPer (Arivazhagan et al.,
2019, arXiv:1912.00818). Keeps nothing of past tasks. The optimizer is fresh in every visit.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel

from fedknow_ray.methods.learner import Learner, cross_entropy_rule
from fedknow_ray.methods.method import (
    ClientState,
    Hyperparameters,
    Method,
    Outcome,
    OwnModel,
    Plan,
    TaskData,
    VisitFacts,
)


class FedAvgSettings(Hyperparameters):
    """What there is to choose in federated averaging."""

    own_model: OwnModel = "last_visit"
    """What a client's own model is after a task: that of its last visit, or the final features with its head trained on
    them."""


class FedAvg(Method):
    """Plain local training; aggregation is the default weighted mean."""

    hyperparameters: ClassVar[type[BaseModel]] = FedAvgSettings
    #: Whether the rounds of the first task are FedAvg's to the bit, whatever its settings. Not inherited: what a
    #: subclass changes there is not known here.
    begins_as_fedavg: ClassVar[bool] = False

    @property
    def own_is_final(self) -> bool:
        """What `own_model` says; False for a subclass whose settings have no such key."""
        return isinstance(self.hyper, FedAvgSettings) and self.hyper.own_model == "final"

    @classmethod
    def past_settings(cls, hyper: BaseModel, task_index: int, *, finished: bool) -> dict[str, Any]:
        """Return the settings that can have made a difference by then; `own_model` has not before the end of a task."""
        if vars(cls).get("begins_as_fedavg") and task_index == 0 and not finished:
            return FedAvg.past_settings(FedAvgSettings(), task_index, finished=finished)
        settings = super().past_settings(hyper, task_index, finished=finished)
        if task_index == 0 and not finished:
            settings.pop("own_model", None)
        return settings

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the work of the local epochs."""
        work = self.costs.training_epochs("train", facts.images, facts.classes, self.training.local_epochs)
        return Plan(work, self.costs.training_bytes(facts))

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs."""
        return Outcome(state.memory, learner.train(data, self.training.local_epochs, cross_entropy_rule))
