"""Measures of continual learning, from the table of what each client got right on each task after each task.

With a_{t,i} the accuracy on task i after learning task t, averaged over clients with each client's own test split,
and T the last task learnt (0-based, so i < T are the past tasks):

    average accuracy      mean_{i <= T} a_{T,i}
    forgetting            mean_{i < T}  (max_{i <= t < T} a_{t,i} - a_{T,i})          Chaudhry et al., ECCV 2018
    forgetting, relative  mean_{i < T}  (a_{i,i} - a_{T,i}) / a_{i,i}                 FedKNOW, ICDE 2023
    backward transfer     mean_{i < T}  (a_{T,i} - a_{i,i})                           Lopez-Paz & Ranzato, NeurIPS 2017

Published figures differ in which of the two they call forgetting; both are given, under different names. Every client
counts once, however large its test split. A measure is None where nothing could be averaged: no accuracy at all, or a
single task, of which nothing can be forgotten yet.

Shape legend: C clients, T tasks, N rows of the table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Array = npt.NDArray[np.float64]


def client_accuracies(table: pa.Table, model: str) -> tuple[npt.NDArray[np.int64], Array]:
    """Return (client ids ascending (C,), accuracy (C, T, T)) of one `model`, "own" or "global".

    Element [c, t, i] is the share that client c got right on task i after learning task t. It is NaN where i > t (not
    learnt yet), where the table has no row, and where the client has no test data for the task. T is the last task in
    the rows of this model plus one; a model without rows gives shapes (0,) and (0, 0, 0).

    Raises:
        ValueError: if two rows are about the same client, model and pair of tasks.
    """
    rows = table.filter(pc.equal(table["model"], model))
    clients_N, trained_N, task_N, correct_N, total_N = (
        rows[name].to_numpy().astype(np.int64)
        for name in ("client_id", "trained_task_index", "task_index", "correct", "total")
    )
    ids_C, client_N = np.unique(clients_N, return_inverse=True)
    tasks = int(max(trained_N.max(), task_N.max())) + 1 if len(ids_C) else 0
    accuracy_CTT = np.full((len(ids_C), tasks, tasks), np.nan)
    cell_N = np.ravel_multi_index((client_N, trained_N, task_N), accuracy_CTT.shape) if tasks else client_N
    if len(np.unique(cell_N)) < len(cell_N):
        raise ValueError(f"the accuracy table scores a client's {model!r} model twice on one task at one time")
    scored_N = (total_N > 0) & (task_N <= trained_N)
    accuracy_CTT.flat[cell_N[scored_N]] = correct_N[scored_N] / total_N[scored_N]
    return ids_C, accuracy_CTT


def accuracy_matrix(table: pa.Table, model: str) -> Array:
    """Return the (T, T) mean over clients of `client_accuracies`; NaN where no client has a score."""
    _, accuracy_CTT = client_accuracies(table, model)
    # Summed in order of value (NaN last), so that neither row order nor client numbers can change the last bit.
    ordered_CTT = np.sort(accuracy_CTT, axis=0)
    count_TT = np.sum(~np.isnan(ordered_CTT), axis=0)
    sum_TT = np.nansum(ordered_CTT, axis=0)
    mean_TT: Array = np.divide(sum_TT, count_TT, out=np.full(sum_TT.shape, np.nan), where=count_TT > 0)
    return mean_TT


def average_accuracy(matrix_TT: Array) -> float | None:
    """Return the mean of the last row over the learnt tasks, in [0, 1]; None for an empty matrix."""
    return _mean(matrix_TT[-1]) if len(matrix_TT) else None


def forgetting(matrix_TT: Array) -> float | None:
    """Return the mean over past tasks of best earlier accuracy minus final accuracy, in [-1, 1]; None with one task.

    >>> forgetting(np.array([[0.75, np.nan], [0.5, 0.9]]))
    0.25
    """
    past = max(len(matrix_TT) - 1, 0)
    # fmax takes the number where only one side is NaN, so a column stays NaN only where it has no score at all.
    best_T = np.fmax.reduce(matrix_TT[:past, :past], axis=0, initial=np.nan)
    return _mean(best_T - _final(matrix_TT))


def forgetting_relative(matrix_TT: Array) -> float | None:
    """Return the mean over past tasks of (a_ii - a_Ti) / a_ii, the paper's forgetting rate; None with one task.

    A task with a_ii = 0 is left out: nothing was learnt that could be forgotten, and the ratio does not exist. At most
    1; it has no lower bound, since a task may become much better than it was at first.
    """
    learnt_T = _learnt(matrix_TT)
    known_T = learnt_T > 0
    return _mean((learnt_T[known_T] - _final(matrix_TT)[known_T]) / learnt_T[known_T])


def backward_transfer(matrix_TT: Array) -> float | None:
    """Return the mean over past tasks of a_Ti - a_ii, in [-1, 1], below 0 after forgetting; None with one task."""
    return _mean(_final(matrix_TT) - _learnt(matrix_TT))


def _learnt(matrix_TT: Array) -> Array:
    """Return a_ii of the past tasks, (T - 1,)."""
    return np.diagonal(matrix_TT)[:-1]


def _final(matrix_TT: Array) -> Array:
    """Return a_Ti of the past tasks, (T - 1,)."""
    return matrix_TT[-1, :-1] if len(matrix_TT) else np.empty(0)


def _mean(values: Array) -> float | None:
    """Return the mean of the values that exist, None if none does."""
    existing = values[~np.isnan(values)]
    return float(existing.mean()) if existing.size else None
