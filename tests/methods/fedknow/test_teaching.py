"""What past models say of later images, against ordinary modules in evaluation mode; and what it costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from twins import kept, obvious_labels, past_learner
from workbench import CLASSES, DRY, NORMED, TINY, make_learner, steps_of, task_data

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.extractor import restore_mask, restore_weights
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.teaching import labels_of, plan_labelling
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.footprint import Footprint

FACTS = VisitFacts(0, 3, 0, 20, CLASSES, trained_this_task=False)


@pytest.mark.parametrize("fraction", [0.1, 1.0])
@pytest.mark.parametrize("spec", [DRY, TINY, NORMED], ids=lambda spec: spec.name)
def test_labels_are_what_the_pruned_model_says(spec: ModelSpec, fraction: float):
    """An ordinary module with the kept weights, the others 0, its own statistics and head rows."""
    past = past_learner(spec)
    knowledge = kept(past, fraction=fraction)
    past.network.theta[: past.network.P] *= restore_mask(knowledge, past.network.P)
    data = task_data(5)
    labels_NR = labels_of(make_learner(spec), knowledge, data, FedKnowSettings(temperature=3.0))
    torch.testing.assert_close(labels_NR, obvious_labels(past, spec, data.images_NHWC, 3.0))


def test_hard_labels_are_the_likeliest_class_alone():
    past, data = past_learner(), task_data(5)
    labels_NR = labels_of(make_learner(DRY), kept(past), data, FedKnowSettings(labels="hard", temperature=3.0))
    likeliest_N = obvious_labels(past, DRY, data.images_NHWC, 1.0).argmax(1)
    assert labels_NR.tolist() == torch.eye(CLASSES)[likeliest_N].tolist()


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_labels_of_rounded_knowledge_are_those_of_the_rounded_model(fraction: float):
    """Near those of the exact one, and not the same."""
    past, data = past_learner(), task_data(5)
    exact, rounded = (kept(past, fraction=fraction, bits=bits) for bits in (32, 8))
    labels = [labels_of(make_learner(DRY), one, data, FedKnowSettings()) for one in (exact, rounded)]
    assert not torch.equal(*labels)
    torch.testing.assert_close(*labels, atol=0.01, rtol=0)
    past.network.load(restore_weights(rounded, past.network.P, past.network.layout).numpy())
    torch.testing.assert_close(labels[1], obvious_labels(past, DRY, data.images_NHWC, 2.0))


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_labels_of_some_images_are_those_among_all(labels: Any):
    """What the choice of tasks hears of a batch is what a chosen task says of it later."""
    learner, knowledge, settings = make_learner(NORMED), kept(past_learner(NORMED)), FedKnowSettings(labels=labels)
    data = task_data(5)
    some = replace(data, images_NHWC=data.images_NHWC[:8], labels_N=data.labels_N[:8])
    expected = labels_of(learner, knowledge, data, settings)[:8]
    torch.testing.assert_close(labels_of(learner, knowledge, some, settings), expected)


def test_labelling_leaves_network_and_draws_as_they_are():
    """Dropout draws nothing, and running statistics take no notice of the images."""
    learner, knowledge = make_learner(NORMED), kept(past_learner(NORMED))
    learner.network.features.train()
    before, draws = learner.network.state(), torch.get_rng_state()
    labels_of(learner, knowledge, task_data(), FedKnowSettings())
    np.testing.assert_array_equal(learner.network.state(), before)
    assert torch.equal(torch.get_rng_state(), draws)


@pytest.mark.parametrize("tasks", [0, 1, 3])
def test_the_work_counted_is_the_work_planned(tasks: int):
    learner = make_learner(DRY)
    for task in range(tasks):
        labels_of(learner, kept(past_learner(task=task), task), task_data(), FedKnowSettings())
    assert steps_of(learner.log.work()) == steps_of(plan_labelling(learner.costs, FACTS, tasks, FedKnowSettings()))


def test_work_of_labelling_by_hand():
    """20 images in batches of 8, 8 and 4, by two models: 1000 FLOPs an image and 2 x 10 x 2 in the head; the weights
    read once to load and once a batch, input and activations of 70 bytes an image. Loading takes 4 bits a weight and 4
    bytes for each of the 2 x 11 values of the head from storage."""
    footprint = Footprint(P=100, B=0, F=10, forward_flops=1000, backward_flops=1900, kept_bytes=50, input_bytes=20)
    planned = plan_labelling(StepCosts(footprint, make_learner(DRY).training), FACTS, 2, FedKnowSettings())
    assert steps_of(planned) == {
        ("teach", 0, 400, 138): 2,
        ("teach", 8 * 1040, 400 + 8 * 70): 4,
        ("teach", 4 * 1040, 400 + 4 * 70): 2,
    }
