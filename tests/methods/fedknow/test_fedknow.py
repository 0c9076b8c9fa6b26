"""FedKNOW as a whole: its variants, and the past that runs of other settings share with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from course import Course, past_settings
from workbench import SGD, Bench, training

from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.fedknow.authors_code import AuthorsCodeFedKnow
from fedknow_ray.methods.fedknow.fedknow import VARIANTS, FedKnow
from fedknow_ray.methods.fedknow.restoring import RestoringFedKnow
from fedknow_ray.methods.fedknow.settings import FedKnowSettings

STAGES = 6  # three tasks
FEDAVG = {"method": "fedknow_ray.methods.fedavg.FedAvg"}
KNOWLEDGE = {
    "retained_fraction": 1.0,
    "retrain_epochs": 0,
    "threshold": "network",
    "stored_bits": 4,
    "own_model": "final",
}
PAST_TASKS = {
    "integration": "sum",
    "restored_weight": 1.0,
    "past_heads": "frozen",
    "margin": 0.0,
    "labels": "soft",
    "temperature": 2.0,
}
PROJECTING: dict[str, Any] = {"integration": "projection", "retained_fraction": 0.1, "own_model": "last_visit"}
PRUNING: dict[str, Any] = {"retained_fraction": 0.1}
PAPER_SET_ALIKE: dict[str, Any] = {**PROJECTING, "second_use": "on_receive", "retrain_epochs": 2, "stored_bits": 32}


@pytest.mark.parametrize(
    ("variant", "kind"),
    [("tuned", RestoringFedKnow), ("paper", RestoringFedKnow), ("authors_code", AuthorsCodeFedKnow)],
)
def test_a_variant_is_what_its_name_says(variant: str, kind: type[Any]):
    assert VARIANTS[variant] is kind
    bench = Bench("fedknow", {"variant": variant})
    assert isinstance(bench.method, FedKnow)
    facts = bench.order(VisitKind.TRAIN, 2).facts
    alone = kind(bench.method.hyper, bench.method.training, bench.method.costs)
    assert bench.method.plan_train(facts) == alone.plan_train(facts)


@pytest.mark.parametrize("config", [training(), training(optimizer=SGD)], ids=["adam", "sgd"])
def test_without_past_and_second_use_it_is_fedavg_to_the_bit(config: Any):
    """Models, and all that is reported of the visit."""
    ours, fedavg = Bench("fedknow", config=config), Bench("fedavg", config=config)
    for round_index in range(2):
        where = {"round_index": round_index, "trained": round_index > 0}
        _, one, report = ours.visit(VisitKind.TRAIN, **where)
        _, other, expected = fedavg.visit(VisitKind.TRAIN, **where)
        np.testing.assert_array_equal(one.features_S, other.features_S)
        np.testing.assert_array_equal(ours.state().head_CF, fedavg.state().head_CF)
        assert report == expected


@pytest.mark.parametrize(
    ("stage", "in_force"),
    [
        (0, FEDAVG),
        (1, {"method": "fedknow", **KNOWLEDGE}),
        (2, {"method": "fedknow", **KNOWLEDGE, **PAST_TASKS}),
        (3, {"method": "fedknow", **KNOWLEDGE, **PAST_TASKS, "masks": "overlapping"}),
        (4, {"method": "fedknow", **KNOWLEDGE, **PAST_TASKS, "masks": "overlapping"}),
        (20, {"method": "fedknow", **KNOWLEDGE, **PAST_TASKS, "masks": "overlapping"}),
        (
            22,
            {
                "method": "fedknow",
                **KNOWLEDGE,
                **PAST_TASKS,
                "masks": "overlapping",
                "signature_tasks": 10,
                "selection": "wasserstein",
            },
        ),
    ],
    ids=["task 0", "its end", "task 1", "its end, with two masks", "task 2", "10 past tasks", "11 past tasks"],
)
def test_settings_come_into_force_as_tasks_go_by(stage: int, in_force: dict[str, Any]):
    assert past_settings("fedknow", {}, stage) == in_force


def test_second_use_is_in_force_from_the_first_round():
    hyper = {"second_use": "displacement", "margin": 0.5}
    assert past_settings("fedknow", hyper, 0) == {"method": "fedknow", "second_use": "displacement", "margin": 0.5}


def test_the_paper_without_second_use_names_what_tuned_does():
    assert past_settings("fedknow", {"variant": "paper", "second_use": "off"}, 0) == FEDAVG


def test_all_settings_of_the_authors_code_count_from_the_beginning():
    """Its pack net is trained in every visit."""
    said = past_settings("fedknow", {"variant": "authors_code"}, 0)
    assert said["method"] == "fedknow_ray.methods.fedknow.fedknow.FedKnow"
    assert said["variant"] == "authors_code"
    assert {"retained_fraction", "signature_tasks", "violation_test", "masks"} <= said.keys()


#: (one method, another, how many stages they share). After these they are not only allowed to differ, but do.
PAIRS: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]], int]] = {
    "fedavg": (("fedavg", {}), ("fedknow", {}), 1),
    "local": (("fedavg", {}), ("local", {}), 0),
    "fedavg's own model": (("fedavg", {}), ("fedavg", {"own_model": "final"}), 1),
    "paper set alike": (("fedknow", PAPER_SET_ALIKE), ("fedknow", {"variant": "paper"}), STAGES),
    "second_use": (("fedknow", {}), ("fedknow", {"second_use": "on_receive"}), 0),
    "after_aggregation": (
        ("fedknow", {"second_use": "on_receive"}),
        ("fedknow", {"second_use": "after_aggregation"}),
        0,
    ),
    "retained_fraction": (("fedknow", {}), ("fedknow", {"retained_fraction": 0.5}), 1),
    "retrain_epochs": (("fedknow", {}), ("fedknow", {"retrain_epochs": 2}), 1),
    "threshold": (("fedknow", PRUNING), ("fedknow", {**PRUNING, "threshold": "layer"}), 1),
    "stored_bits": (("fedknow", {}), ("fedknow", {"stored_bits": 8}), 1),
    "own_model": (("fedknow", {}), ("fedknow", {"own_model": "last_visit"}), 1),
    "integration": (("fedknow", PROJECTING), ("fedknow", {**PROJECTING, "integration": "sum"}), 2),
    "preconditioned": (("fedknow", PROJECTING), ("fedknow", {**PROJECTING, "integration": "preconditioned"}), 2),
    "restored_weight": (("fedknow", {}), ("fedknow", {"restored_weight": 0.5}), 2),
    "past_heads": (("fedknow", {}), ("fedknow", {"past_heads": "trained"}), 2),
    "labels": (("fedknow", {}), ("fedknow", {"labels": "hard"}), 2),
    "temperature": (("fedknow", {}), ("fedknow", {"temperature": 4.0}), 2),
    "margin": (("fedknow", PROJECTING), ("fedknow", {**PROJECTING, "margin": 0.5}), 2),
    "masks": (("fedknow", PRUNING), ("fedknow", {**PRUNING, "masks": "disjoint"}), 3),
    "signature_tasks": (("fedknow", {"signature_tasks": 1}), ("fedknow", {"signature_tasks": 2}), 4),
    "selection": (
        ("fedknow", {"signature_tasks": 1, "selection": "oldest"}),
        ("fedknow", {"signature_tasks": 1, "selection": "cosine"}),
        4,
    ),
    "selection of all": (("fedknow", {}), ("fedknow", {"selection": "random"}), STAGES),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_runs_share_their_past_as_long_as_their_settings_in_force_agree(pair: str):
    """To the bit, in all that clients and server hold and in all that is reported and planned of each visit."""
    one, other, shared = PAIRS[pair]
    left, right = Course(*one), Course(*other)
    for stage in range(min(shared + 1, STAGES)):
        left.go(range(stage, stage + 1))
        right.go(range(stage, stage + 1))
        agree = past_settings(*one, stage) == past_settings(*other, stage)
        assert agree is (stage < shared), stage
        same = (left.bits(), left.rows) == (right.bits(), right.rows)
        assert same is agree, stage


@pytest.mark.parametrize("pair", ["fedavg", "integration", "masks", "signature_tasks"])
@pytest.mark.parametrize("swapped", [False, True], ids=["forth", "back"])
def test_a_run_goes_on_from_anothers_shared_past_as_from_its_own(pair: str, swapped: bool):
    one, other, shared = PAIRS[pair]
    if swapped:
        one, other = other, one
    start, whole, forked = Course(*one), Course(*other), Course(*other)
    start.go(range(shared))
    whole.go(range(STAGES))
    forked.go_on_from(start)
    forked.go(range(shared, STAGES))
    assert forked.bits() == whole.bits()
    assert [*start.rows, *forked.rows] == whole.rows


def test_a_subclass_has_a_past_of_its_own_from_the_start():
    """It may train otherwise than FedKNOW does, from the first visit on."""

    class Mine(FedKnow):
        """As a plugin would have it."""

    said = Mine.past_settings(FedKnowSettings(), 0, finished=False)
    assert said["method"].endswith("Mine")
    assert said["integration"] == "sum"
