"""What is compared: every figure of one run, under the name that it has in a comparison's table.

A figure is named by its metric, the model that it is of ("own" or "global", None where it is of no model) and the task
(None where it is of the whole run).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedknow_ray.metrics import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    forgetting_relative,
)
from fedknow_ray.metrics.transfer import forward_transfer, negative_transfer
from fedknow_ray.report.numbers import MODELS, Array, integration_by_task, key_numbers
from fedknow_ray.results import Run


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric is counted in, and which direction is the better one: None where neither is."""

    unit: str
    higher_is_better: bool | None


class Measure(NamedTuple):
    """The name of one figure."""

    metric: str
    model: str | None = None
    task_index: int | None = None


METRICS = MappingProxyType(
    {
        "average_accuracy": Metric("share", True),
        "accuracy_after_task": Metric("share", True),
        "accuracy_on_task": Metric("share", True),
        "learnt_accuracy": Metric("share", True),
        "forgetting": Metric("share", False),
        "forgetting_relative": Metric("share", False),
        "backward_transfer": Metric("share", True),
        "upload_bytes": Metric("bytes", False),
        "download_bytes": Metric("bytes", False),
        "virtual_time_s": Metric("s", False),
        "energy_j": Metric("J", False),
        "peak_memory_bytes": Metric("bytes", False),
        "kept_bytes": Metric("bytes", False),
        "wall_s": Metric("s", None),
        "host_cpu_s": Metric("s", None),
        "host_cpu_s_per_visit": Metric("s", None),
        "violated_share_before": Metric("share", None),
        "violated_share_after": Metric("share", False),
        "negative_transfer_share": Metric("share", False),
        "negative_transfer_mean": Metric("share", False),
        "forward_transfer": Metric("share", True),
    }
)
"""In the order of the table. A share of forgetting or transfer may be negative.

Host seconds have no better direction, and so no verdict: they depend on what else the host did, and of runs that share
a past all have the seconds of the one that made it.
"""

COSTS = (
    "upload_bytes",
    "download_bytes",
    "virtual_time_s",
    "energy_j",
    "peak_memory_bytes",
    "kept_bytes",
    "host_cpu_s",
    "wall_s",
)

_OF_MATRIX: dict[str, Callable[[Array], float | None]] = {
    "average_accuracy": average_accuracy,
    "learnt_accuracy": lambda matrix_TT: _mean(np.diagonal(matrix_TT)),
    "forgetting": forgetting,
    "forgetting_relative": forgetting_relative,
    "backward_transfer": backward_transfer,
}


def measures_of(run: Run) -> dict[Measure, float]:
    """Return every figure of a finished run that stands alone; what the run does not know is not in it."""
    found = [*_of_models(run), *_of_costs(run), *_of_integration(run)]
    return {measure: float(value) for measure, value in found if value is not None}


def transfer_measures(accuracy: pa.Table, alone: pa.Table) -> dict[Measure, float]:
    """Return the transfer of a run, against the run of the same seed in which every client learns alone."""
    transfer, forward = negative_transfer(accuracy, alone), forward_transfer(accuracy, alone)
    found = {} if forward is None else {Measure("forward_transfer", "own"): forward}
    if transfer is not None:
        found[Measure("negative_transfer_share", "own")] = transfer.share
        found[Measure("negative_transfer_mean", "own")] = transfer.mean_loss
    return found


_Found = Iterator[tuple[Measure, float | None]]


def _of_models(run: Run) -> _Found:
    for model in MODELS:
        matrix_TT = accuracy_matrix(run.accuracy, model)
        for metric, of_matrix in _OF_MATRIX.items():
            yield Measure(metric, model), of_matrix(matrix_TT)
        for task in range(len(matrix_TT)):
            yield Measure("accuracy_after_task", model, task), average_accuracy(matrix_TT[: task + 1])
            yield Measure("accuracy_on_task", model, task), _mean(matrix_TT[-1:, task])


def _of_costs(run: Run) -> _Found:
    numbers = key_numbers(run)
    for metric in ("upload_bytes", "download_bytes", "virtual_time_s", "energy_j", "wall_s"):
        yield Measure(metric), numbers[metric]
    peaks = run.visits["peak_memory_bytes"]
    yield Measure("peak_memory_bytes"), None if peaks.null_count else pc.max(peaks).as_py()
    # runs made before there was such a figure do not have it
    yield Measure("kept_bytes"), run.manifest.get("kept_bytes")
    yield Measure("host_cpu_s"), pc.sum(run.visits["host_cpu_s"]).as_py()
    trained = run.visits.filter(pc.equal(run.visits["kind"], "train"))
    by_task = trained.group_by("task_index").aggregate([("host_cpu_s", "mean")]).to_pylist()
    for row in sorted(by_task, key=lambda row: row["task_index"]):
        yield Measure("host_cpu_s_per_visit", None, row["task_index"]), row["host_cpu_s_mean"]


def _of_integration(run: Run) -> _Found:
    for use in integration_by_task(run):
        if use.checked_steps:
            before, after = use.changed_steps, use.violated_after_steps
            yield Measure("violated_share_before", None, use.task_index), before / use.checked_steps
            yield (
                Measure("violated_share_after", None, use.task_index),
                None if after is None else after / use.checked_steps,
            )


def _mean(values: Array) -> float | None:
    existing = values[~np.isnan(values)]
    return float(existing.mean()) if existing.size else None
