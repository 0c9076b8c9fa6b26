"""The numbers behind the plots, worked out by hand on a run small enough to do so."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from fedknow_ray.report.numbers import (
    IntegrationUse,
    accuracy_curve,
    bytes_through_task,
    device_use,
    energy_through_task,
    integration_by_task,
    key_numbers,
    round_bytes,
    task_ends_s,
)
from fedknow_ray.results import AccuracyRow, EventRow, ResultStore, RoundRow, RunDirectory, VisitRow, load

VISIT = VisitRow(
    client_id=0,
    device="slow",
    task_index=0,
    round_index=0,
    kind="train",
    status="ok",
    download_s=1.0,
    compute_s=10.0,
    upload_s=2.0,
    wait_s=0.0,
    download_bytes=100,
    upload_bytes=200,
    flops=1,
    moved_bytes=1,
    peak_memory_bytes=None,
    energy_j=5.0,
    loss=1.0,
    integrated_steps=None,
    violated_steps=None,
    host_wall_s=0.5,
    host_cpu_s=0.25,
    start_s=0.0,
    work=[],
    model_version=0,
    merge_index=0,
)
FINISH = {"kind": "finish_task", "round_index": 1, "upload_bytes": 0, "upload_s": 0.0, "loss": None}


def new_directory(path):
    directory = RunDirectory.create(path)
    directory.write_config("seed: 1\n")
    directory.write_manifest({})
    return directory


@pytest.fixture
def tiny_run(tmp_path):
    """Two clients, two tasks of one round; a visit of 3 s at the end of the first task."""
    directory = new_directory(tmp_path)
    store = ResultStore(directory)
    store.append(
        [
            VISIT,
            dataclasses.replace(VISIT, **FINISH, compute_s=2.0),
            dataclasses.replace(VISIT, task_index=1, compute_s=20.0),
            dataclasses.replace(VISIT, client_id=1, device="fast", task_index=1, compute_s=4.0, energy_j=None),
            RoundRow(0, 0, 0.0, 13.0, [0], 200, 100),
            RoundRow(1, 0, 16.0, 39.0, [0, 1], 400, 200),
            AccuracyRow(0, "own", 0, 0, 8, 10),
            AccuracyRow(1, "own", 0, 0, 6, 10),
            AccuracyRow(0, "own", 1, 0, 4, 10),
            AccuracyRow(1, "own", 1, 0, 6, 10),
            AccuracyRow(0, "own", 1, 1, 10, 10),
            AccuracyRow(1, "own", 1, 1, 10, 10),
        ]
    )
    store.flush()
    return load(directory.path)


def test_curve_is_the_mean_over_clients_and_learnt_tasks(tiny_run):
    np.testing.assert_allclose(accuracy_curve(tiny_run, "own").mean_T, [0.7, 0.75])


def test_curve_spreads_from_the_tenth_to_the_ninetieth_percentile_of_clients(tiny_run):
    """Clients at 0.6 and 0.8, then at 0.7 and 0.8; percentiles interpolate between the two."""
    curve = accuracy_curve(tiny_run, "own")
    np.testing.assert_allclose(curve.low_T, [0.62, 0.71])
    np.testing.assert_allclose(curve.high_T, [0.78, 0.79])


def test_model_without_scores_has_no_curve(tiny_run):
    assert accuracy_curve(tiny_run, "global") is None


def test_task_is_over_when_the_next_begins_and_the_last_with_its_last_round(tiny_run):
    assert task_ends_s(tiny_run, 2).tolist() == [16.0, 39.0]


def test_last_task_of_a_finished_run_ends_with_the_run(tiny_run):
    finished = dataclasses.replace(tiny_run, summary={"virtual_time_s": 42.0})
    assert task_ends_s(finished, 2).tolist() == [16.0, 42.0]


def test_task_without_rounds_has_no_end(tiny_run):
    assert np.isnan(task_ends_s(tiny_run, 3)[2])


def test_bytes_count_all_visits_up_to_the_end_of_the_task(tiny_run):
    assert bytes_through_task(tiny_run, 2).tolist() == [400, 1000]


def test_energy_counts_all_visits_up_to_the_end_of_the_task(tiny_run):
    """5 J each; the visit on "fast" in the second task has no joules."""
    np.testing.assert_array_equal(energy_through_task(tiny_run, 2), [10.0, np.nan])


def test_device_kinds_come_in_the_order_of_the_fleet(tiny_run):
    assert [use.device for use in device_use(tiny_run)] == ["slow", "fast"]


def test_device_use_adds_up_the_visits(tiny_run):
    slow = device_use(tiny_run)[0]
    assert (slow.clients, slow.visits, slow.lost, slow.energy_j) == (1, 3, 0, 15.0)
    assert slow.seconds == {"download": 3.0, "compute": 32.0, "upload": 4.0, "wait": 0.0}


def test_compute_by_task_is_the_mean_of_training_visits(tiny_run):
    assert device_use(tiny_run)[0].compute_s_by_task == {0: 10.0, 1: 20.0}


def test_lost_visits_count_and_are_not_in_the_mean_of_computing(tmp_path):
    store = ResultStore(new_directory(tmp_path))
    store.append([VISIT, dataclasses.replace(VISIT, round_index=1, compute_s=0.0, status="offline", merge_index=None)])
    store.flush()
    (use,) = device_use(load(tmp_path))
    assert (use.visits, use.lost, use.compute_s_by_task) == (2, 1, {0: 10.0})


def test_energy_is_unknown_where_one_visit_lacks_it(tiny_run):
    assert device_use(tiny_run)[1].energy_j is None


def figures(kind, **values):
    return EventRow(1.0, "method_figures", 0, json.dumps({"task_index": 1, "round_index": 0, "kind": kind, **values}))


def test_integration_counts_steps_against_past_tasks_alone(tmp_path):
    """A second use gives its cosine, and the end of a task its loss and shares, but no step."""
    steps = dataclasses.replace(VISIT, task_index=1, integrated_steps=10, violated_steps=4)
    store = ResultStore(new_directory(tmp_path))
    store.append(
        [
            steps,
            figures("train", violated_after_steps=3.0),
            figures("refine", second_use_steps=5.0, second_use_violated_after_steps=2.0, own_gradient_cosine=0.25),
            figures("finish_task", knowledge_loss=0.5, **{"kept_share/a.weight": 0.1}),
        ]
    )
    store.flush()
    use = IntegrationUse(1, 10, 4, violated_after_steps=3, mean_own_cosine=0.25, mean_knowledge_loss=0.5)
    assert integration_by_task(load(tmp_path)) == [use]


def test_a_task_with_second_use_alone_has_no_steps(tmp_path):
    store = ResultStore(new_directory(tmp_path))
    store.append([VISIT, figures("train", second_use_steps=5.0, own_gradient_cosine=0.25)])
    store.flush()
    assert integration_by_task(load(tmp_path)) == [IntegrationUse(1, 0, 0, None, 0.25, None)]


def test_round_bytes_follow_the_rounds(tiny_run):
    rounds = round_bytes(tiny_run)
    assert (rounds.task_index, rounds.upload_bytes, rounds.download_bytes) == ([0, 1], [200, 400], [100, 200])


def test_key_numbers_of_an_unfinished_run_come_from_its_tables(tiny_run):
    numbers = key_numbers(tiny_run)
    assert numbers == {
        "average_accuracy": pytest.approx(0.75),
        "average_accuracy_global": None,
        "forgetting": pytest.approx(0.2),
        "forgetting_relative": pytest.approx(0.2 / 0.7),
        "backward_transfer": pytest.approx(-0.2),
        "virtual_time_s": 39.0,
        "upload_bytes": 600,
        "download_bytes": 400,
        "energy_j": None,
        "wall_s": None,
    }


def test_summary_of_a_finished_run_comes_before_the_tables(tiny_run):
    finished = dataclasses.replace(tiny_run, summary={"average_accuracy": 0.5, "parameters_sha256": "ab"})
    numbers = key_numbers(finished)
    assert numbers["average_accuracy"] == 0.5
    assert "parameters_sha256" not in numbers
