"""Whole runs by what a client's own model is once a task is over: that of its last visit, or the final one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from small import run_small, write_config

from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.run import read_config
from fedknow_ray.results.run import Run

#: So few steps that the models of a run are not all right, and not alike.
COMMON = {"training.rounds_per_task": 2, "scenario.samples_per_client": 30}
#: How many of its images a client gets right, by (client, task after which, task).
Scores = dict[tuple[int, int, int], int]


def scores(run: Run, model: str) -> Scores:
    rows = run.accuracy.filter(pc.field("model") == model).to_pylist()
    return {(row["client_id"], row["trained_task_index"], row["task_index"]): row["correct"] for row in rows}


def go(folder: Path, **method: Any) -> Run:
    return run_small(folder, {**COMMON, "method": method})


@pytest.mark.parametrize("name", ["fedavg", "fedknow"])
def test_with_the_final_model_as_its_own_a_client_has_one_model(name: str, tmp_path: Path):
    """With a local head the global model is the final features under the client's head, and so is its own."""
    run = go(tmp_path, name=name, own_model="final")
    assert len(scores(run, "own")) == 3 * (1 + 2)
    assert scores(run, "own") == scores(run, "global")


@pytest.mark.parametrize("name", ["fedavg", "fedknow"])
def test_with_the_model_of_its_last_visit_it_has_two(name: str, tmp_path: Path):
    run = go(tmp_path, name=name, own_model="last_visit")
    assert scores(run, "own") != scores(run, "global")


def test_every_client_trains_its_head_at_a_tasks_end_where_the_final_model_is_its_own(tmp_path: Path):
    """3 clients, 2 tasks; of 3 clients 2 are in each round. Who trains has a loss, and takes longer."""
    ends = [
        go(tmp_path / own_model, name="fedavg", own_model=own_model).visits.filter(pc.field("kind") == "finish_task")
        for own_model in ("final", "last_visit")
    ]
    assert ends[0]["loss"].null_count == 0
    assert ends[1]["loss"].null_count > 0
    phases = [[{step["phase"] for step in work} for work in visits["work"].to_pylist()] for visits in ends]
    assert all(of_visit == {"head", "evaluate"} for of_visit in phases[0])
    assert {"evaluate"} in phases[1]


def test_the_rounds_of_fedavg_are_the_same_whatever_its_own_model_is(tmp_path: Path):
    """In the bits of the global model; the heads that its next task starts from are of that task, and untouched."""
    digests = [
        (go(tmp_path / own_model, name="fedavg", own_model=own_model).summary or {})["parameters_sha256"]
        for own_model in ("final", "last_visit")
    ]
    assert digests[0] == digests[1]


def test_local_has_no_own_model_to_choose(tmp_path: Path):
    with pytest.raises(ConfigError) as refused:
        read_config(write_config(tmp_path), ["method.name=local", "method.own_model=final"])
    (fault,) = refused.value.faults
    assert str(fault) == "--set method.own_model=final: method.own_model: unknown key; known: name"
