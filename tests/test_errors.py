"""The error tree: exit statuses, suggestions, and a config's faults in one message."""

from __future__ import annotations

import pickle

import pytest

from fedknow_ray import errors
from fedknow_ray.errors import ConfigError, Fault, FedKnowError, UnknownNameError, UserError, did_you_mean


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("FedKnowError", 1),
        ("WorkerError", 1),
        ("UserError", 2),
        ("ConfigError", 2),
        ("UnknownNameError", 2),
        ("DataError", 2),
        ("RunDirectoryError", 2),
        ("PlacementError", 3),
        ("GateError", 4),
    ],
)
def test_each_error_has_its_exit_status(name: str, status: int):
    assert getattr(errors, name).exit_status == status


def test_every_error_is_in_the_tree_that_the_module_draws():
    for name, entry in vars(errors).items():
        if isinstance(entry, type) and issubclass(entry, FedKnowError):
            assert name in (errors.__doc__ or "")


def test_a_config_error_lists_all_faults_with_place_and_key():
    faults = [Fault("a.yaml:3", "seed", "must be a number"), Fault("--set", "", "needs KEY=VALUE")]
    assert str(ConfigError(faults)) == (
        "the config has 2 faults:\n  a.yaml:3: seed: must be a number\n  --set: needs KEY=VALUE"
    )


def test_one_fault_is_counted_in_the_singular():
    assert str(ConfigError([Fault("a.yaml:1", "x", "unknown")])).startswith("the config has 1 fault:\n")


def test_a_config_error_without_faults_is_our_own_mistake():
    with pytest.raises(ValueError, match="at least one fault"):
        ConfigError([])


def test_an_unknown_name_keeps_its_parts():
    error = UnknownNameError("device", "x", iter(["b", "a"]))
    assert (error.kind, error.name, error.known, str(error)) == (
        "device",
        "x",
        ("b", "a"),
        "unknown device 'x'; known: a, b",
    )
    assert isinstance(error, UserError)


def test_with_nothing_known_nothing_is_suggested():
    assert did_you_mean("x", []) == "; none is known"


@pytest.mark.parametrize(
    "error",
    [
        errors.WorkerError("client 3"),
        errors.DataError("no data"),
        errors.RunDirectoryError("not empty"),
        errors.DivergenceError("the training loss is nan"),
        errors.UnknownNameError("device", "nan", ["nano"]),
        errors.PlacementError("no node"),
        errors.ConfigError([errors.Fault("a.yaml:1", "seed", "wrong"), errors.Fault("a.yaml:2", "fleet", "wrong")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_processes_as_it_is(error: errors.FedKnowError):
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there)) == (type(error), str(error))
