"""Two futures of one past: the same to the bit where the past is the same, else without its knowledge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from small import Recorder, run_small, tables

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.fork import fork
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.resume import resume
from fedknow_ray.results.run import Run

LOCAL = Place("local")
THREE = {"scenario.tasks": 3, "training.rounds_per_task": 2, "scenario.samples_per_client": 10}


@pytest.fixture(scope="module")
def fedavg(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_small(tmp_path_factory.mktemp("fedavg"), THREE)


@pytest.fixture(scope="module")
def fedknow(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_small(tmp_path_factory.mktemp("fedknow"), {**THREE, "method.name": "fedknow"})


def branch(run: Run, out: Path, *overrides: str, task_index: int = 1) -> Run:
    return fork(run.path, task_index, overrides, out=out, place=LOCAL)


def past(run: Run, task_index: int) -> list[Any]:
    """Rows of rounds before a task."""
    return run.rounds.filter(pc.field("task_index") < task_index).to_pylist()


def test_a_fork_without_a_change_is_the_run(fedknow: Run, tmp_path: Path):
    run = branch(fedknow, tmp_path / "fork")
    for name, table in tables(run).items():
        assert table.equals(tables(fedknow)[name]), name
    assert run.summary is not None and fedknow.summary is not None
    assert run.summary["parameters_sha256"] == fedknow.summary["parameters_sha256"]
    assert run.manifest["started_from"]["same_past"] is True


def test_other_training_changes_the_future_alone(fedavg: Run, tmp_path: Path):
    run = branch(fedavg, tmp_path / "fork", "training.local_epochs=2", "network.latency_s=1.5", task_index=2)
    assert past(run, 2) == past(fedavg, 2)
    digests = [r.rounds["parameters_sha256"].to_pylist() for r in (run, fedavg)]
    assert len(digests[0]) == len(digests[1]) == 6
    assert digests[0][:4] == digests[1][:4] and digests[0][4] != digests[1][4]
    assert run.config["training"]["local_epochs"] == 2


@pytest.mark.parametrize("method", ["fedknow", "local"])
def test_another_method_begins_without_what_the_old_one_knew(method: str, fedavg: Run, tmp_path: Path):
    """FedKNOW has no past task to hear in task 1; in task 2 it has one, task 1."""
    run = branch(fedavg, tmp_path / "fork", f"method.name={method}")
    assert past(run, 1) == past(fedavg, 1)
    assert run.manifest["started_from"]["same_past"] is False
    assert run.manifest["started_from"]["method"] == "fedavg"
    assert run.summary is not None
    trained = run.visits.filter(pc.field("kind") == "train").to_pylist()
    phases = {task: {w["phase"] for r in trained if r["task_index"] == task for w in r["work"]} for task in range(3)}
    assert ["restore" in phases[task] for task in range(3)] == [False, False, method == "fedknow"]


def test_knowledge_is_dropped_by_a_method_that_has_none(fedknow: Run, tmp_path: Path):
    run = branch(fedknow, tmp_path / "fork", "method.name=fedavg", task_index=2)
    assert past(run, 2) == past(fedknow, 2)
    assert run.summary is not None


def test_a_fork_can_be_left_and_go_on(fedavg: Run, tmp_path: Path):
    whole = branch(fedavg, tmp_path / "whole", "method.name=fedknow")
    with pytest.raises(KeyboardInterrupt):
        fork(
            fedavg.path,
            1,
            ["method.name=fedknow"],
            out=tmp_path / "left",
            place=LOCAL,
            watcher=Recorder(KeyboardInterrupt(), after=2),
        )
    run = resume(tmp_path / "left", place=LOCAL)
    assert run.summary is not None and whole.summary is not None
    assert run.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    assert tables(run)["visits"].equals(tables(whole)["visits"])


def test_knowledge_made_with_other_settings_is_refused(fedknow: Run, tmp_path: Path):
    with pytest.raises(UserError, match=r"was made with other settings of the same method: method\.retained_fraction"):
        branch(fedknow, tmp_path / "fork", "method.retained_fraction=0.2")
    assert not (tmp_path / "fork").exists()


def test_a_method_that_cannot_do_without_its_knowledge_is_refused(fedavg: Run, tmp_path: Path):
    with pytest.raises(UserError, match="keeps knowledge of past tasks and cannot begin without that of the 1 before"):
        branch(fedavg, tmp_path / "fork", "method={name: fedknow, variant: authors_code}")


@pytest.mark.parametrize("override", ["seed=2", "scenario.tasks=2", "fleet.0.count=1", "compression.name=int8"])
def test_what_both_futures_have_in_common_cannot_change(override: str, fedavg: Run, tmp_path: Path):
    overrides = [override, *(["scenario.clients=2"] if "fleet" in override else [])]
    with pytest.raises(UserError, match=r"two futures of one past have seed, scenario, .* in common; leave out"):
        branch(fedavg, tmp_path / "fork", *overrides)


@pytest.mark.parametrize("task_index", [-1, 0, 3])
def test_only_where_a_task_begins_behind_another_there_is_a_fork(task_index: int, fedavg: Run, tmp_path: Path):
    with pytest.raises(UserError, match=r"a run of 3 tasks can be forked at 1 to 2, where that task begins"):
        branch(fedavg, tmp_path / "fork", task_index=task_index)


def test_a_run_that_was_not_saved_there_says_so(tmp_path: Path):
    run = run_small(tmp_path, {**THREE, "recovery.keep_task_ends": False})
    with pytest.raises(UserError, match=r"has no task-0-finished\.ckpt: .*recovery\.keep_task_ends"):
        branch(run, tmp_path / "fork")


def test_a_folder_that_is_no_run_is_told(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        fork(tmp_path, 1, [], place=LOCAL)


def test_the_command_forks_and_prints_the_summary(fedavg: Run, tmp_path: Path):
    from click.testing import CliRunner

    from fedknow_ray.cli.app import app

    arguments = ["resume", str(fedavg.path), "--fork-at-task", "2", "--set", "method.name=fedknow"]
    arguments += ["--out", str(tmp_path / "fork"), "--backend", "local", "--json", "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["run_dir"] == str(tmp_path / "fork")
