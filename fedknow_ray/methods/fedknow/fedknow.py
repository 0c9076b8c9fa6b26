"""FedKNOW: federated continual learning in which clients hold on to the weights of past tasks, never to their images.

Luopan et al., "FedKNOW: Federated Continual Learning with Signature Task Knowledge Integration at Edge", ICDE 2023,
arXiv:2212.01738. The paper and the code that its authors published are two methods, and what did best in our own
experiments is a third, so there are three variants:

    tuned         one sum of losses; all weights of the final model are kept, in 4 bits                   (restoring)
    paper         a tenth of the own model's weights, signature tasks by distance, second use             (restoring)
    authors_code  a separate pruned network, oldest tasks, a dense old model, margin 0.5                  (authors_code)

`FedKnow` is what the registry knows; it hands each call to the variant that `variant` names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic import BaseModel

from fedknow_ray.methods.fedavg import FedAvg
from fedknow_ray.methods.fedknow.authors_code import AuthorsCodeFedKnow
from fedknow_ray.methods.fedknow.restoring import RestoringFedKnow
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.method import ClientState, Method, Outcome, Plan, TaskData, VisitFacts

if TYPE_CHECKING:
    from fedknow_ray.config.model import TrainingConfig
    from fedknow_ray.methods.costs import StepCosts
    from fedknow_ray.methods.learner import Learner

VARIANTS: dict[str, type[Method]] = {
    "tuned": RestoringFedKnow,
    "paper": RestoringFedKnow,
    "authors_code": AuthorsCodeFedKnow,
}
"""The variants by the name that `variant` gives them."""


class FedKnow(Method):
    """The method that this simulator exists for, in one of its variants."""

    hyperparameters: ClassVar[type[BaseModel]] = FedKnowSettings
    memory_types: ClassVar[tuple[type, ...]] = (*RestoringFedKnow.memory_types, *AuthorsCodeFedKnow.memory_types)

    def __init__(self, hyper: BaseModel, training: TrainingConfig, costs: StepCosts) -> None:
        super().__init__(hyper, training, costs)
        self._variant = VARIANTS[cast(FedKnowSettings, hyper).variant](hyper, training, costs)

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the exact work of a training visit."""
        return self._variant.plan_train(facts)

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train the learner's network in place."""
        return self._variant.train(learner, state, data, facts)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the exact work of `finish_task`."""
        return self._variant.plan_finish(facts)

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """End a task: return what is kept of it."""
        return self._variant.finish_task(learner, state, data, facts)

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return what a client keeps besides its own model, with `facts.task_index` tasks behind it."""
        return self._variant.kept_bytes(facts)

    def stored_bytes(self, facts: VisitFacts) -> int:
        """Return what of it lies on storage."""
        return self._variant.stored_bytes(facts)

    @property
    def own_is_final(self) -> bool:
        """Whether a client's own model is the final one once a task is over."""
        return self._variant.own_is_final

    @classmethod
    def past_settings(cls, hyper: BaseModel, task_index: int, *, finished: bool) -> dict[str, Any]:
        """Return the settings that can have made a difference by then; before the first past task there are few."""
        settings = cast(FedKnowSettings, hyper)
        # the pack net is trained from the first visit on; what a subclass does when is not known here
        if settings.variant == "authors_code" or cls is not FedKnow:
            return super().past_settings(hyper, task_index, finished=finished)
        names = settings.in_force(task_index, finished=finished)
        if not names:
            return FedAvg.past_settings(FedAvg.hyperparameters(), task_index, finished=finished)
        return {"method": "fedknow", **settings.model_dump(mode="json", include=names)}

    @property
    def evicts(self) -> bool:
        """Whether a client can do without the knowledge of its oldest past tasks."""
        return self._variant.evicts

    @property
    def refines(self) -> bool:
        """Whether each client of a round makes a further visit right after aggregation."""
        return self._variant.refines

    def plan_refine(self, facts: VisitFacts) -> Plan:
        """Return the exact work of `refine`."""
        return self._variant.plan_refine(facts)

    def refine(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train the fresh aggregate further in place."""
        return self._variant.refine(learner, state, data, facts)
