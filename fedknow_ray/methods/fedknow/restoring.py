"""FedKNOW: clients extract, restore and integrate the knowledge of signature tasks; `variant: paper` and `tuned`.

Luopan et al., "FedKNOW: Federated Continual Learning with Signature Task Knowledge Integration at Edge", ICDE 2023,
arXiv:2212.01738. A visit of a client with t past tasks:

    1. the choice of k signature tasks, and labels of its images by them, once a task   (choice, teaching)
    2. one epoch in which its own model before aggregation constrains the step           (second_use)
    3. the remaining epochs together with the signature tasks                            (past_tasks)

At the end of a task it prunes a copy of its own model, trains the kept weights again and stores them (extractor). How
the task at hand and the past ones are brought together is the setting `integration`. The paper's takes the closest step
to the gradient g that no past gradient g_i speaks against (rules, integrator):

    min 1/2 |g - g'|^2   s.t.  <g', g_i> >= 0  for each signature task i

`variant: tuned` learns all of it at once, as one sum of losses (summing): docs/decisions/0007 has why. Its other
settings differ as well; set alike, the two variants are the same to the bit.

Sent: the shared model, up and down. Kept: the knowledge of each task and labels. Without past tasks and second use it
is FedAvg to the bit. What is implemented where the paper is silent or disagrees with the authors' code:
docs/decisions/0003.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.fedknow.extractor import Knowledge, kept_share_per_layer, restore_mask
from fedknow_ray.methods.fedknow.knowledge import (
    FedKnowMemory,
    extract,
    extraction_bytes,
    hear_past_tasks,
    hearing_bytes,
    hears,
    plan_extraction,
    plan_hearing,
)
from fedknow_ray.methods.fedknow.past_tasks import PastTasks
from fedknow_ray.methods.fedknow.rules import ProjectionRule, Tally, projection_items
from fedknow_ray.methods.fedknow.second_use import SecondUseRule, displacement_item, second_use_items
from fedknow_ray.methods.fedknow.settings import SUMMING, FedKnowSettings
from fedknow_ray.methods.fedknow.storage import knowledge_bytes
from fedknow_ray.methods.fedknow.summing import SummingRule, summing_items
from fedknow_ray.methods.learner import GradientRule, Learner, cross_entropy_rule
from fedknow_ray.methods.method import ClientState, Method, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import Work


class RestoringFedKnow(Method):
    """`variant: paper` and `variant: tuned`; its settings are FedKNOW's."""

    memory_types: ClassVar[tuple[type, ...]] = (FedKnowMemory, Knowledge)

    @property
    def settings(self) -> FedKnowSettings:
        """The hyper-parameters, typed."""
        return cast(FedKnowSettings, self.hyper)

    @property
    def own_is_final(self) -> bool:
        """What `own_model` says."""
        return self.settings.own_model == "final"

    @property
    def evicts(self) -> bool:
        """Yes: the knowledge of each task is a thing of its own."""
        return True

    @property
    def refines(self) -> bool:
        """The paper's literal reading: a further transfer and epoch right after aggregation."""
        return self.settings.second_use == "after_aggregation"

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs, the first one in second use where it is due."""
        memory = hear_past_tasks(learner, _memory(state, facts), data, facts, self.settings)
        tally, parts = Tally(), []
        notes: Mapping[str, float] = {}
        if second := self._second_use_epochs(facts):
            rule = self._second_use_rule(learner, state, data)
            parts.append((second, learner.train(data, second, rule)))
            notes = rule.notes()
            del rule
        past = self._past_tasks(memory, data)
        if epochs := self.training.local_epochs - second:
            parts.append((epochs, learner.train(data, epochs, self._main_rule(past, tally))))
        return Outcome(
            _kept(memory, facts),
            _mean_loss(parts),
            # None, not 0, where none was checked: a visit without past tasks is then FedAvg's in its row too
            tally.integrated_steps or None,
            tally.violated_steps if tally.integrated_steps else None,
            {**notes, **self._update_notes(tally)},
            _all_heads(memory, data, past) if past else None,
        )

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the work of `train`, from the number of past tasks and images."""
        second = self._second_use_epochs(facts)
        epochs = self.training.local_epochs - second
        work = self.costs.training_epochs("train", facts.images, facts.classes, second + epochs)
        if hears(facts, self.settings):
            work += plan_hearing(self.costs, facts, self.settings)
        work += self._plan_second_use(facts) if second else Work.none()
        if facts.remembered_tasks and epochs:
            work += self._plan_restoring(facts, epochs)
        return Plan(work, self._training_bytes(facts))

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Extract the knowledge of the task from the client's own model."""
        memory = _memory(state, facts)
        knowledge, loss = extract(learner, memory, data, facts, self.settings)
        notes = _kept_notes(learner, knowledge)
        if loss is not None:
            notes["knowledge_loss"] = loss
        return Outcome(FedKnowMemory((*memory.knowledge, knowledge)), None, notes=notes)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the work of the extraction."""
        peak = extraction_bytes(self.costs, facts, self.settings) + self._label_bytes(facts)
        return Plan(plan_extraction(self.costs, facts, self.settings), peak)

    def refine(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train the aggregate for one epoch, constrained by the own model that went into it."""
        rule = self._second_use_rule(learner, state, data)
        loss = learner.train(data, 1, rule)
        return Outcome(_kept(_memory(state, facts), facts), loss, notes=rule.notes())

    def plan_refine(self, facts: VisitFacts) -> Plan:
        """Return the work of that epoch."""
        work = self.costs.training_epochs("train", facts.images, facts.classes, 1) + self._plan_second_use(facts)
        return Plan(work, self._training_bytes(facts))

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of the knowledge of all past tasks that are not evicted, and of the signature tasks' labels
        for the task at hand."""
        return self.stored_bytes(facts) + self._label_bytes(facts)

    def stored_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of the knowledge of all past tasks that are not evicted."""
        return facts.remembered_tasks * knowledge_bytes(self.costs, facts.classes, self.settings)

    def _second_use_epochs(self, facts: VisitFacts) -> int:
        """One epoch if the client has a model of its own *of this task*: the constraint is of this task's loss."""
        return int(self.settings.second_use in ("on_receive", "displacement") and facts.trained_this_task)

    def _second_use_rule(self, learner: Learner, state: ClientState, data: TaskData) -> SecondUseRule:
        assert state.own_S is not None, "the scheduler orders a second use only after a training visit"
        own_S, P = torch.tensor(state.own_S), learner.network.P
        head_RF = torch.tensor(state.head_CF[data.rows.start : data.rows.stop])
        displacement = self.settings.second_use == "displacement"
        return SecondUseRule(own_S[:P], own_S[P:], head_RF, self.settings.margin, displacement)

    def _past_tasks(self, memory: FedKnowMemory, data: TaskData) -> PastTasks | None:
        if not memory.labels_NC:
            return None
        heads = [torch.tensor(data.past_heads[task]) for task in memory.chosen]
        return PastTasks(memory.labels_NC, heads, self.settings, self.training)

    def _main_rule(self, past: PastTasks | None, tally: Tally) -> GradientRule:
        if past is None:
            return cross_entropy_rule
        return SummingRule(past, tally) if self._summing else ProjectionRule(past, tally)

    @property
    def _summing(self) -> bool:
        return self.settings.integration in SUMMING

    def _update_notes(self, tally: Tally) -> dict[str, float]:
        """Return how many updates still went against a past task, where it was looked at."""
        looked_at = tally.integrated_steps and self.settings.integration != "feature_projection"
        return {"violated_after_steps": float(tally.violated_after_steps)} if looked_at else {}

    def _plan_second_use(self, facts: VisitFacts) -> Work:
        displacement = self.settings.second_use == "displacement"
        items = [
            item
            for n in self.costs.batches(facts.images)
            for item in second_use_items(self.costs, n, facts.classes, displacement=displacement)
        ]
        return repeat([displacement_item(self.costs), *items] if displacement else items, 1)

    def _plan_restoring(self, facts: VisitFacts, epochs: int) -> Work:
        k, sizes = self._constraints(facts), self.costs.batches(facts.images)
        added = summing_items if self._summing else projection_items
        steps = [item for n in sizes for item in added(self.costs, n, facts.classes, k, self.settings.integration)]
        if self.settings.past_heads == "trained":
            steps += [self.costs.update_head("restore", n, k * facts.classes) for n in sizes]
        return repeat(steps, epochs)

    def _label_bytes(self, facts: VisitFacts) -> int:
        return FLOAT_BYTES * facts.images * facts.classes * self._constraints(facts)

    def _constraints(self, facts: VisitFacts) -> int:
        return min(facts.remembered_tasks, self.settings.signature_tasks)

    def _training_bytes(self, facts: VisitFacts) -> int:
        """Labels, and what takes more: hearing past tasks, or plain training with a buffer of gradients.

        The buffers of the second use and of the past tasks never exist at once; the larger one counts.
        """
        second_use = 2 * (self.settings.second_use != "off" and facts.trained_this_task)
        rows = max(second_use, self._projected_rows(facts))
        training = self.costs.training_bytes(facts) + rows * self.costs.footprint.weight_bytes
        listens = self._constraints(facts) and hears(facts, self.settings)
        hearing = hearing_bytes(self.costs, facts, self.settings) if listens else 0
        return max(training, hearing) + self._label_bytes(facts)

    def _projected_rows(self, facts: VisitFacts) -> int:
        """Return how many vectors of all weights the integration holds at once: g, those of past tasks, the update."""
        if self._summing or not facts.remembered_tasks:
            return 0
        return self._constraints(facts) + 1 + (self.settings.integration == "preconditioned")


def _mean_loss(parts: Sequence[tuple[int, float]]) -> float:
    """Return the mean loss over epochs of parts (epochs, mean loss); that of one part to the bit."""
    if len(parts) == 1:
        return parts[0][1]
    return sum(epochs * loss for epochs, loss in parts) / sum(epochs for epochs, _ in parts)


def _all_heads(memory: FedKnowMemory, data: TaskData, past: PastTasks) -> tuple[NDArray[np.float32], ...] | None:
    """Return the head rows of all past tasks as a visit leaves them; None if it leaves them as they were."""
    heads = past.heads()
    if heads is None:
        return None
    trained = dict(zip(memory.chosen, heads, strict=True))
    return tuple(trained.get(task, head_RF) for task, head_RF in enumerate(data.past_heads))


def _memory(state: ClientState, facts: VisitFacts) -> FedKnowMemory:
    memory = state.memory if isinstance(state.memory, FedKnowMemory) else FedKnowMemory()
    return memory.without(facts.evicted_tasks)


def _kept(memory: FedKnowMemory, facts: VisitFacts) -> FedKnowMemory | None:
    """Return what a visit leaves of the memory: None in the first task, in which there is nothing in it, so that the
    state is FedAvg's, which may go on from it."""
    return memory if facts.task_index else None


def _kept_notes(learner: Learner, knowledge: Knowledge) -> dict[str, float]:
    """Return the share of each prunable tensor that was kept: a threshold over the network treats layers unlike."""
    network = learner.network
    shares = kept_share_per_layer(restore_mask(knowledge, network.P), network.layout)
    return {f"kept_share/{name}": share for name, share in shares.items()}
