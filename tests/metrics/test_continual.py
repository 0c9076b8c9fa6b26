"""Continual-learning measures: hand-worked numbers, and the laws that hold for any table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.metrics import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    client_accuracies,
    forgetting,
    forgetting_relative,
)

NAN = float("nan")
COLUMNS = ("client_id", "model", "trained_task_index", "task_index", "correct", "total")

# Three tasks; task 0 was at its best after task 1, task 1 was forgotten by a quarter.
MATRIX = np.array([[0.8, NAN, NAN], [0.9, 0.4, NAN], [0.6, 0.3, 1.0]])


def table_of(*rows: tuple[int, str, int, int, int, int]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in COLUMNS]
    types = (pa.int32(), pa.string(), pa.int32(), pa.int32(), pa.int64(), pa.int64())
    return pa.table({n: pa.array(c, t) for n, c, t in zip(COLUMNS, columns, types, strict=True)})


TWO_CLIENTS = table_of(
    (0, "own", 0, 0, 8, 10),
    (1, "own", 0, 0, 3, 5),
    (0, "own", 1, 0, 5, 10),
    (1, "own", 1, 0, 2, 5),
    (0, "own", 1, 1, 10, 10),
    (1, "own", 1, 1, 1, 2),
    (0, "global", 0, 0, 1, 10),
)


def test_accuracy_matrix_gives_every_client_the_same_weight():
    """(0.8 + 0.6) / 2, although client 0 has twice the test data."""
    np.testing.assert_allclose(accuracy_matrix(TWO_CLIENTS, "own"), [[0.7, NAN], [0.45, 0.75]])


def test_accuracy_matrix_takes_only_the_rows_of_its_model():
    np.testing.assert_allclose(accuracy_matrix(TWO_CLIENTS, "global"), [[0.1]])


def test_accuracy_matrix_of_a_model_without_rows_is_empty():
    assert accuracy_matrix(TWO_CLIENTS, "other").shape == (0, 0)


def test_client_without_test_data_is_left_out_of_the_mean():
    table = table_of((0, "own", 0, 0, 3, 4), (1, "own", 0, 0, 0, 0))
    np.testing.assert_array_equal(accuracy_matrix(table, "own"), [[0.75]])


def test_score_on_a_task_that_is_not_learnt_yet_does_not_count():
    table = table_of((0, "own", 0, 0, 1, 2), (0, "own", 0, 1, 1, 2))
    np.testing.assert_array_equal(accuracy_matrix(table, "own"), [[0.5, NAN], [NAN, NAN]])


def test_scoring_the_same_thing_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        accuracy_matrix(table_of((0, "own", 0, 0, 1, 2), (0, "own", 0, 0, 2, 2)), "own")


def test_client_accuracies_come_in_order_of_client():
    ids, accuracies = client_accuracies(table_of((7, "own", 0, 0, 1, 2), (3, "own", 0, 0, 1, 4)), "own")
    assert ids.tolist() == [3, 7]
    assert accuracies[:, 0, 0].tolist() == [0.25, 0.5]


def test_average_accuracy_is_the_mean_of_the_last_row():
    assert average_accuracy(MATRIX) == pytest.approx((0.6 + 0.3 + 1.0) / 3)


def test_forgetting_counts_from_the_best_earlier_accuracy():
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.6) + (0.4 - 0.3)) / 2)


def test_relative_forgetting_counts_from_the_accuracy_when_learnt():
    assert forgetting_relative(MATRIX) == pytest.approx(((0.8 - 0.6) / 0.8 + (0.4 - 0.3) / 0.4) / 2)


def test_relative_forgetting_leaves_out_a_task_that_was_never_learnt():
    matrix = np.array([[0.0, NAN, NAN], [0.1, 0.5, NAN], [0.1, 0.25, 1.0]])
    assert forgetting_relative(matrix) == pytest.approx(0.5)


def test_relative_forgetting_is_none_where_no_past_task_was_learnt():
    assert forgetting_relative(np.array([[0.0, NAN], [0.5, 0.5]])) is None


def test_backward_transfer_is_negative_where_tasks_were_forgotten():
    assert backward_transfer(MATRIX) == pytest.approx(((0.6 - 0.8) + (0.3 - 0.4)) / 2)


@pytest.mark.parametrize("measure", [forgetting, forgetting_relative, backward_transfer])
def test_nothing_can_be_forgotten_with_one_task(measure):
    assert measure(np.array([[0.5]])) is None


@pytest.mark.parametrize("measure", [average_accuracy, forgetting, forgetting_relative, backward_transfer])
def test_empty_matrix_has_no_measures(measure):
    assert measure(np.empty((0, 0))) is None


def test_missing_score_of_one_past_task_leaves_the_others():
    matrix = np.array([[NAN, NAN, NAN], [NAN, 0.5, NAN], [0.9, 0.2, 1.0]])
    assert forgetting(matrix) == pytest.approx(0.3)


@st.composite
def score_tables(draw: st.DrawFn) -> list[tuple[int, str, int, int, int, int]]:
    clients, tasks = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rows = []
    for client in range(clients):
        for trained in range(tasks):
            for task in range(trained + 1):
                total = draw(st.integers(1, 7))
                rows.append((client, "own", trained, task, draw(st.integers(0, total)), total))
    return rows


def slow_matrix(rows: list[tuple[int, str, int, int, int, int]]) -> list[list[float]]:
    """The same mean, as one would write it down."""
    tasks = 1 + max(row[2] for row in rows)
    matrix = [[NAN] * tasks for _ in range(tasks)]
    for trained in range(tasks):
        for task in range(trained + 1):
            shares = [row[4] / row[5] for row in rows if (row[2], row[3]) == (trained, task)]
            matrix[trained][task] = sum(shares) / len(shares)
    return matrix


@given(score_tables())
def test_matrix_equals_its_slow_twin(rows):
    np.testing.assert_allclose(accuracy_matrix(table_of(*rows), "own"), slow_matrix(rows), rtol=1e-12)


@given(score_tables(), st.randoms())
def test_renumbering_clients_and_shuffling_rows_change_no_bit(rows, random):
    ids = random.sample(range(100), 4)
    renumbered = [(ids[row[0]], *row[1:]) for row in rows]
    random.shuffle(renumbered)
    np.testing.assert_array_equal(
        accuracy_matrix(table_of(*renumbered), "own"), accuracy_matrix(table_of(*rows), "own")
    )


@given(score_tables())
def test_measures_stay_in_their_bounds(rows):
    matrix = accuracy_matrix(table_of(*rows), "own")
    assert 0 <= average_accuracy(matrix) <= 1
    assert -1 <= (forgetting(matrix) or 0) <= 1
    assert -1 <= (backward_transfer(matrix) or 0) <= 1
    assert (forgetting_relative(matrix) or 0) <= 1


@given(score_tables())
def test_forgetting_is_at_least_the_backward_transfer_turned_round(rows):
    """The best earlier accuracy is at least the accuracy when the task was learnt."""
    matrix = accuracy_matrix(table_of(*rows), "own")
    if len(matrix) > 1:
        assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12
