"""Training without federation: it has no settings, and no final features to make an own model of."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from workbench import Bench

from fedknow_ray.methods.local import Local


def test_nothing_is_sent():
    assert not Local.federated


@pytest.mark.parametrize("own_model", ["last_visit", "final"])
def test_there_is_no_own_model_to_choose(own_model: str):
    with pytest.raises(ValidationError, match=r"own_model\n  Extra inputs are not permitted"):
        Local.hyperparameters(own_model=own_model)


def test_a_clients_own_model_is_that_of_its_last_visit():
    assert not Bench("local").method.own_is_final
