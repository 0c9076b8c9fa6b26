"""The key numbers of a run, from hand-made tables."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fedknow_ray.experiment.summary import summarise
from fedknow_ray.results.schema import TABLES


def accuracy(rows: list[tuple[int, str, int, int, int]]) -> pa.Table:
    """Rows (client, model, trained task, task, correct of 10)."""
    names = ("client_id", "model", "trained_task_index", "task_index", "correct")
    entries = [{**dict(zip(names, row, strict=True)), "total": 10} for row in rows]
    return pa.Table.from_pylist(entries, schema=TABLES["accuracy"])


def visits(energies: list[float | None]) -> pa.Table:
    columns: dict[str, Any] = {
        "upload_bytes": pa.array([10] * len(energies), pa.int64()),
        "download_bytes": pa.array([20] * len(energies), pa.int64()),
        "energy_j": pa.array(energies, pa.float64()),
    }
    return pa.table(columns)


TWO_TASKS = [
    *((c, "own", 0, 0, 9 - c) for c in range(2)),  # .9 and .8
    *((c, "own", 1, 0, 6 - c) for c in range(2)),  # .6 and .5
    *((c, "own", 1, 1, 7) for c in range(2)),
    *((c, "global", 0, 0, 8) for c in range(2)),
    *((c, "global", 1, 0, 4) for c in range(2)),
    *((c, "global", 1, 1, 6) for c in range(2)),
]


def summary(rows: list[tuple[int, str, int, int, int]], energies: list[float | None]) -> dict[str, Any]:
    return summarise(accuracy(rows), visits(energies), virtual_time_s=3.5, wall_s=0.5, parameters_sha256="ab")


def test_accuracies_are_means_over_clients_and_learnt_tasks_at_the_end():
    """Own: (.55 + .7) / 2; global: (.4 + .6) / 2."""
    got = summary(TWO_TASKS, [1.0])
    assert got["average_accuracy"] == pytest.approx(0.625)
    assert got["average_accuracy_global"] == pytest.approx(0.5)


def test_forgetting_is_that_of_the_first_task():
    """Own: .85 to .55, of .85; global: .8 to .4."""
    got = summary(TWO_TASKS, [1.0])
    assert got["forgetting"] == pytest.approx(0.3)
    assert got["forgetting_relative"] == pytest.approx(((0.9 - 0.6) / 0.9 + (0.8 - 0.5) / 0.8) / 2, abs=0.01)
    assert got["backward_transfer"] == pytest.approx(-0.3)
    assert got["forgetting_global"] == pytest.approx(0.4)


def test_with_one_task_nothing_can_be_forgotten():
    got = summary(TWO_TASKS[:2], [1.0])
    assert [got[key] for key in ("forgetting", "forgetting_relative", "backward_transfer")] == [None] * 3


def test_without_a_global_model_its_figures_are_none():
    got = summary([row for row in TWO_TASKS if row[1] == "own"], [1.0])
    assert (got["average_accuracy_global"], got["forgetting_global"]) == (None, None)


def test_bytes_and_joules_are_sums_over_all_visits():
    got = summary(TWO_TASKS, [1.5, 2.0, 3.0])
    assert (got["upload_bytes"], got["download_bytes"], got["energy_j"]) == (30, 60, 6.5)


def test_energy_is_none_where_one_visit_does_not_know_it():
    assert summary(TWO_TASKS, [1.0, None])["energy_j"] is None


def test_the_rest_is_handed_through():
    got = summary(TWO_TASKS, [1.0])
    assert (got["virtual_time_s"], got["wall_s"], got["parameters_sha256"]) == (3.5, 0.5, "ab")
