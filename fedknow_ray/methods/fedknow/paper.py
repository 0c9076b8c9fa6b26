"""FedKNOW as the paper has it: clients extract, restore and integrate the knowledge of signature tasks.

Luopan et al., "FedKNOW: Federated Continual Learning with Signature Task Knowledge Integration at Edge", ICDE 2023,
arXiv:2212.01738. A visit of a client with t past tasks:

    1. labels of its images by the t pruned past models, once a task                  (knowledge, restorer)
    2. one epoch in which the gradient at its own model before aggregation constrains the step      (rules)
    3. the remaining epochs with the gradients of k signature tasks as constraints       (rules, signature)

At the end of a task it prunes a copy of its own model, trains the kept weights again and stores them (extractor). Each
constrained step is the closest one to the gradient g that no constraint speaks against (integrator):

    min 1/2 |g - g'|^2   s.t.  <g', g_i> >= 0  for each constraint i

Sent: the shared model, up and down. Kept: the knowledge of each task and labels. Without past tasks and second use it
is FedAvg to the bit. What is implemented where the paper is silent or disagrees with the authors' code:
docs/decisions/0003.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import cast

import numpy as np
import torch

from fedknow_ray.methods.costs import repeat
from fedknow_ray.methods.fedknow.extractor import Knowledge, kept_share_per_layer, restore_mask
from fedknow_ray.methods.fedknow.knowledge import (
    FedKnowMemory,
    extract,
    knowledge_bytes,
    label_images,
    plan_extraction,
    plan_labelling,
)
from fedknow_ray.methods.fedknow.rules import SELECT_PASSES, RestoreRule, SecondUseRule, Tally, integration_work
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.signature import measures_gradients
from fedknow_ray.methods.learner import GradientRule, Learner, cross_entropy_rule
from fedknow_ray.methods.method import ClientState, Method, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import Work


class PaperFedKnow(Method):
    """`variant: paper`; its settings are FedKNOW's."""

    @property
    def settings(self) -> FedKnowSettings:
        """The hyper-parameters, typed."""
        return cast(FedKnowSettings, self.hyper)

    @property
    def refines(self) -> bool:
        """The paper's literal reading: a further transfer and epoch right after aggregation."""
        return self.settings.second_use == "after_aggregation"

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train for the local epochs, the first one in second use where it is due."""
        memory = label_images(learner, _memory(state), data, facts, self.settings)
        tally, epochs, losses = Tally(), self.training.local_epochs, 0.0
        notes: Mapping[str, float] = {}
        if self._second_use_epochs(facts):
            rule = self._second_use_rule(learner, state, data, tally)
            losses += learner.train(data, 1, rule)
            notes, epochs = _angle_notes(rule), epochs - 1
            del rule
        if epochs:
            losses += epochs * learner.train(data, epochs, self._main_rule(memory, data, tally, learner.order))
        notes = {**notes, **_update_notes(tally)}
        loss = losses / self.training.local_epochs
        return Outcome(
            memory, loss, tally.integrated_steps, tally.violated_steps, notes if tally.integrated_steps else {}
        )

    def plan_train(self, facts: VisitFacts) -> Plan:
        """Return the work of `train`, from the number of past tasks and images."""
        second = self._second_use_epochs(facts)
        epochs = self.training.local_epochs - second
        work = self.costs.training_epochs("train", facts.images, facts.classes, second + epochs)
        if not facts.trained_this_task:
            work += plan_labelling(self.costs, facts)
        work += self._plan_second_use(facts) if second else Work.none()
        if facts.task_index and epochs:
            work += self._plan_restoring(facts, epochs)
        return Plan(work, self._training_bytes(facts))

    def finish_task(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Extract the knowledge of the task from the client's own model."""
        memory = _memory(state)
        knowledge, loss = extract(learner, memory, data, facts, self.settings)
        notes = _kept_notes(learner, knowledge)
        if loss is not None:
            notes["knowledge_loss"] = loss
        return Outcome(FedKnowMemory((*memory.knowledge, knowledge)), None, notes=notes)

    def plan_finish(self, facts: VisitFacts) -> Plan:
        """Return the work of the extraction."""
        peak = self.costs.training_bytes(facts) + self.kept_bytes(facts) + self.costs.footprint.P
        return Plan(plan_extraction(self.costs, facts, self.settings), peak)

    def refine(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        """Train the aggregate for one epoch, constrained by the own model that went into it."""
        tally = Tally()
        rule = self._second_use_rule(learner, state, data, tally)
        loss = learner.train(data, 1, rule)
        notes = {**_angle_notes(rule), **_update_notes(tally)}
        return Outcome(_memory(state), loss, tally.integrated_steps, tally.violated_steps, notes)

    def plan_refine(self, facts: VisitFacts) -> Plan:
        """Return the work of that epoch."""
        work = self.costs.training_epochs("train", facts.images, facts.classes, 1) + self._plan_second_use(facts)
        return Plan(work, self._training_bytes(facts))

    def kept_bytes(self, facts: VisitFacts) -> int:
        """Return the bytes of the knowledge of all past tasks and of their labels for the task at hand."""
        labels = FLOAT_BYTES * facts.images * facts.classes * facts.task_index
        return facts.task_index * knowledge_bytes(self.costs, facts.classes, self.settings) + labels

    def _second_use_epochs(self, facts: VisitFacts) -> int:
        """One epoch if the client has a model of its own *of this task*: the gradient is of this task's loss."""
        return int(self.settings.second_use == "on_receive" and facts.trained_this_task)

    def _second_use_rule(self, learner: Learner, state: ClientState, data: TaskData, tally: Tally) -> SecondUseRule:
        assert state.own_S is not None, "the scheduler orders a second use only after a training visit"
        own_S, P = torch.tensor(state.own_S), learner.network.P
        head_RF = torch.tensor(state.head_CF[data.rows.start : data.rows.stop])
        return SecondUseRule(own_S[:P], own_S[P:], head_RF, self.settings.margin, tally)

    def _main_rule(self, memory: FedKnowMemory, data: TaskData, tally: Tally, rng: np.random.Generator) -> GradientRule:
        if not memory.labels_NC:
            return cross_entropy_rule
        heads = [torch.tensor(head) for head in data.past_heads]
        return RestoreRule(memory.labels_NC, heads, self.settings, rng, tally)

    def _plan_second_use(self, facts: VisitFacts) -> Work:
        items = [self.costs.forward_backward("second_use", n, facts.classes) for n in self.costs.batches(facts.images)]
        return repeat([*items, *[integration_work(self.costs, 1)] * len(items)], 1)

    def _plan_restoring(self, facts: VisitFacts, epochs: int) -> Work:
        t, k, sizes = facts.task_index, self._constraints(facts), self.costs.batches(facts.images)
        steps = [self.costs.backward("restore", n, facts.classes) for n in sizes for _ in range(k)]
        work = repeat([*steps, *[integration_work(self.costs, k)] * len(sizes)], epochs)
        if measures_gradients(self.settings.selection, t, self.settings.signature_tasks):
            first = [
                self.costs.backward("restore", sizes[0], facts.classes),
                self.costs.passes("select", SELECT_PASSES),
            ]
            work += repeat(first, t)
        return work

    def _constraints(self, facts: VisitFacts) -> int:
        return min(facts.task_index, self.settings.signature_tasks)

    def _training_bytes(self, facts: VisitFacts) -> int:
        """Plain training, the gradient buffer, the own model of the second use, and what is kept.

        The two buffers never exist at once; the larger one counts.
        """
        weights = self.costs.footprint.weight_bytes
        restoring = (self._constraints(facts) + 1) * weights if facts.task_index else 0
        second_use = 3 * weights if self.settings.second_use != "off" and facts.trained_this_task else 0
        return self.costs.training_bytes(facts) + max(restoring, second_use) + self.kept_bytes(facts)


def _memory(state: ClientState) -> FedKnowMemory:
    return state.memory if isinstance(state.memory, FedKnowMemory) else FedKnowMemory()


def _kept_notes(learner: Learner, knowledge: Knowledge) -> dict[str, float]:
    """Return the share of each prunable tensor that was kept: a threshold over the network treats layers unlike."""
    network = learner.network
    shares = kept_share_per_layer(restore_mask(knowledge, network.P), network.layout)
    return {f"kept_share/{name}": share for name, share in shares.items()}


def _update_notes(tally: Tally) -> Mapping[str, float]:
    return {"violated_after_steps": float(tally.violated_after_steps)}


def _angle_notes(rule: SecondUseRule) -> Mapping[str, float]:
    """Return the mean norm of g_b and the mean cosine between g and g_b, where there is one."""
    notes = {"own_gradient_norm": fmean(rule.norms)}
    return {**notes, "own_gradient_cosine": fmean(rule.cosines)} if rule.cosines else notes
