"""The command `forecast`: what a run will take and where memory ends, as tables or as JSON, before it is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from fedknow_ray.units import format_bytes, format_duration

if TYPE_CHECKING:
    from fedknow_ray.experiment.forecast import Forecast, MemoryForecast

_WIDE = 140


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--methods",
    metavar="NAME[,NAME...]",
    help="The methods to forecast; method.* keys go to those that have them. Default: the config's own.",
)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of the config: fleet.0.count=4. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line, and no tables.")
def forecast(config: Path, methods: str | None, overrides: tuple[str, ...], *, as_json: bool) -> None:
    """Tell what runs of the YAML file CONFIG will take, in seconds and without training.

    For each method: virtual time, bytes, joules and lost visits by task, and at which task a device can no longer hold
    a visit in its memory. A run then records the same numbers. docs/forecast.md tells what they mean.
    """
    from fedknow_ray.experiment.forecast import forecast_file

    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    found = [forecast for _, forecast in forecast_file(config, overrides, names)]
    if as_json:
        click.echo(json.dumps({"config": str(config), "methods": [plain(each) for each in found]}))
        return
    console = Console(width=max(_WIDE, Console().width), highlight=False)
    for each in found:
        _print(console, each)


def plain(forecast: Forecast) -> dict[str, Any]:
    """Return a forecast as values that JSON can hold."""
    memory = [
        {**asdict(device), "stops_at": device.stops_at, "evicts_at": device.evicts_at} for device in forecast.memory
    ]
    return {**asdict(forecast), "visits": forecast.visits, "lost": forecast.lost, "memory": memory}


def _print(console: Console, forecast: Forecast) -> None:
    console.print(_tasks_table(forecast))
    if forecast.unknown_watts:
        console.print(f"joules are unknown: {', '.join(forecast.unknown_watts)} has not both idle_w and busy_w")
    console.print(_memory_table(forecast))
    for device in forecast.memory:
        console.print(_verdict(device))
    console.print()


def _tasks_table(forecast: Forecast) -> Table:
    title = f"{forecast.method}: {format_duration(forecast.virtual_time_s)} of virtual time"
    table = Table(title=title, title_justify="left", show_footer=True)
    columns = {
        "begins": "",
        "takes": format_duration(forecast.virtual_time_s),
        "up": format_bytes(forecast.upload_bytes),
        "down": format_bytes(forecast.download_bytes),
        "energy": _joules(forecast.energy_j),
        "visits": str(forecast.visits),
        "lost": _reasons(forecast.lost),
    }
    table.add_column("task", footer="sum")
    for name, footer in columns.items():
        table.add_column(name, footer, justify="right")
    for task in forecast.tasks:
        table.add_row(
            str(task.task_index),
            format_duration(task.start_s),
            format_duration(task.end_s - task.start_s),
            format_bytes(task.upload_bytes),
            format_bytes(task.download_bytes),
            _joules(task.energy_j),
            str(task.visits),
            _reasons(task.lost),
        )
    return table


def _memory_table(forecast: Forecast) -> Table:
    table = Table(title=f"{forecast.method}: the most memory that a visit takes", title_justify="left")
    table.add_column("task")
    table.add_column("kept in memory", justify="right")
    table.add_column("on storage", justify="right")
    for device in forecast.memory:
        limit = "unknown" if device.memory_bytes is None else format_bytes(device.memory_bytes)
        table.add_column(f"{device.device}\nof {limit}", justify="right")
    for task in forecast.tasks:
        t = task.task_index
        kept, stored = (max(getattr(d, key)[t] for d in forecast.memory) for key in ("kept_bytes", "stored_bytes"))
        table.add_row(
            str(t), format_bytes(kept - stored), format_bytes(stored), *(_cell(d, t) for d in forecast.memory)
        )
    return table


def _cell(device: MemoryForecast, task_index: int) -> str:
    peak = format_bytes(device.highest(task_index)[1])
    if device.fits(task_index):
        return peak
    return f"{peak} evicts" if device.fits(task_index, least=True) else f"{peak} does not fit"


def _verdict(device: MemoryForecast) -> str:
    if device.memory_bytes is None:
        return f"{device.device}: its memory_bytes is not known, so nothing can be said"
    evicts = ""
    if device.evicts_at is not None:
        evicts = (
            f"evicts knowledge from task {device.evicts_at} on, of {device.evicted_tasks[-1]} past tasks by the last; "
        )
    if device.stops_at is None:
        return f"{device.device}: {evicts}every visit fits"
    kind, peak = device.highest(device.stops_at, least=True)
    return (
        f"{device.device}: {evicts}stops fitting at task {device.stops_at}, whose {kind} visit takes "
        f"{format_bytes(peak)} of {format_bytes(device.memory_bytes)}"
    )


def _joules(energy_j: float | None) -> str:
    return "-" if energy_j is None else f"{energy_j:,.0f} J"


def _reasons(lost: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(lost.items())) or "0"
