"""Knowledge on storage, by hand for a network with round numbers: 800 weights, 10 features, 2 classes."""

from __future__ import annotations

import pytest
from workbench import DRY, make_learner

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.fedknow.storage import knowledge_bytes, mask_bytes, prune_item, read_item, store_item
from fedknow_ray.models.footprint import Footprint
from fedknow_ray.simulation.work import WorkItem

HEAD_BYTES = 4 * 2 * 11


@pytest.fixture(scope="module")
def costs() -> StepCosts:
    footprint = Footprint(P=800, B=0, F=10, forward_flops=1000, backward_flops=1900, kept_bytes=50, input_bytes=20)
    return StepCosts(footprint, make_learner(DRY).training)


def paper(**changes: object) -> FedKnowSettings:
    return FedKnowSettings.model_validate({"variant": "paper", **changes})


def test_a_tenth_of_the_weights_takes_its_values_and_a_mask(costs: StepCosts):
    """80 values of 4 bytes, 800 bits, and the head."""
    assert mask_bytes(costs, paper()) == 100
    assert knowledge_bytes(costs, 2, paper()) == 320 + 100 + HEAD_BYTES


def test_all_weights_in_four_bits_need_no_mask(costs: StepCosts):
    assert mask_bytes(costs, FedKnowSettings()) == 0
    assert knowledge_bytes(costs, 2, FedKnowSettings()) == 400 + HEAD_BYTES


def test_storing_reads_and_writes_in_memory_what_it_writes(costs: StepCosts):
    assert store_item(costs, 2, FedKnowSettings()) == WorkItem("store", 1, 0, 2 * 488, 488)


def test_reading_writes_out_the_weights(costs: StepCosts):
    assert read_item(costs, 2, FedKnowSettings()) == WorkItem("teach", 1, 0, 3200, 488)


def test_pruning_needs_the_masks_of_past_tasks_only_if_they_must_not_overlap(costs: StepCosts):
    assert prune_item(costs, 3, paper()) == WorkItem("prune", 1, 0, 4 * 3200, 0)
    assert prune_item(costs, 3, paper(masks="disjoint")) == WorkItem("prune", 1, 0, 4 * 3200, 300)
