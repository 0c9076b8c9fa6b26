"""What holds for a whole run of every method: it learns, sends what was agreed, and is none of the others."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.compute as pc
import pytest
from small import tables

from fedknow_ray.experiment.run import execute
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.metrics.continual import accuracy_matrix
from fedknow_ray.results.run import Run

TEXT = """\
seed: 1
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 3, samples_per_client: 40,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 2, client_fraction: 1.0, local_epochs: 4, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 1}]
"""
#: Sends what is not its own model. FLCN and FedWEIT are in test_server_part_backends; the others are slow.
OWN_WAYS = ("apfl",)
#: BCN makes 13 passes a step; one step of each player is enough to see it learn.
SHORTER = {"bcn": {"method.input_steps": 1, "method.weight_steps": 1}}
every_method = pytest.mark.parametrize("name", METHODS.names())


@cache
def folder() -> TemporaryDirectory[str]:
    """One folder for all runs of this file; it goes when the process does."""
    return TemporaryDirectory(prefix="every-method-")


@cache
def run_of(name: str, backend: str = "local") -> Run:
    """Return a run of a method, made once."""
    place = Path(folder().name)
    config = place / "config.yaml"
    config.write_text(TEXT)
    return execute(
        config, {"method.name": name, **SHORTER.get(name, {})}, backend=backend, out=place / f"{name}-{backend}"
    )  # type: ignore[arg-type]


@every_method
def test_a_method_learns_each_task_well_above_chance(name: str):
    """Two digits to tell apart: a guess has a half right."""
    learnt_T = np.diagonal(accuracy_matrix(run_of(name).accuracy, "own"))
    assert len(learnt_T) == 2
    assert min(learnt_T) > 0.75, learnt_T


@every_method
def test_a_method_sends_something_just_if_it_federates(name: str):
    trained = run_of(name).visits.filter(pc.field("kind") == "train")
    sent = set(trained["upload_bytes"].to_pylist())
    assert (sent == {0}) is not METHODS.get(name).federated
    assert set(trained["status"].to_pylist()) == {"ok"}


@every_method
def test_a_method_has_a_global_model_just_if_it_federates(name: str):
    models = set(run_of(name).accuracy["model"].to_pylist())
    assert models == ({"own", "global"} if METHODS.get(name).federated else {"own"})


def test_no_method_is_another_under_its_name():
    """After two tasks no two global models have the same bits; without federation there is none but the first."""
    found = {name: run_of(name).summary["parameters_sha256"] for name in METHODS.names() if METHODS.get(name).federated}
    assert [pair for pair in combinations(found, 2) if found[pair[0]] == found[pair[1]]] == []


@pytest.mark.ray
@pytest.mark.parametrize(
    "name", [name if name in OWN_WAYS else pytest.param(name, marks=pytest.mark.slow) for name in METHODS.names()]
)
def test_a_method_has_the_same_bits_on_ray(name: str):
    here, there = tables(run_of(name)), tables(run_of(name, "ray"))
    assert run_of(name).summary["parameters_sha256"] == run_of(name, "ray").summary["parameters_sha256"]
    for table in here:
        if table != "events":
            assert here[table].equals(there[table]), table
