"""The choice of signature tasks, against gradients of copies by automatic differentiation and all distances at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from choosing import choose
from torch import Tensor
from torch.nn import functional as F
from twins import TASKS, batch_of, kept, obvious_gradient, obvious_labels, obvious_own_gradient, past_learner, present
from workbench import CLASSES, DRY, NORMED, TINY, make_learner, steps_of, twin_of

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow import choice
from fedknow_ray.methods.fedknow.choice import choose_tasks, plan_choice
from fedknow_ray.methods.fedknow.extractor import Knowledge
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import TaskData, VisitFacts
from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.footprint import Footprint

BATCH = 8
DISTANCES = ("wasserstein", "wasserstein_sorted", "cosine")
SELECTIONS = (*DISTANCES, "oldest", "random")
each_spec = pytest.mark.parametrize("spec", [DRY, TINY, NORMED], ids=lambda spec: spec.name)


def knowledge_of(spec: ModelSpec = DRY, tasks: int = TASKS) -> tuple[Knowledge, ...]:
    """The knowledge of so many past tasks."""
    return tuple(kept(past_learner(spec, task), task) for task in range(tasks))


def chosen(learner: Learner, spec: ModelSpec = DRY, data: TaskData | None = None, **settings: Any) -> tuple[int, ...]:
    data = data or present()
    return choose_tasks(learner, knowledge_of(spec, len(data.past_heads)), data, FedKnowSettings(**settings))


def obvious_gradients(
    learner: Learner, spec: ModelSpec, data: TaskData, labels: str = "soft", temperature: float = 2.0
) -> Tensor:
    """g and the gradients of all past tasks (t + 1, P) on the first images, by copies of a module in evaluation
    mode."""
    twin, batch = twin_of(learner, spec).eval(), batch_of(learner, BATCH, data)
    rows = [obvious_own_gradient(twin, learner.network.head, batch, spec)]
    for task, head in enumerate(data.past_heads):
        said = obvious_labels(past_learner(spec, task), spec, data.images_NHWC[:BATCH], temperature)
        if labels == "hard":
            said, temperature = F.one_hot(said.argmax(1), CLASSES).float(), 1.0
        rows.append(obvious_gradient(twin, torch.tensor(head), batch, said, temperature, spec))
    return torch.stack(rows)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Copies of the pairs of gradients whose distance is taken."""
    pairs: list[tuple[Tensor, Tensor]] = []
    distance = choice.distance

    def spy(name: str, g_P: Tensor, past_P: Tensor) -> float:
        pairs.append((g_P.clone(), past_P.clone()))
        return distance(name, g_P, past_P)

    monkeypatch.setattr(choice, "distance", spy)
    return pairs


# What is compared, and what is chosen


@each_spec
@pytest.mark.parametrize(("labels", "temperature"), [("soft", 2.0), ("soft", 4.0), ("hard", 4.0)])
def test_gradients_are_those_of_an_ordinary_module_in_evaluation_mode(
    compared: list[tuple[Tensor, Tensor]], spec: ModelSpec, labels: str, temperature: float
):
    """Of the first batch_size images, with the client's head rows as they are now."""
    learner, data = make_learner(spec), present()
    learner.network.features.train()
    expected = obvious_gradients(learner, spec, data, labels, temperature)
    chosen(learner, spec, data, signature_tasks=2, labels=labels, temperature=temperature)
    assert len(compared) == TASKS
    for (g_P, past_P), expected_P in zip(compared, expected[1:], strict=True):
        torch.testing.assert_close(g_P, expected[0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(past_P, expected_P, atol=1e-6, rtol=1e-5)


@each_spec
@pytest.mark.parametrize("selection", DISTANCES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_signature_tasks_are_the_farthest_of_all_distances_at_once(spec: ModelSpec, selection: str, k: int):
    learner, data = make_learner(spec), present()
    g_P, *past = obvious_gradients(learner, spec, data)
    expected = choose(selection, g_P, torch.stack(past), k, np.random.default_rng(0))
    assert chosen(learner, spec, data, signature_tasks=k, selection=selection) == expected


@pytest.mark.parametrize("images", [3, BATCH])
def test_fewer_images_than_a_batch_are_all_compared(compared: list[tuple[Tensor, Tensor]], images: int):
    learner, data = make_learner(DRY), present(images=images)
    expected = obvious_gradients(learner, DRY, data)
    chosen(learner, data=data, signature_tasks=1)
    torch.testing.assert_close(compared[0][0], expected[0], atol=1e-6, rtol=1e-5)


def test_images_after_the_first_batch_make_no_difference(compared: list[tuple[Tensor, Tensor]]):
    learner, data = make_learner(DRY), present()
    chosen(learner, data=data, signature_tasks=1)
    data.images_NHWC[BATCH:] = 0
    data.labels_N[BATCH:] = 0
    chosen(learner, data=data, signature_tasks=1)
    for before, after in zip(compared[:TASKS], compared[TASKS:], strict=True):
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_oldest_takes_the_first_tasks():
    assert chosen(make_learner(DRY), signature_tasks=2, selection="oldest") == (0, 1)


def test_random_draws_from_the_visits_generator():
    learner = make_learner(DRY)
    learner.begin(np.random.default_rng(11))
    expected = np.random.default_rng(11).choice(TASKS, size=2, replace=False)
    assert chosen(learner, signature_tasks=2, selection="random") == tuple(sorted(expected.tolist()))


@pytest.mark.parametrize("selection", [*DISTANCES, "oldest"])
def test_only_random_draws_from_it(selection: str):
    learner = make_learner(DRY)
    before = learner.order.bit_generator.state
    chosen(learner, signature_tasks=2, selection=selection)
    assert learner.order.bit_generator.state == before


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(("tasks", "k"), [(0, 1), (2, 2), (2, 10)])
def test_no_more_past_tasks_than_wanted_are_all_chosen_without_work(selection: str, tasks: int, k: int):
    """And without a draw."""
    learner = make_learner(DRY)
    before = learner.order.bit_generator.state
    found = chosen(learner, data=present(tasks=tasks), signature_tasks=k, selection=selection)
    assert found == tuple(range(tasks))
    assert not learner.log.work().items
    assert learner.order.bit_generator.state == before


# What it leaves


@each_spec
def test_the_choice_leaves_the_learner_and_torchs_draws_as_they_are(spec: ModelSpec):
    """Evaluation mode: dropout draws nothing, running statistics take no notice; weights and gradients stay too."""
    learner, knowledge = make_learner(spec), knowledge_of(spec)
    network = learner.network
    network.features.train()
    network.grad.uniform_(generator=torch.Generator().manual_seed(1))
    left = [network.theta, network.grad, network.buffers]
    before, draws = [one.clone() for one in left], torch.get_rng_state()
    choose_tasks(learner, knowledge, present(), FedKnowSettings(signature_tasks=2))
    assert all(torch.equal(*pair) for pair in zip(left, before, strict=True))
    assert torch.equal(torch.get_rng_state(), draws)


def test_the_choice_leaves_past_heads_and_knowledge_as_they_are():
    data, knowledge = present(), knowledge_of()
    choose_tasks(make_learner(DRY), knowledge, data, FedKnowSettings(signature_tasks=2, past_heads="trained"))
    for head, expected in zip(data.past_heads, present().past_heads, strict=True):
        np.testing.assert_array_equal(head, expected)
    for one, other in zip(knowledge, knowledge_of(), strict=True):
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.head, other.head)


# What it costs


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("images", [3, 20])
@pytest.mark.parametrize(("tasks", "k"), [(0, 1), (2, 2), (2, 1), (4, 1), (4, 3)])
def test_the_work_counted_is_the_work_planned(selection: str, images: int, tasks: int, k: int):
    learner, settings = make_learner(DRY), {"signature_tasks": k, "selection": selection}
    chosen(learner, data=present(tasks, images), **settings)
    facts = VisitFacts(0, tasks, 0, images, CLASSES, trained_this_task=False)
    planned = plan_choice(learner.costs, facts, FedKnowSettings(**settings))
    assert steps_of(learner.log.work()) == steps_of(planned)


def test_work_of_a_choice_by_hand():
    """A batch of 8 of 20 images, F = 10, 2 classes, P = 100, so 400 bytes of weights; 3 past tasks.

    Its own gradient: 1000 + 1900 FLOPs an image and 6 x 10 x 2 in the head; weights read twice, the gradient written,
    20 bytes of input and twice 50 of activations. Each task: its model read, one forward pass, one backward pass with
    its head's forward and backward (4 x 10 x 2), and a distance that reads two gradients. A model is stored in 4 bits a
    weight and 4 bytes for each of 2 x 11 values of the head: 138 bytes.
    """
    footprint = Footprint(P=100, B=0, F=10, forward_flops=1000, backward_flops=1900, kept_bytes=50, input_bytes=20)
    costs = StepCosts(footprint, make_learner(DRY).training)
    facts = VisitFacts(0, 3, 0, 20, CLASSES, trained_this_task=False)
    assert steps_of(plan_choice(costs, facts, FedKnowSettings(signature_tasks=2))) == {
        ("select", 8 * 3020, 1200 + 8 * 120): 1,
        ("teach", 0, 400, 138): 3,
        ("teach", 8 * 1040, 400 + 8 * 70): 3,
        ("select", 8 * 1980, 800 + 8 * 50): 3,
        ("select", 0, 800): 3,
    }
