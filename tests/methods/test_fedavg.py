"""FedAvg's one setting, and what its subclasses inherit of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError
from workbench import Bench

from fedknow_ray.methods.fedavg import FedAvg, FedAvgSettings
from fedknow_ray.methods.method import Hyperparameters

NAME = "fedknow_ray.methods.fedavg.FedAvg"


class TermSettings(Hyperparameters):
    """Settings of a method that takes over FedAvg and not its settings, as the one in CONTRIBUTING.md."""

    mu: float = Field(0.1, ge=0)


class Termed(FedAvg):
    """Such a method."""

    hyperparameters = TermSettings


def past(task_index: int, *, finished: bool, **settings: Any) -> dict[str, Any]:
    return FedAvg.past_settings(FedAvgSettings(**settings), task_index, finished=finished)


def test_a_clients_own_model_is_that_of_its_last_visit_unless_said_otherwise():
    assert not Bench("fedavg").method.own_is_final
    assert Bench("fedavg", {"own_model": "final"}).method.own_is_final


@pytest.mark.parametrize("wrong", [{"own_model": "first"}, {"mu": 0.1}], ids=str)
def test_other_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        FedAvgSettings(**wrong)


@pytest.mark.parametrize("own_model", ["last_visit", "final"])
def test_no_setting_has_made_a_difference_before_the_first_end_of_a_task(own_model: str):
    assert past(0, finished=False, own_model=own_model) == {"method": NAME}


@pytest.mark.parametrize("own_model", ["last_visit", "final"])
@pytest.mark.parametrize(("task_index", "finished"), [(0, True), (1, False), (1, True)])
def test_from_there_on_the_own_model_has(own_model: str, task_index: int, finished: bool):
    assert past(task_index, finished=finished, own_model=own_model) == {"method": NAME, "own_model": own_model}


def test_the_settings_of_a_subclass_count_from_the_beginning():
    said = Termed.past_settings(TermSettings(mu=0.5), 0, finished=False)
    assert said == {"method": f"{__name__}.Termed", "mu": 0.5}


def test_a_subclass_without_the_setting_keeps_the_model_of_the_last_visit():
    method = Bench("fedavg").method
    assert not Termed(TermSettings(), method.training, method.costs).own_is_final
