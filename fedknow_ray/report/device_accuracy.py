"""What the clients on each kind of device learn and forget, as plain numbers.

Shape legend: T tasks that were scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedknow_ray.metrics import accuracy_matrix, average_accuracy, forgetting
from fedknow_ray.report.numbers import Array
from fedknow_ray.report.recorded import device_of_clients
from fedknow_ray.results import Run


@dataclass(frozen=True)
class DeviceAccuracy:
    """The mean over the clients on one kind of device, of one model, after each task; NaN where there is none."""

    device: str
    clients: int
    accuracy_T: Array
    """Average accuracy over the tasks learnt so far, (T,)."""
    forgetting_T: Array
    """Mean over the past tasks of best earlier accuracy minus the present one, (T,); NaN after the first task."""


def accuracy_by_device(run: Run, model: str) -> list[DeviceAccuracy]:
    """Return what each kind of device reaches with a model, "own" or "global", in the order of their first clients.

    Clients count once each, as in the measures of the whole run. Kinds without a score are left out.
    """
    clients_of: dict[str, list[int]] = {}
    for client_id, device in device_of_clients(run).items():
        clients_of.setdefault(device, []).append(client_id)
    found = []
    for device, client_ids in clients_of.items():
        scores = run.accuracy.filter(pc.is_in(run.accuracy["client_id"], pa.array(client_ids, pa.int32())))
        matrix_TT = accuracy_matrix(scores, model)
        if len(matrix_TT):
            found.append(_of_matrix(device, len(client_ids), matrix_TT))
    return found


def _of_matrix(device: str, clients: int, matrix_TT: Array) -> DeviceAccuracy:
    learnt = [matrix_TT[: task + 1, : task + 1] for task in range(len(matrix_TT))]
    return DeviceAccuracy(
        device,
        clients,
        accuracy_T=np.array([_known(average_accuracy(so_far_TT)) for so_far_TT in learnt]),
        forgetting_T=np.array([_known(forgetting(so_far_TT)) for so_far_TT in learnt]),
    )


def _known(value: float | None) -> float:
    return np.nan if value is None else value
