"""Whole runs in one process: determinism, what a run leaves behind, and what it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import yaml
from small import Recorder, run_small, tables, write_config

from fedknow_ray.errors import ConfigError, DataError, DivergenceError, RunDirectoryError, UserError
from fedknow_ray.experiment.catalogue import DEVICES
from fedknow_ray.experiment.run import execute, read_config
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import TABLES
from fedknow_ray.simulation.device import DeviceError

FEDKNOW = {
    "method.name": "fedknow",
    "method.variant": "paper",
    "training.local_epochs": 2,
    "training.rounds_per_task": 2,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def fedknow(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_small(tmp_path_factory.mktemp("fedknow"), FEDKNOW)


def digest(run: Run) -> str:
    assert run.summary is not None
    return str(run.summary["parameters_sha256"])


def kinds(run: Run) -> dict[str, int]:
    return {str(row["values"]): row["counts"] for row in run.visits["kind"].value_counts().to_pylist()}


def test_the_same_seed_gives_the_same_run(fedknow: Run, tmp_path: Path):
    again = run_small(tmp_path, FEDKNOW)
    assert digest(again) == digest(fedknow)
    for name, table in tables(fedknow).items():
        assert table.equals(tables(again)[name]), name


def test_another_seed_gives_another_run(small: Run, tmp_path: Path):
    other = run_small(tmp_path, {"seed": 2})
    assert digest(other) != digest(small)
    assert not tables(other)["visits"].equals(tables(small)["visits"])


def test_a_run_leaves_its_files_and_no_others(small: Run):
    files = {entry.name for entry in small.path.iterdir()}
    tables = {f"{table}.parquet" for table in TABLES}
    assert files == {"config.yaml", "manifest.json", "summary.json", "checkpoints", *tables}


def test_the_config_of_a_run_gives_the_same_run_again(small: Run, tmp_path: Path):
    again = execute(small.path / "config.yaml", backend="local", out=tmp_path / "again")
    assert digest(again) == digest(small)
    assert again.config == small.config


def test_every_round_has_a_visit_of_each_of_its_clients(small: Run):
    """2 of 3 clients train in each of 2 rounds; all 3 finish each of 2 tasks."""
    assert [len(clients) for clients in small.rounds["clients"].to_pylist()] == [2, 2]
    assert kinds(small) == {"train": 4, "finish_task": 6}


def test_accuracy_has_both_models_of_every_client_on_every_learnt_task(small: Run):
    rows = small.accuracy.select(["client_id", "model", "trained_task_index", "task_index"]).to_pylist()
    expected = {
        (c, model, t, i) for c in range(3) for model in ("own", "global") for t in range(2) for i in range(t + 1)
    }
    assert {tuple(row.values()) for row in rows} == expected
    assert len(rows) == len(expected)


def test_training_bytes_are_those_of_the_encoded_features(small: Run):
    """418,528 weights of cnn6 on 8 x 8 images of one channel, after a header padded to 64 bytes."""
    sent = small.visits.filter(pc.field("kind") == "train")["upload_bytes"].unique().to_pylist()
    assert sent == [64 + 4 * 418_528]


def test_virtual_time_is_that_of_the_last_end(small: Run):
    assert small.summary is not None
    ends = pc.max(small.rounds["end_s"]).as_py()
    assert small.summary["virtual_time_s"] > ends > 0


def test_a_local_run_lives_in_this_process(small: Run):
    assert small.placement["client_id"].to_pylist() == [0, 1, 2]
    assert len(small.placement["pid"].unique()) == 1
    assert small.placement["actor_id"].null_count == 3


@pytest.mark.parametrize(
    ("own_model", "settings"),
    [
        ("final", {}),
        ("last_visit", {"own_model": "last_visit"}),
        ("last_visit", {"variant": "paper", "second_use": "off"}),
    ],
    ids=["tuned", "tuned, last visit", "paper"],
)
def test_fedknow_with_one_task_and_no_second_use_is_fedavg_to_the_bit(
    own_model: str, settings: dict[str, Any], tmp_path: Path
):
    """Two rounds of everybody, so that there are visits in which second use would act."""
    common = {"scenario.tasks": 1, "training.rounds_per_task": 2, "training.client_fraction": 1.0}
    # no power of two: a mean loss times the epochs and back would be another number in a fifth of the visits
    common["training.local_epochs"] = 3
    fedavg = run_small(tmp_path / "a", {**common, "method": {"name": "fedavg", "own_model": own_model}})
    ours = run_small(tmp_path / "b", {**common, "method": {"name": "fedknow", **settings}})
    assert digest(ours) == digest(fedavg)
    assert ours.accuracy.equals(fedavg.accuracy)
    visits = [tables(run)["visits"].filter(pc.field("kind") == "train") for run in (ours, fedavg)]
    assert visits[0].equals(visits[1])


def test_fedknow_reports_its_integration(fedknow: Run):
    visits = fedknow.visits.filter((pc.field("kind") == "train") & (pc.field("task_index") == 1))
    assert all(steps > 0 for steps in visits["integrated_steps"].to_pylist())
    noted = [json.loads(event["detail"]) for event in fedknow.events.to_pylist() if event["kind"] == "method_figures"]
    later = [figures for figures in noted if figures["kind"] == "train" and figures["task_index"] == 1]
    assert later
    assert all({"round_index", "violated_after_steps"} <= figures.keys() for figures in later)


def test_a_global_head_crosses_the_link(tmp_path: Path):
    """4 rows of 1024 weights and a bias more than the features alone."""
    run = run_small(tmp_path, {"model.head": "global"})
    sent = run.visits.filter(pc.field("kind") == "train")["upload_bytes"].unique().to_pylist()
    assert sent == [128 + 4 * 418_528 + 4 * 4 * 1025]


@pytest.mark.parametrize(
    "overrides",
    [
        {"method": {"name": "fedknow"}, "model.head": "global"},
        {"method": {"name": "local"}, "model.head": "global"},
        {"method": {"name": "fedknow"}, "scenario.task_order": "shuffled"},
        {"method": {"name": "fedknow"}, "training.optimizer": {"name": "sgd", "momentum": 0.5, "weight_decay": 0.01}},
        {"method": {"name": "fedknow", "signature_tasks": 1, "selection": "cosine"}, "scenario.tasks": 3},
        {"training.shuffle": False, "scenario.partition": {"name": "iid"}},
    ],
    ids=["global head", "local method, global head", "shuffled", "sgd", "signature tasks", "unshuffled iid"],
)
def test_it_runs_to_the_end(overrides: dict[str, Any], tmp_path: Path):
    """The scheduler compares plan and count of each visit on the way."""
    run = run_small(tmp_path, overrides)
    assert run.summary is not None
    assert 0 <= run.summary["average_accuracy"] <= 1


def test_refining_visits_are_recorded_and_charged(tmp_path: Path):
    run = run_small(tmp_path, {"method": {"name": "fedknow", "second_use": "after_aggregation"}})
    assert kinds(run) == {"train": 4, "refine": 4, "finish_task": 6}
    refined = run.visits.filter(pc.field("kind") == "refine")
    assert refined["upload_bytes"].unique().to_pylist() == [0]
    assert pc.min(refined["download_bytes"]).as_py() > 0
    assert run.rounds["download_bytes"][0].as_py() == 2 * run.rounds["upload_bytes"][0].as_py()


def test_shuffled_clients_learn_in_orders_of_their_own(small: Run, tmp_path: Path):
    other = run_small(tmp_path, {"scenario.task_order": "shuffled"})
    assert digest(other) != digest(small)


def test_local_training_sends_nothing_and_has_no_global_model(tmp_path: Path):
    run = run_small(tmp_path, {"method": {"name": "local"}})
    assert run.summary is not None
    assert (run.summary["upload_bytes"], run.summary["download_bytes"]) == (0, 0)
    assert run.summary["average_accuracy_global"] is None
    assert run.accuracy["model"].unique().to_pylist() == ["own"]


def test_the_watcher_hears_of_stages_rounds_and_tasks(tmp_path: Path):
    watcher = Recorder()
    run_small(tmp_path, watcher=watcher)
    assert watcher.stages == ["reading digits", "starting 3 clients (local)"]
    assert [(p.task_index, p.round_index, p.rounds_done, p.rounds_total) for p in watcher.progress] == [
        (0, 0, 1, 2),
        (0, 1, 1, 2),
        (1, 0, 2, 2),
        (1, 1, 2, 2),
    ]
    assert watcher.progress[-1].accuracy is not None


def test_rows_are_on_the_disk_when_the_watcher_hears_of_them(tmp_path: Path):
    seen = []

    class Reader(Recorder):
        def advance(self, progress: Any) -> None:
            seen.append(load(tmp_path / "run").visits.num_rows)

    run_small(tmp_path, watcher=Reader())
    assert seen == [2, 5, 7, 10]


@pytest.mark.parametrize(("after", "visits", "accuracy"), [(1, 2, 0), (2, 5, 6), (3, 7, 6)])
def test_an_interrupted_run_keeps_what_it_recorded(after: int, visits: int, accuracy: int, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path, watcher=Recorder(KeyboardInterrupt(), after))
    run = load(tmp_path / "run")
    assert run.summary is None
    assert (run.visits.num_rows, run.accuracy.num_rows) == (visits, accuracy)
    (event,) = [event for event in run.events.to_pylist() if event["kind"] == "interrupted"]
    assert event["time_s"] > 0
    assert event["client_id"] is None


def test_an_interrupted_run_has_the_rows_of_a_whole_one(small: Run, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path, watcher=Recorder(KeyboardInterrupt(), 2))
    part = tables(load(tmp_path / "run"))["visits"]
    assert part.equals(tables(small)["visits"].slice(0, part.num_rows))


def test_a_directory_that_holds_something_is_left_as_it_is(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not empty"):
        run_small(tmp_path)
    assert [(entry.name, entry.read_text()) for entry in (tmp_path / "run").iterdir()] == [("mine.txt", "mine")]


def test_an_empty_directory_is_used(tmp_path: Path):
    (tmp_path / "run").mkdir()
    assert run_small(tmp_path).path == tmp_path / "run"


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ({"scenario.dataset": "mnist", "scenario.data_root": "/nonexistent"}, DataError),
        ({"scenario.clients": 500, "fleet": [{"device": "jetson-nano", "count": 500}]}, DataError),
        ({"method.name": "fedaverage"}, ConfigError),
        ({"scenario.tasks": 6}, ConfigError),
    ],
    ids=["no data", "more clients than data", "unknown method", "too many classes"],
)
def test_what_cannot_run_leaves_no_directory(overrides: dict[str, Any], error: type[UserError], tmp_path: Path):
    with pytest.raises(error):
        run_small(tmp_path, overrides)
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.yaml"]


def test_a_device_without_a_number_that_the_run_needs_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bare = replace(DEVICES.get("raspberry-pi-4-4gb"), sustained_flops_per_s=None)
    monkeypatch.setattr(type(DEVICES), "get", lambda self, name: bare)
    with pytest.raises(DeviceError, match="sustained_flops_per_s"):
        run_small(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.yaml"]


def test_two_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Noon:
            return cls(2026, 11, 24, 12)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedknow_ray.experiment.run.datetime", Noon)
    config = write_config(tmp_path)
    paths = [str(execute(config, {"scenario.tasks": 1}, backend="local").path) for _ in range(2)]
    assert paths == ["runs/20261124-120000-small", "runs/20261124-120000-small-2"]


def test_a_run_that_fails_before_it_wrote_anything_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no worker")

    monkeypatch.setattr("fedknow_ray.runtime.local.LocalExecutor.__init__", fail)
    with pytest.raises(RuntimeError, match="no worker"):
        run_small(tmp_path)
    assert not (tmp_path / "run").exists()


def test_an_address_goes_with_ray_only(tmp_path: Path):
    with pytest.raises(UserError, match="--address goes with --backend ray"):
        execute(write_config(tmp_path), backend="local", address="auto")


def test_without_out_the_run_goes_under_runs_with_its_time_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = execute(write_config(tmp_path), {"scenario.tasks": 1}, backend="local")
    assert run.path.parent == Path("runs")
    assert run.path.name.endswith("-small")


def test_read_config_knows_the_catalogue(tmp_path: Path):
    config = read_config(write_config(tmp_path), ["method={name: fedknow, signature_tasks: 3}"])
    assert (config.method.name, config.method.hyper.signature_tasks) == ("fedknow", 3)


def test_the_config_that_is_written_is_the_resolved_one(small: Run):
    written = yaml.safe_load((small.path / "config.yaml").read_text())
    assert written["training"]["optimizer"] == {"name": "adam", "lr": 0.001, "lr_decay": 0.0001, "weight_decay": 0.0}


def test_torchs_threads_are_put_back(tmp_path: Path):
    import torch

    before = torch.get_num_threads()
    run_small(tmp_path, {"scenario.tasks": 1})
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("method", ["fedavg", "fedknow"])
def test_diverged_training_ends_the_run_and_says_where(tmp_path: Path, method: str):
    overrides = {"method.name": method, "training.optimizer": {"name": "sgd", "lr": 1.0e30}, "training.local_epochs": 3}
    with pytest.raises(
        DivergenceError, match=r"client \d, task_index 0, round_index 0: .* lower training.optimizer.lr"
    ):
        run_small(tmp_path, overrides)
    left = load(tmp_path / "run")
    assert left.summary is None
    assert left.events["kind"].to_pylist()[-1] == "failed"
