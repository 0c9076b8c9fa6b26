"""The sections of the report: what each says, its plots, and what it says where a run lacks the data for it."""

from __future__ import annotations

from html import escape

import numpy as np
import pyarrow.compute as pc

from fedknow_ray.metrics import accuracy_matrix
from fedknow_ray.report import figures
from fedknow_ray.report.blame_section import blame_section
from fedknow_ray.report.device_accuracy import accuracy_by_device
from fedknow_ray.report.document import Plot, Section
from fedknow_ray.report.numbers import (
    METHOD_FIGURES,
    MODELS,
    PARTS,
    SPREAD_PERCENTILES,
    AccuracyCurve,
    accuracy_curve,
    bytes_through_task,
    device_use,
    energy_through_task,
    integration_by_task,
    round_bytes,
    task_ends_s,
    total_bytes,
)
from fedknow_ray.report.recorded import has_rounds
from fedknow_ray.report.tables import (
    accuracy_table,
    device_accuracy_table,
    device_table,
    events_table,
    integration_table,
)
from fedknow_ray.results import Run
from fedknow_ray.units import format_bytes, format_duration


def build_sections(run: Run) -> list[Section]:
    """Return the sections of the report in their order."""
    curves = {model: curve for model in MODELS if (curve := accuracy_curve(run, model)) is not None}
    return [
        _accuracy(curves),
        _matrices(run),
        _accuracy_at_a_price(run, curves),
        _accuracy_of_devices(run, curves),
        _devices(run),
        blame_section(run),
        _bytes(run),
        *_integration(run),
        _events(run),
        _host(run),
    ]


def _no_scores(curves: dict[str, AccuracyCurve]) -> str:
    return "" if curves else "No task was finished, so nothing has been scored."


def _accuracy(curves: dict[str, AccuracyCurve]) -> Section:
    low, high = SPREAD_PERCENTILES
    caption = (
        f"Lines: mean over clients. Bands: the {low}th to the {high}th percentile of the clients. "
        "A client's average accuracy is the mean over the tasks that it has learnt, on its own test data."
    )
    if curves and "global" not in curves:
        caption += " This run has no scores of a global model."
    figure = figures.accuracy_over_tasks(curves) if curves else None
    return Section(
        "Accuracy over tasks",
        "How accurate the clients are on everything learnt so far, after each task. The own model is the client's; "
        "the global model is the aggregated parameters under the client's head.",
        (Plot("accuracy-over-tasks", "Average accuracy after each task", caption, figure, _no_scores(curves)),),
    )


def _matrices(run: Run) -> Section:
    matrices = {model: accuracy_matrix(run.accuracy, model) for model in MODELS}
    plots = tuple(
        Plot(
            f"accuracy-matrix-{model}",
            f"{model.capitalize()} model",
            "Rows: the last task learnt. Columns: the task scored. Mean over clients.",
            figures.accuracy_heat_map(matrix_TT) if len(matrix_TT) else None,
            f"This run has no scores of the {model} model.",
            height_px=400,
        )
        for model, matrix_TT in matrices.items()
    )
    return Section(
        "Accuracy of each task after each task",
        "Read a column downwards to see what becomes of a task while later ones are learnt. "
        "Tasks are numbered from 1 here; <code>task_index</code> in the tables counts from 0.",
        plots,
        "".join(accuracy_table(matrix_TT, model) for model, matrix_TT in matrices.items() if len(matrix_TT)),
    )


def _accuracy_at_a_price(run: Run, curves: dict[str, AccuracyCurve]) -> Section:
    time_figure = energy_figure = bytes_figure = None
    no_energy = _no_scores(curves)
    if curves:
        tasks = max(len(curve.mean_T) for curve in curves.values())
        ends_s, sizes = task_ends_s(run, tasks), bytes_through_task(run, tasks)
        second_scale, second_unit = figures.time_unit(max(ends_s, default=0.0))
        byte_scale, byte_unit = figures.byte_unit(max(sizes, default=0.0))
        time_figure = figures.accuracy_against(ends_s / second_scale, curves, unit=second_unit, quantity="virtual time")
        bytes_figure = figures.accuracy_against(sizes / byte_scale, curves, unit=byte_unit, quantity="bytes, both ways")
        energy_figure, no_energy = _accuracy_against_energy(energy_through_task(run, tasks), curves)
    return Section(
        "What the accuracy costs",
        "The same average accuracy, against what had been spent when each task was over. One mark for each task.",
        (
            Plot(
                "accuracy-against-time",
                "Against virtual time",
                "Seconds that the fleet would have taken, by the device profiles and the links.",
                time_figure,
                _no_scores(curves),
            ),
            Plot(
                "accuracy-against-energy",
                "Against energy",
                "Joules of all visits together. A board outside the cohort has no visit, and counts as switched off.",
                energy_figure,
                no_energy,
            ),
            Plot(
                "accuracy-against-bytes",
                "Against bytes",
                "Uploads and downloads of all clients together, counted on the encoded payloads.",
                bytes_figure,
                _no_scores(curves),
            ),
        ),
    )


def _accuracy_against_energy(
    energy_T: figures.Array, curves: dict[str, AccuracyCurve]
) -> tuple[figures.Figure | None, str]:
    """Return the figure, or None and why there is none."""
    if np.isnan(energy_T).any():
        return None, "A device's profile gives no power, so nobody knows the joules."
    scale, unit = figures.energy_unit(max(energy_T, default=0.0))
    return figures.accuracy_against(energy_T / scale, curves, unit=unit, quantity="energy"), ""


def _accuracy_of_devices(run: Run, curves: dict[str, AccuracyCurve]) -> Section:
    of_model = {model: accuracy_by_device(run, model) for model in MODELS}
    own = of_model["own"] or of_model["global"]
    word = "own" if of_model["own"] else "global"
    accuracy = {of.device: of.accuracy_T for of in own}
    lost = {of.device: of.forgetting_T for of in own if not np.isnan(of.forgetting_T).all()}
    lost_axis = {"tickformat": ".0%", "zeroline": True, "zerolinecolor": "$grid"}
    return Section(
        "Accuracy on each kind of device",
        "Clients on one kind of device together. Where slow boards come too late or are left out, it shows here first.",
        (
            Plot(
                "accuracy-per-device",
                "Average accuracy after each task",
                f"Mean over the clients of each kind, {word} model.",
                figures.share_per_device(accuracy, "average accuracy") if accuracy else None,
                _no_scores(curves),
            ),
            Plot(
                "forgetting-per-device",
                "Forgetting after each task",
                f"Best earlier accuracy minus the present one, mean over the past tasks; {word} model.",
                figures.share_per_device(lost, "forgetting", axis=lost_axis) if lost else None,
                _no_scores(curves) or "With a single task nothing can be forgotten.",
            ),
        ),
        device_accuracy_table(of_model) if own else "",
    )


def _devices(run: Run) -> Section:
    uses = device_use(run)
    missing = "" if uses else "No visit was finished."
    trained = any(use.compute_s_by_task for use in uses)
    return Section(
        "Time on each kind of device",
        "Virtual seconds, from each device's profile, its link and the work that was counted.",
        (
            Plot(
                "time-per-device",
                "Where a client's time goes",
                f"Mean of the clients of each kind, over the whole run: {', '.join(PARTS)}. {_waiting(run)}",
                figures.time_per_device(uses) if uses else None,
                missing,
                height_px=150 + 46 * len(uses),
            ),
            Plot(
                "compute-over-tasks",
                "Computing, task by task",
                "Mean compute time of one training visit that was not lost. A rising line means that the method costs "
                "more with each past task.",
                figures.compute_over_tasks(uses) if trained else None,
                missing or "No training visit was finished.",
            ),
        ),
        (device_table(uses) if uses else "") + _estimates(run.manifest.get("estimated_device_fields")),
    )


def _waiting(run: Run) -> str:
    if has_rounds(run):
        return "Waiting is the time from the end of a client's upload to the end of its round."
    return "Waiting is the time from the end of an upload until it is merged, or until its client trains again."


def _estimates(fields: object) -> str:
    """Return the note on estimated numbers; *fields* is {device: [field, ...]} or a plain list, from the manifest."""
    if isinstance(fields, dict):
        items = [
            f"<strong>{escape(str(device))}</strong>: {_joined(names)}" for device, names in fields.items() if names
        ]
    else:
        items = [_joined(fields)] if fields else []
    if not items:
        return ""
    listed = "".join(f"<li>{item}</li>" for item in items)
    return (
        "<div class='note'><p>Some numbers of the device profiles are estimated, not measured. "
        f"Times and energy that rest on them are estimates too.</p><ul>{listed}</ul></div>"
    )


def _joined(names: object) -> str:
    return escape(", ".join(map(str, names)) if isinstance(names, list | tuple | dict) else str(names))


def _bytes(run: Run) -> Section:
    rounds = round_bytes(run)
    everything = total_bytes(run, "upload") + total_bytes(run, "download")
    outside = everything - sum(rounds.upload_bytes) - sum(rounds.download_bytes)
    caption = "All clients of a round together. A dotted line marks the first round of a new task."
    if outside > 0:
        caption += f" Another {format_bytes(outside)} crossed the link in the visits at the end of each task."
    figure = figures.bytes_per_round(rounds) if rounds.task_index else None
    return Section(
        "Bytes over the link",
        "Counted on the encoded payloads: <em>upload</em> is client to server, <em>download</em> server to client.",
        (Plot("bytes-per-round", "Bytes of each round", caption, figure, "No round was finished."),),
    )


def _integration(run: Run) -> list[Section]:
    """Return the section on integrated gradients, for methods that integrate any."""
    rows = integration_by_task(run)
    if not rows:
        return []
    text = (
        "Steps of training visits whose gradient was checked against other gradients, how many of them had to be "
        "changed, and how many updates still pointed against one of them after the optimizer's step."
    )
    return [Section("Gradient integration", text, below=integration_table(rows))]


def _events(run: Run) -> Section:
    events = run.events.filter(pc.not_equal(run.events["kind"], METHOD_FIGURES))
    left_out = run.events.num_rows - events.num_rows
    also = f" {left_out} records of a method's own figures are in events.parquet." if left_out else ""
    if not events.num_rows:
        return Section("Events", f"Nothing out of the ordinary happened.{also}")
    text = f"What to know when reading the numbers, such as an early end or a full memory; on the virtual clock.{also}"
    return Section("Events", text, below=events_table(events))


def _host(run: Run) -> Section:
    sentences = []
    if run.visits.num_rows:
        wall_s, cpu_s = (pc.sum(run.visits[name]).as_py() for name in ("host_wall_s", "host_cpu_s"))
        sentences.append(
            f"The {run.visits.num_rows} visits took {format_duration(cpu_s)} of CPU time and {format_duration(wall_s)} "
            "of wall time, added up, on the machines that simulated them."
        )
    if run.placement.num_rows:
        clients = run.placement.num_rows
        processes = run.placement.select(["node_id", "pid"]).group_by(["node_id", "pid"]).aggregate([]).num_rows
        nodes = max(1, pc.count_distinct(run.placement["node_id"]).as_py())
        sentences.append(f"Placement: {clients} clients in {_many(processes, 'process')} on {_many(nodes, 'node')}.")
    return Section("The simulation itself", " ".join(sentences) or "No client was placed and no visit was finished.")


def _many(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"
