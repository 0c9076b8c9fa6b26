"""Negative transfer: which clients a federation hurts, against the same clients that learn alone.

With a_c the accuracy of client c's own model at the end, averaged over the tasks that it has learnt, and b_c the same
without federation (same data, same seed):

    share = mean_c [a_c < b_c]          mean loss = mean_c max(0, b_c - a_c)

The mean loss is over all clients, so that a few who lose much and many who lose little can be told apart by the two.
The share is what Luopan et al., "FedKNOW", ICDE 2023, arXiv:2212.01738, report.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedknow_ray.metrics.continual import client_accuracies

# An accuracy is a ratio of counts, and a mean of few such: what is this close is equal.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class NegativeTransfer:
    """How many clients lost by not learning alone, of those that both runs scored, and how much."""

    clients: int
    share: float
    """Of the clients, those that are less accurate than alone, in [0, 1]."""
    mean_loss: float
    """Accuracy lost against learning alone, a gain counted as 0, mean over all clients; in [0, 1]."""


def final_accuracies(table: pa.Table, model: str = "own") -> dict[int, float]:
    """Return each client's accuracy after the last task, mean over its learnt tasks; without clients with no score."""
    ids_C, accuracy_CTT = client_accuracies(table, model)
    if not len(ids_C):
        return {}
    final_CT = accuracy_CTT[:, -1]
    return {int(client): float(_mean(row_T)) for client, row_T in zip(ids_C, final_CT, strict=True) if _scored(row_T)}


def negative_transfer(table: pa.Table, alone: pa.Table) -> NegativeTransfer | None:
    """Return what the clients of one accuracy table lose against *alone*, the table of a run without federation.

    None where no client has a final score of its own model in both.
    """
    final, final_alone = final_accuracies(table), final_accuracies(alone)
    shared = sorted(final.keys() & final_alone.keys())
    if not shared:
        return None
    loss_C = np.array([final_alone[client] - final[client] for client in shared])
    harmed_C = loss_C > _ROUNDING
    return NegativeTransfer(len(shared), float(harmed_C.mean()), float(np.where(harmed_C, loss_C, 0.0).mean()))


def _scored(row_T: npt.NDArray[np.float64]) -> bool:
    return not np.isnan(row_T).all()


def _mean(row_T: npt.NDArray[np.float64]) -> float:
    return float(np.nanmean(row_T))
