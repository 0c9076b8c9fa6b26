"""What surrounds a run in which tasks come by time: forecasts, replays, saving, comparing, and reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import TEXT, run_small, write_config

from fedknow_ray.errors import ConfigError, UserError
from fedknow_ray.experiment.assembly import open_data, put_together
from fedknow_ray.experiment.forecast import forecast_file
from fedknow_ray.experiment.run import execute, read_config
from fedknow_ray.experiment.stress import tell
from fedknow_ray.experiment.what_if import what_if
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.report.blame import round_blame
from fedknow_ray.report.numbers import task_ends_s
from fedknow_ray.report.page import write_report
from fedknow_ray.report.visit_choice import NoSuchVisit, choose_visits
from fedknow_ray.results.run import Run

EVERY = {"task_arrival": {"every_s": 30}, "training.client_fraction": 1.0}
BUFFERED = {**EVERY, "policy": {"name": "fedbuff", "buffer_size": 2}, "failures.probability": 0.2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_small(tmp_path_factory.mktemp("every"), EVERY)


@pytest.mark.parametrize("overrides", [EVERY, BUFFERED], ids=["rounds", "fedbuff"])
def test_a_run_records_what_was_forecast(overrides: dict[str, Any], tmp_path: Path):
    config = write_config(tmp_path)
    sets = ["task_arrival={every_s: 30}", "training.client_fraction=1.0"]
    sets += ["policy={name: fedbuff, buffer_size: 2}", "failures.probability=0.2"] if overrides is BUFFERED else []
    ((_, told),) = forecast_file(config, sets)
    run = run_small(tmp_path, overrides)
    assert run.summary is not None
    for key in ("virtual_time_s", "upload_bytes", "download_bytes", "energy_j"):
        assert getattr(told, key) == run.summary[key], key
    assert told.visits == run.visits.num_rows
    first, second = told.tasks
    assert first.start_s == 0.0
    assert second.start_s == 30.0
    assert first.end_s < 30.0 < second.end_s == told.virtual_time_s


def test_the_course_without_training_is_that_of_the_run(run: Run, tmp_path: Path):
    config = read_config(write_config(tmp_path), EVERY)
    flights, time_s = tell(put_together(config, open_data(config)))
    assert run.summary is not None
    assert (len(flights), time_s) == (run.visits.num_rows, run.summary["virtual_time_s"])


def test_a_replay_says_that_it_takes_training(run: Run):
    answer = what_if(run.path, {"network.uplink_bytes_per_s": 1e5})
    assert not answer.valid
    assert answer.reason is not None
    assert answer.reason.startswith("tasks come to each client by time")


def test_it_cannot_be_saved_between_tasks(tmp_path: Path):
    options: dict[str, Any] = {"backend": "local", "out": tmp_path / "run", "save_at": [Boundary(0, True)]}
    with pytest.raises(UserError, match="they come to each client by time"):
        execute(write_config(tmp_path), EVERY, **options, checkpoints=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_broken_trace_is_found_before_anything_is_written(tmp_path: Path):
    (tmp_path / "a.csv").write_text("client_id,time_s,task\n0,0,0\n")
    with pytest.raises(ConfigError, match="has no row for 2 of the 3 clients: 1, 2"):
        run_small(tmp_path, {"task_arrival": {"trace": str(tmp_path / "a.csv")}})
    assert not (tmp_path / "run").exists()


def test_a_sequence_is_learnt_in_lockstep_as_well(tmp_path: Path):
    run = run_small(tmp_path, {"scenario.task_order": [1, 0, 1]})
    assert sorted(set(run.visits["task_index"].to_pylist())) == [0, 1, 2]
    rows = run.accuracy.to_pylist()
    last = {(r["client_id"], r["model"], r["task_index"]): r["correct"] for r in rows if r["trained_task_index"] == 2}
    assert all(last[client, model, 0] == last[client, model, 2] for client, model, _ in last)


def test_the_seconds_of_a_round_are_its_clients_but_for_the_wait_for_a_task(run: Run):
    """The end of the task before, after the round before, is its client's as well."""
    blames = round_blame(run)
    assert [(blame.task_index, blame.index) for blame in blames] == [(None, 0), (None, 1)]
    second = blames[1]
    nobodys_s = sum(share.amount for share in second.shares if share.client_id is None)
    (culprit,) = second.client_ids
    rows = [row for row in run.visits.to_pylist() if row["client_id"] == culprit]
    (finish,) = (row for row in rows if row["kind"] == "finish_task" and row["task_index"] == 0)
    assert nobodys_s == pytest.approx(30.0 - finish["start_s"] - finish["download_s"] - finish["compute_s"])
    assert sum(share.amount for share in second.shares) == pytest.approx(second.amount)


def test_a_place_is_over_when_the_last_client_has_finished_it(run: Run):
    ends = [
        row["start_s"] + row["download_s"] + row["compute_s"]
        for row in run.visits.to_pylist()
        if row["kind"] == "finish_task" and row["task_index"] == 0
    ]
    assert task_ends_s(run, 2)[0] == pytest.approx(max(ends))


def test_a_visit_is_found_by_its_round_of_the_run_or_by_its_task(run: Run):
    (of_run,) = choose_visits(run, 1, 1)
    (of_task,) = choose_visits(run, 1, 0, task_index=1)
    assert of_run == of_task
    assert (of_run["task_index"], of_run["kind"], of_run["start_s"]) == (1, "train", 30.0)
    with pytest.raises(NoSuchVisit, match="there is no round 2; the run has rounds 0 to 1"):
        choose_visits(run, 1, 2)


def test_the_report_has_every_section(run: Run):
    page = write_report(run).read_text(encoding="utf-8")
    assert "round 1" in page
    assert "None" not in page.split("<script")[0]


def test_such_a_config_is_text_that_gives_itself(tmp_path: Path):
    config = read_config(write_config(tmp_path, TEXT + "task_arrival: {every_s: 1 h}\n"))
    assert config.to_dict()["task_arrival"] == {"every_s": 3600.0}
