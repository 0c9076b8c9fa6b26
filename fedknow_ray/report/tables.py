"""The report's HTML tables: numbers for readers who cannot, or would rather not, read them off a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedknow_ray.report.device_accuracy import DeviceAccuracy
from fedknow_ray.report.numbers import PARTS, DeviceUse, IntegrationUse
from fedknow_ray.units import format_duration

MOST_EVENTS = 200
UNKNOWN = "not known"


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """Return a table whose first column is a heading of its row; every text is escaped here.

    *words*: the cells hold text, which is set to the left, and not numbers.
    """
    head_html = "".join(f"<th scope='col'>{escape(text)}</th>" for text in head)
    body_html = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>{''.join(f'<td>{escape(text)}</td>' for text in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f"<div class='scroll' tabindex='0'><table{' class=words' if words else ''}><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head_html}</tr></thead><tbody>{body_html}</tbody></table></div>"
    )


def accuracy_table(matrix_TT: npt.NDArray[np.float64], model: str) -> str:
    """Return the accuracy matrix of one model as a table."""
    tasks = range(1, len(matrix_TT) + 1)
    rows = [
        [f"after task {task}", *("" if np.isnan(share) else f"{share:.1%}" for share in row)]
        for task, row in zip(tasks, matrix_TT, strict=True)
    ]
    return html_table(f"Accuracy, {model} model, mean over clients", ["", *(f"task {task}" for task in tasks)], rows)


def device_accuracy_table(of_model: Mapping[str, Sequence[DeviceAccuracy]]) -> str:
    """Return what each kind of device ends with, by model."""
    found = {model: {of.device: of for of in devices} for model, devices in of_model.items() if devices}
    kinds = {device: of.clients for devices in found.values() for device, of in devices.items()}
    head = ["device", "clients", *(f"{what}, {model} model" for model in found for what in ("accuracy", "forgetting"))]
    rows = [[kind, str(clients)] for kind, clients in kinds.items()]
    for row in rows:
        for devices in found.values():
            of = devices.get(row[0])
            row += ["", ""] if of is None else [_share(of.accuracy_T[-1]), _points(of.forgetting_T[-1])]
    return html_table("After the last task, mean over the clients of each kind", head, rows)


def _share(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1%}"


def _points(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.1f} points".replace("-", "\N{MINUS SIGN}")


def device_table(uses: Sequence[DeviceUse]) -> str:
    """Return what a visit and a client of each device kind took."""
    head = ["device", "clients", "visits", "lost", *PARTS, "energy of a client"]
    rows = [
        [
            use.device,
            str(use.clients),
            str(use.visits),
            str(use.lost),
            *(format_duration(use.seconds[part] / use.visits) for part in PARTS),
            UNKNOWN if use.energy_j is None else format_energy(use.energy_j / use.clients),
        ]
        for use in uses
    ]
    return html_table("Virtual time of a visit and energy of a client, means for each kind of device", head, rows)


def integration_table(rows: Sequence[IntegrationUse]) -> str:
    """Return the counts of integrated steps, one row a task."""
    head = [
        "steps checked",
        "changed",
        "still against after the step",
        "mean cosine with own gradient",
        "loss of the kept knowledge",
    ]
    body = [
        [
            f"task {row.task_index + 1}",
            f"{row.checked_steps:,}",
            _share_of(row.changed_steps, row.checked_steps),
            _share_of(row.violated_after_steps, row.checked_steps),
            "-" if row.mean_own_cosine is None else f"{row.mean_own_cosine:.3f}",
            "-" if row.mean_knowledge_loss is None else f"{row.mean_knowledge_loss:.3f}",
        ]
        for row in rows
    ]
    return html_table("Integrated steps", ["", *head], body)


def _share_of(count: int | None, total: int) -> str:
    return "-" if count is None or not total else f"{count / total:.1%}"


def events_table(events: pa.Table) -> str:
    """Return the first events of the run; what is left out is said in the caption."""
    shown = events.slice(0, MOST_EVENTS).to_pylist()
    caption = (
        f"{events.num_rows} events"
        if len(shown) == events.num_rows
        else (f"The first {len(shown)} of {events.num_rows} events; the others are in events.parquet")
    )
    rows = [
        [
            format_duration(event["time_s"]),
            event["kind"],
            "" if event["client_id"] is None else str(event["client_id"]),
            event["detail"],
        ]
        for event in shown
    ]
    return html_table(caption, ["virtual time", "event", "client", "detail"], rows, words=True)


def format_energy(energy_j: float) -> str:
    """Return joules with three digits or so, as kJ or MJ where they are many.

    >>> format_energy(950.0), format_energy(12_345.0), format_energy(2.5e6)
    ('950 J', '12.3 kJ', '2.50 MJ')
    """
    # The limits are where rounding would carry: 999.5 J reads as 1.00 kJ, 99.95 kJ as 100 kJ.
    for size, unit in ((1e6, "MJ"), (1e3, "kJ")):
        scaled = energy_j / size
        if scaled >= 0.9995:
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return f"{energy_j:.0f} J" if energy_j >= 9.95 else f"{energy_j:.2g} J"
