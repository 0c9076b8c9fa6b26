"""Transfer: what a federation gives its clients, or takes, against the same clients that learn alone.

With a_c the accuracy of client c's own model at the end, averaged over the tasks that it has learnt, and b_c the same
without federation (same data, same seed):

    share = mean_c [a_c < b_c]          mean loss = mean_c max(0, b_c - a_c)

The mean loss is over all clients, so that a few who lose much and many who lose little can be told apart by the two.
The share is what Luopan et al., "FedKNOW", ICDE 2023, arXiv:2212.01738, report.

Forward transfer is what a task gains as it is learnt, with a_{c,i} the accuracy on task i right after learning it:

    forward transfer = mean_{c, i > 0} (a_{c,i} - b_{c,i})

That is the definition of Powder (Piao et al., ICML 2024) with the `local` run as what learns alone, which has its own
past tasks behind it. Lopez-Paz and Ranzato's (NeurIPS 2017) is of a task before it is learnt, which is not scored here.
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


def forward_transfer(table: pa.Table, alone: pa.Table) -> float | None:
    """Return what later tasks gain right after learning over *alone*, the table of a run without federation.

    The mean over clients and tasks but the first, in [-1, 1], where both have scored the own model; None where none is.
    """
    learnt, learnt_alone = _learnt(table), _learnt(alone)
    gains = [learnt[place] - learnt_alone[place] for place in sorted(learnt.keys() & learnt_alone.keys())]
    return float(np.mean(gains)) if gains else None


def _learnt(table: pa.Table) -> dict[tuple[int, int], float]:
    """Return the own models' accuracies right after learning, by client and task, of all tasks but the first."""
    ids_C, accuracy_CTT = client_accuracies(table, "own")
    return {
        (int(client), task): float(accuracy_TT[task, task])
        for client, accuracy_TT in zip(ids_C, accuracy_CTT, strict=True)
        for task in range(1, len(accuracy_TT))
        if not np.isnan(accuracy_TT[task, task])
    }


def _scored(row_T: npt.NDArray[np.float64]) -> bool:
    return not np.isnan(row_T).all()


def _mean(row_T: npt.NDArray[np.float64]) -> float:
    return float(np.nanmean(row_T))
