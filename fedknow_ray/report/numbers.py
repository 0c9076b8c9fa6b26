"""What the report shows, as plain numbers computed from a run's tables.

Shape legend: C clients, T tasks that were scored, R rounds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fedknow_ray.metrics import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    client_accuracies,
    forgetting,
    forgetting_relative,
)
from fedknow_ray.report.merges import end_s
from fedknow_ray.report.recorded import in_lockstep
from fedknow_ray.results import Run

Array = npt.NDArray[np.float64]
MODELS = ("own", "global")
PARTS = ("download", "compute", "upload", "wait")
SPREAD_PERCENTILES = (10, 90)
METHOD_FIGURES = "method_figures"
"""The kind of the events that hold a method's own figures of one visit, as JSON."""


@dataclass(frozen=True)
class AccuracyCurve:
    """Average accuracy over the learnt tasks after each task: mean over clients, and the spread between clients."""

    mean_T: Array
    low_T: Array
    high_T: Array


@dataclass(frozen=True)
class DeviceUse:
    """What the clients of one device kind did, added up over the run; seconds are virtual."""

    device: str
    clients: int
    visits: int
    lost: int
    """Those of the visits that came to nothing: late, off, failed, out of memory."""
    seconds: dict[str, float]
    """Seconds by part: download, compute, upload, wait."""
    energy_j: float | None
    """None where the energy of any visit is not known."""
    compute_s_by_task: dict[int, float]
    """Mean compute seconds of a training visit that was not lost, by task index."""


@dataclass(frozen=True)
class IntegrationUse:
    """Steps of one task whose gradient was checked against past tasks, and what came of it; None where not known.

    Steps in second use are checked against no past task; a task that has only these has 0.
    """

    task_index: int
    checked_steps: int
    changed_steps: int
    violated_after_steps: int | None
    mean_own_cosine: float | None
    """Mean cosine between the gradient and that at the client's own model, over the visits with a second use."""
    mean_knowledge_loss: float | None
    """Mean loss of the knowledge that was kept of the task; ln(classes) is what a guess has."""


@dataclass(frozen=True)
class RoundBytes:
    """Bytes of each round in the order of the virtual clock; each list has R entries."""

    task_index: list[int | None]
    round_index: list[int]
    upload_bytes: list[int]
    download_bytes: list[int]


def accuracy_curve(run: Run, model: str) -> AccuracyCurve | None:
    """Return the curve of one model, "own" or "global"; None where the run has no score of it."""
    matrix_TT = accuracy_matrix(run.accuracy, model)
    if not len(matrix_TT):
        return None
    _, accuracy_CTT = client_accuracies(run.accuracy, model)
    spread = [_spread(accuracy_CTT[:, task, : task + 1]) for task in range(len(matrix_TT))]
    means = [average_accuracy(matrix_TT[: task + 1]) for task in range(len(matrix_TT))]
    low_T, high_T = np.array(spread).T
    return AccuracyCurve(np.array([np.nan if mean is None else mean for mean in means]), low_T, high_T)


def _spread(accuracy_Ct: Array) -> tuple[float, float]:
    """Return the 10th and 90th percentile over clients of a client's mean over tasks."""
    count_C = np.sum(~np.isnan(accuracy_Ct), axis=1)
    mean_C = np.nansum(accuracy_Ct, axis=1)[count_C > 0] / count_C[count_C > 0]
    if not mean_C.size:
        return np.nan, np.nan
    low, high = np.percentile(mean_C, SPREAD_PERCENTILES)
    return float(low), float(high)


def task_ends_s(run: Run, tasks: int) -> Array:
    """Return when each of the first *tasks* tasks was over on the virtual clock, (T,); NaN where no round tells.

    A task is over when the next one begins, which is after the visits at its end. The last task ends with the run, or
    with its last round where the run did not finish. Where each client has tasks of its own, a place of their sequences
    is over when the last client has finished it; NaN where none has.
    """
    if not in_lockstep(run):
        return _last_finishes_s(run, tasks)
    index, start_s, end_s = (run.rounds[name].to_numpy() for name in ("task_index", "start_s", "end_s"))
    ends_T = np.full(tasks, np.nan)
    for task in range(tasks):
        if (index == task + 1).any():
            ends_T[task] = start_s[index == task + 1].min()
        elif (index == task).any():
            last_round_s = float(end_s[index == task].max())
            ends_T[task] = max(last_round_s, (run.summary or {}).get("virtual_time_s") or 0.0)
    return ends_T


def _last_finishes_s(run: Run, tasks: int) -> Array:
    ends_T = np.full(tasks, np.nan)
    for visit in run.visits.to_pylist():
        if visit["kind"] == "finish_task" and visit["status"] == "ok":
            ends_T[visit["task_index"]] = np.fmax(ends_T[visit["task_index"]], end_s(visit))
    return ends_T


def bytes_through_task(run: Run, tasks: int) -> Array:
    """Return the bytes, both ways, of all visits up to the end of each of the first *tasks* tasks, (T,)."""
    task = run.visits["task_index"].to_numpy()
    visit_bytes = pc.add(run.visits["upload_bytes"], run.visits["download_bytes"]).to_numpy()
    return np.array([visit_bytes[task <= last].sum() for last in range(tasks)], dtype=np.float64)


def energy_through_task(run: Run, tasks: int) -> Array:
    """Return the joules of all visits up to the end of each of the first *tasks* tasks, (T,); NaN where one's is not
    known."""
    task = run.visits["task_index"].to_numpy()
    energy_j = run.visits["energy_j"].to_numpy(zero_copy_only=False)
    return np.array([energy_j[task <= last].sum() for last in range(tasks)], dtype=np.float64)


def total_bytes(run: Run, direction: str) -> int:
    """Return the bytes of all visits in one direction, "upload" or "download"."""
    return int(run.visits[f"{direction}_bytes"].to_numpy().sum())


def device_use(run: Run) -> list[DeviceUse]:
    """Return the use of each device kind that made a visit, in the order of the fleet (of their first clients)."""
    kinds = run.visits.group_by("device").aggregate([("client_id", "min")]).sort_by("client_id_min")
    return [_use_of(run, device) for device in kinds["device"].to_pylist()]


def _use_of(run: Run, device: str) -> DeviceUse:
    visits = run.visits.filter(pc.equal(run.visits["device"], device))
    energy_known = visits["energy_j"].null_count == 0
    arrived = visits.filter(pc.equal(visits["status"], "ok"))
    trained = arrived.filter(pc.equal(arrived["kind"], "train"))
    by_task = trained.group_by("task_index").aggregate([("compute_s", "mean")]).sort_by("task_index")
    return DeviceUse(
        device=device,
        clients=pc.count_distinct(visits["client_id"]).as_py(),
        visits=visits.num_rows,
        lost=visits.num_rows - arrived.num_rows,
        seconds={part: pc.sum(visits[f"{part}_s"]).as_py() for part in PARTS},
        energy_j=pc.sum(visits["energy_j"]).as_py() if energy_known else None,
        compute_s_by_task=dict(
            zip(by_task["task_index"].to_pylist(), by_task["compute_s_mean"].to_pylist(), strict=True)
        ),
    )


def integration_by_task(run: Run) -> list[IntegrationUse]:
    """Return the counts for each task in which steps were integrated, with past tasks or in second use, in order."""
    checked = run.visits.filter(pc.fill_null(pc.greater(run.visits["integrated_steps"], 0), False))
    trained = checked.filter(pc.equal(checked["kind"], "train"))
    figures = _method_figures(run)
    in_second_use = {figure["task_index"] for figure in figures if figure.get("second_use_steps")}
    tasks = in_second_use.union(trained["task_index"].to_pylist())
    return [_integration_of(task, trained, figures) for task in sorted(tasks)]


def _integration_of(task_index: int, trained: pa.Table, figures: list[dict[str, Any]]) -> IntegrationUse:
    visits = trained.filter(pc.equal(trained["task_index"], task_index))
    of_task = [figure for figure in figures if figure["task_index"] == task_index]
    of_training = [figure for figure in of_task if figure["kind"] == "train"]
    after = _values(of_training, "violated_after_steps")
    return IntegrationUse(
        task_index=task_index,
        checked_steps=pc.sum(visits["integrated_steps"]).as_py() or 0,
        changed_steps=pc.sum(visits["violated_steps"]).as_py() or 0,
        violated_after_steps=int(sum(after)) if after else None,
        mean_own_cosine=_mean(_values(of_task, "own_gradient_cosine")),
        mean_knowledge_loss=_mean(_values(of_task, "knowledge_loss")),
    )


def _method_figures(run: Run) -> list[dict[str, Any]]:
    noted = run.events.filter(pc.equal(run.events["kind"], METHOD_FIGURES))
    return [json.loads(detail) for detail in noted["detail"].to_pylist()]


def _values(figures: list[dict[str, Any]], name: str) -> list[float]:
    return [figure[name] for figure in figures if name in figure]


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def round_bytes(run: Run) -> RoundBytes:
    """Return the bytes of the rounds, in order of task and round."""
    rounds = run.rounds.sort_by([("task_index", "ascending"), ("round_index", "ascending")])
    return RoundBytes(**{name: rounds[name].to_pylist() for name in RoundBytes.__dataclass_fields__})


def key_numbers(run: Run) -> dict[str, float | None]:
    """Return the key numbers under the names of `summary.json`: the run's own, or from the tables where it has none."""
    own_TT, global_TT = (accuracy_matrix(run.accuracy, model) for model in MODELS)
    energies = run.visits["energy_j"]
    from_tables = {
        "average_accuracy": average_accuracy(own_TT),
        "average_accuracy_global": average_accuracy(global_TT),
        "forgetting": forgetting(own_TT),
        "forgetting_relative": forgetting_relative(own_TT),
        "backward_transfer": backward_transfer(own_TT),
        "virtual_time_s": pc.max(run.rounds["end_s"]).as_py(),
        "upload_bytes": total_bytes(run, "upload"),
        "download_bytes": total_bytes(run, "download"),
        "energy_j": pc.sum(energies).as_py() if not energies.null_count else None,
        "wall_s": None,
    }
    return from_tables | {name: value for name, value in (run.summary or {}).items() if name in from_tables}
