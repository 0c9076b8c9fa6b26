"""FedKNOW's settings: what a variant fills in, what it allows, and the bounds of each key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedknow_ray.methods.fedknow.settings import FedKnowSettings


def test_by_default_all_is_learnt_in_one_sum():
    settings = FedKnowSettings()
    assert (settings.variant, settings.integration, settings.second_use) == ("tuned", "sum", "off")


def test_by_default_all_weights_of_the_final_model_are_kept_in_four_bits_and_not_trained_again():
    settings = FedKnowSettings()
    assert (settings.retained_fraction, settings.stored_bits) == (1.0, 4)
    assert (settings.own_model, settings.retrain_epochs) == ("final", 0)


def test_the_paper_projects_and_uses_the_own_model_on_receive():
    settings = FedKnowSettings(variant="paper")
    assert (settings.integration, settings.past_heads) == ("projection", "frozen")
    assert (settings.second_use, settings.margin) == ("on_receive", 0.0)


def test_the_paper_keeps_a_tenth_of_the_last_visits_model_exactly_and_trains_it_again():
    settings = FedKnowSettings(variant="paper")
    assert (settings.retained_fraction, settings.stored_bits) == (0.1, 32)
    assert (settings.own_model, settings.retrain_epochs) == ("last_visit", 2)


def test_the_authors_code_has_its_own_margin_retraining_and_test():
    settings = FedKnowSettings(variant="authors_code")
    assert (settings.margin, settings.retrain_epochs, settings.violation_test) == (0.5, 4, "oldest_task")
    assert (settings.integration, settings.second_use, settings.selection) == ("projection", "off", "oldest")
    assert (settings.retained_fraction, settings.stored_bits, settings.own_model) == (0.1, 32, "last_visit")


def test_a_variants_defaults_can_be_set_otherwise():
    assert FedKnowSettings(variant="paper", second_use="displacement").second_use == "displacement"
    assert FedKnowSettings(variant="authors_code", margin=0.0).margin == 0.0


@pytest.mark.parametrize("key", FedKnowSettings.model_fields)
def test_the_settings_in_force_can_be_given_again(key: str):
    """A resolved config names them all, and is a config itself."""
    for variant in ("tuned", "paper", "authors_code"):
        settings = FedKnowSettings(variant=variant)
        assert getattr(FedKnowSettings(**settings.model_dump()), key) == getattr(settings, key)


@pytest.mark.parametrize(
    ("variant", "key", "value"),
    [
        ("paper", "integration", "sum"),
        ("paper", "past_heads", "trained"),
        ("paper", "violation_test", "oldest_task"),
        ("tuned", "violation_test", "oldest_task"),
        ("authors_code", "integration", "sum"),
        ("authors_code", "past_heads", "trained"),
        ("authors_code", "second_use", "on_receive"),
        ("paper", "own_model", "final"),
        ("authors_code", "own_model", "final"),
    ],
)
def test_what_a_variant_knows_one_way_only_is_not_set_otherwise(variant: str, key: str, value: str):
    with pytest.raises(ValidationError, match=f"with variant {variant}, got '{value}'"):
        FedKnowSettings(variant=variant, **{key: value})


def test_each_key_that_a_variant_does_not_know_is_told():
    with pytest.raises(ValidationError) as caught:
        FedKnowSettings(variant="paper", integration="sum", past_heads="trained")
    assert {error["loc"] for error in caught.value.errors()} == {("integration",), ("past_heads",)}


def test_a_misspelt_variant_is_told_what_was_meant():
    with pytest.raises(ValidationError, match=r"unknown variant 'tunned'.*tuned"):
        FedKnowSettings(variant="tunned")


@pytest.mark.parametrize(
    "wrong",
    [
        {"retained_fraction": 0},
        {"retained_fraction": 1.01},
        {"signature_tasks": 0},
        {"integration": "mean"},
        {"restored_weight": 0},
        {"past_heads": "moving"},
        {"second_use": "sometimes"},
        {"margin": -0.1},
        {"temperature": 0},
        {"retrain_epochs": -1},
        {"stored_bits": 5},
        {"own_model": "best"},
        {"rho": 0.1},
    ],
    ids=str,
)
def test_settings_outside_their_bounds_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FedKnowSettings(**wrong)


ALWAYS = {"retained_fraction", "retrain_epochs", "threshold", "stored_bits", "own_model"}
PAST = {"integration", "restored_weight", "past_heads", "margin", "labels", "temperature"}


@pytest.mark.parametrize(
    ("task_index", "finished", "in_force"),
    [
        (0, False, set()),
        (0, True, ALWAYS),
        (1, False, ALWAYS | PAST),
        (1, True, ALWAYS | PAST | {"masks"}),
        (2, False, ALWAYS | PAST | {"masks"}),
        (2, True, ALWAYS | PAST | {"masks"}),
        (3, False, ALWAYS | PAST | {"masks", "signature_tasks", "selection"}),
    ],
)
def test_what_is_in_force_with_two_signature_tasks(task_index: int, finished: bool, in_force: set[str]):
    """Nothing, then what is kept, then what past tasks do; masks from the second on, the choice from the third."""
    assert FedKnowSettings(signature_tasks=2).in_force(task_index, finished=finished) == in_force


@pytest.mark.parametrize("second_use", ["on_receive", "after_aggregation", "displacement"])
def test_second_use_and_its_margin_are_in_force_at_once(second_use: str):
    assert FedKnowSettings(second_use=second_use).in_force(0, finished=False) == {"second_use", "margin"}


def test_by_the_time_of_enough_tasks_all_but_the_variant_is_in_force():
    settings = FedKnowSettings(second_use="on_receive", signature_tasks=1)
    fields = FedKnowSettings.model_fields.keys()
    assert fields - settings.in_force(2, finished=True) == {"variant", "violation_test"}


def test_disjoint_masks_leave_room_for_a_second_task():
    with pytest.raises(ValueError, match="leaves no weight to a second task; lower retained_fraction"):
        FedKnowSettings(masks="disjoint")
    assert FedKnowSettings(masks="disjoint", retained_fraction=0.5).retained_fraction == 0.5
