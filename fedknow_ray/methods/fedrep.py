"""FedRep: clients share a body and have heads of their own; each visit trains first the head, then the body.

    head_epochs:              h_c <- h_c - eta grad_h f_c(h_c, w_G)       the body w_G frozen
    the other local epochs:   w_c <- w_c - eta grad_w f_c(h_c, w_c)       the head frozen, from w_G
    server:                   w_G <- sum_c (n_c / n) w_c

Collins, Hassani, Mokhtari and Shakkottai, "Exploiting Shared Representations for Personalized Federated Learning",
ICML 2021, arXiv:2102.07078. The body is the features, the head the client's head rows.

Sent: the features, up and down, and never the head: `model.head: global` is refused. Kept: nothing of past tasks.

Deviations. The head is one a task: the head epochs train the rows of the task at hand, and rows of past tasks stay as
they are. They run on features as evaluation sees them, without dropout and with stored statistics, which are computed
once a visit since the body does not move; the paper has networks without either. Each part has a fresh optimizer. As
with every method here, what a client is scored with is the model of its last visit, whose body is newer than its head;
`own_model: final` is the paper's: the last aggregate, with the head trained on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import BaseModel, Field

from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.fedavg import FedAvg, FedAvgSettings
from fedknow_ray.methods.learner import Learner, cross_entropy_rule
from fedknow_ray.methods.method import ClientState, Outcome, Plan, TaskData, VisitFacts

if TYPE_CHECKING:
    from fedknow_ray.config.model import CommonConfig, TrainingConfig
    from fedknow_ray.config.yaml import KeyPath


class FedRepSettings(FedAvgSettings):
    """How the local epochs are shared out."""

    head_epochs: int | None = Field(None, ge=1)
    """Epochs of the head, the others are of the body; None: half of `training.local_epochs`, rounded down, at least
    1."""

    def parts(self, training: TrainingConfig) -> tuple[int, int]:
        """Return the epochs of the head and of the body."""
        head = self.head_epochs or max(1, training.local_epochs // 2)
        return head, max(0, training.local_epochs - head)


class FedRep(FedAvg):
    """FedAvg of the body, whose visits train the head first."""

    hyperparameters: ClassVar[type[BaseModel]] = FedRepSettings

    @classmethod
    def conflicts(cls, hyper: BaseModel, config: CommonConfig) -> Iterator[tuple[KeyPath, str]]:
        """Refuse a head that is not the client's own, and a division that leaves no epoch for the body."""
        if config.model.head != "local":
            yield (
                ("model", "head"),
                f"fedrep gives each client a head of its own and averages the features alone; {config.model.head!r} "
                "would average the head too: set it to local, or use fedavg",
            )
        settings = cast(FedRepSettings, hyper)
        head, body = settings.parts(config.training)
        if body:
            return
        if settings.head_epochs is None:
            yield ("training", "local_epochs"), "fedrep needs 2 or more: one epoch for the head, one for the body"
        else:
            told = f"{head} leaves no epoch for the body, since training.local_epochs is {config.training.local_epochs}"
            yield ("method", "head_epochs"), f"{told}; raise that to {head + 1} or more, or lower this"

    @property
    def _parts(self) -> tuple[int, int]:
        return cast(FedRepSettings, self.hyper).parts(self.training)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train the head on the features that came, then the features under that head."""
        head, body = self._parts
        losses = [head * learner.train_head(data, head)]
        learner.freeze_head()
        if body:
            losses.append(body * learner.train(data, body, cross_entropy_rule))
        return Outcome(state.memory, sum(losses) / (head + body))

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the head's training, and FedAvg's steps without the optimizer's for the head."""
        costs, (head, body) = self.costs, self._parts
        steps = [
            item
            for n in costs.batches(facts.images)
            for item in (costs.forward_backward("train", n, facts.classes), costs.optimize(0))
        ]
        work = costs.head_training(facts, head) + repeat(steps, body)
        return Plan(work, max(costs.head_training_bytes(facts), costs.training_bytes(facts)))
