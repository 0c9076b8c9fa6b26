"""The command `explain-time`: where the seconds and joules of one visit come from, as tables or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from fedknow_ray.cli.run_options import LocalPlace

if TYPE_CHECKING:
    from fedknow_ray.report.visit_terms import TransferTerms, VisitTerms

_WIDE = 160
_FORMULA = "count x (max(flops / (r u), moved bytes / b, stored bytes / s) + o)"


@click.command(name="explain-time")
@click.argument("run_dir", type=LocalPlace())
@click.option("--client", "client_id", required=True, type=int, metavar="C", help="The client, from 0.")
@click.option(
    "--round",
    "round_number",
    required=True,
    type=int,
    metavar="R",
    help="The round, from 0: counted over the run, the rounds of task 0 first. With --task counted within that task, "
    "where the number after its last round is the task's end.",
)
@click.option("--task", "task_index", type=int, metavar="T", help="The task, from 0.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line, and no tables.")
def explain_time(run_dir: Path, client_id: int, round_number: int, task_index: int | None, *, as_json: bool) -> None:
    """Print every term of a client's visit in the run in RUN_DIR: work, device, transfers, waiting and energy.

    The terms sum up to the columns that the run recorded. docs/time-model.md tells what they mean.
    """
    from fedknow_ray.report.visit_choice import choose_visits
    from fedknow_ray.report.visit_terms import explain_visit
    from fedknow_ray.results.run import load

    run = load(run_dir)
    visits = [explain_visit(run, row) for row in choose_visits(run, client_id, round_number, task_index)]
    if as_json:
        click.echo(json.dumps({"run_dir": str(run_dir), "visits": [plain(visit) for visit in visits]}))
        return
    console = Console(width=max(_WIDE, Console().width), highlight=False)
    for visit in visits:
        _print(console, visit)


def plain(visit: VisitTerms) -> dict[str, Any]:
    """Return a visit's terms as values that JSON can hold."""
    row = visit.row
    return {
        **{key: row[key] for key in ("client_id", "device", "task_index", "round_index", "kind", "status", "start_s")},
        "items": [
            {**asdict(terms.item), **asdict(terms.step), "bound": terms.bound, "seconds": terms.seconds}
            for terms in visit.items
        ],
        "planned_s": visit.planned_s,
        "modelled": visit.modelled,
        "download": asdict(visit.download),
        "compute_s": row["compute_s"],
        "upload": asdict(visit.upload),
        "wait_s": row["wait_s"],
        "idle_s": visit.idle_s,
        "busy_j": visit.busy_j,
        "idle_j": visit.idle_j,
        "energy_j": row["energy_j"],
        "network_kind": visit.network_kind,
        "figures": {key: asdict(figure) for key, figure in visit.figures.items()},
    }


def _print(console: Console, visit: VisitTerms) -> None:
    row = visit.row
    console.print(
        f"client {row['client_id']} ({row['device']}), task {row['task_index']}, round {row['round_index']} of it: "
        f"{row['kind']}, {row['status']}, begun at {row['start_s']:.6f} s"
    )
    console.print(_items_table(visit))
    if not visit.modelled:
        why = "the clock is a measured one" if row["status"] == "ok" else f"the visit was lost ({row['status']})"
        console.print(f"compute_s is not the sum of the items: {why}")
    console.print(_sums_table(visit))
    console.print(_figures_table(visit))


def _items_table(visit: VisitTerms) -> Table:
    table = Table(title=f"compute_s: {_FORMULA}", title_justify="left")
    table.add_column("phase")
    for name in ("count", "flops", "moved bytes", "stored bytes", "arithmetic, s", "memory, s", "storage, s", "o, s"):
        table.add_column(name, justify="right")
    table.add_column("bound by")
    table.add_column("seconds", justify="right")
    for terms in visit.items:
        item, step = terms.item, terms.step
        sizes = (item.count, item.flops, item.moved_bytes, item.stored_bytes)
        parts = (step.arithmetic_s, step.memory_s, step.storage_s, step.overhead_s)
        cells = [*(f"{size:,}" for size in sizes), *(f"{part:.6f}" for part in parts)]
        table.add_row(item.phase, *cells, terms.bound, f"{terms.seconds:.6f}")
    table.add_row("sum", *[""] * 9, f"{visit.planned_s:.6f}")
    return table


def _sums_table(visit: VisitTerms) -> Table:
    row, device = visit.row, visit.device
    table = Table(title="the visit", title_justify="left")
    table.add_column("term")
    table.add_column("value", justify="right")
    table.add_column("is")
    table.add_row("download_s", f"{row['download_s']:.6f}", _transfer(visit.download))
    table.add_row("compute_s", f"{row['compute_s']:.6f}", "the sum above" if visit.modelled else "as recorded")
    table.add_row("upload_s", f"{row['upload_s']:.6f}", _transfer(visit.upload))
    table.add_row("wait_s", f"{row['wait_s']:.6f}", "end of the round - end of the visit")
    if visit.busy_j is None or visit.idle_j is None:
        table.add_row("energy_j", "-", f"unknown: {device.name} has not both wattages")
        return table
    table.add_row("busy, J", f"{visit.busy_j:.6f}", f"busy_w {device.busy_w:g} W x compute_s")
    idle = f"idle_w {device.idle_w:g} W x (download_s + upload_s + wait_s) = {visit.idle_s:.6f} s"
    table.add_row("idle, J", f"{visit.idle_j:.6f}", idle)
    table.add_row("energy_j", f"{row['energy_j']:.6f}", "busy + idle")
    return table


def _transfer(terms: TransferTerms) -> str:
    if terms.told is not None:
        return f"{terms.payload_bytes:,} bytes: {terms.told}"
    if not terms.payload_bytes:
        return "nothing is sent"
    framed = "" if terms.wire_bytes == terms.payload_bytes else f" ({terms.payload_bytes:,} and what framing adds)"
    return f"{terms.delay_s:g} s + {terms.wire_bytes:,} bytes{framed} / {terms.bytes_per_s:,.0f} bytes/s"


def _figures_table(visit: VisitTerms) -> Table:
    table = Table(title=f"{visit.device.name} in this run, for a network of kind {visit.network_kind}")
    table.title_justify = "left"
    table.add_column("number")
    table.add_column("value", justify="right")
    table.add_column("basis")
    table.add_column("from", overflow="fold")
    for key, figure in visit.figures.items():
        formula = f"{figure.formula}. From: " if figure.formula else ""
        table.add_row(key, f"{figure.value:,.12g}", figure.basis, f"{formula}{figure.source}")
    return table
