"""The command `stress`: its options, what a person sees while the runs are made, and the robustness card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from fedknow_ray.cli.runs_display import NamedRunsDisplay, print_wide
from fedknow_ray.errors import GateError, UserError, WorkerError
from fedknow_ray.units import format_bytes

if TYPE_CHECKING:
    from fedknow_ray.experiment.stress import Card
    from fedknow_ray.experiment.stress_card import CardRow
    from fedknow_ray.experiment.workers import Failure


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--only", metavar="NAME[,NAME...]", help="The stresses to run. Default: all that ship.")
@click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key of the config. Repeatable."
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder of the suite. One that is there is continued. Default: runs/stress-<name>.",
)
@click.option("--jobs", type=int, metavar="J", help="Runs at once. Default: the cores by the threads of a run.")
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="X",
    help="End with status 4 if less than this share of the calm run's accuracy, of the own or the global model, is "
    "kept under any of the stresses.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--quiet", is_flag=True, help="No progress and no card.")
def stress(
    config: Path,
    only: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    jobs: int | None,
    fail_under: float | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the YAML file CONFIG in calm and under each stress, and print what was kept: the robustness card.

    A run that exists is not made again: the same command continues. Each run is made on the local backend in a process
    of its own; a cluster would give the same bits. The card is card.json in DIR as well.
    """
    from fedknow_ray.config.loading import resolve_run_name
    from fedknow_ray.experiment.stress import run_suite
    from fedknow_ray.experiment.stress_card import below

    console = Console(stderr=True)
    names = [name.strip() for name in (only or "").split(",") if name.strip()]
    folder = out or Path("runs") / f"stress-{resolve_run_name(config)}"
    with NamedRunsDisplay(console, quiet=quiet, status="telling the calm run's course") as progress:
        card = run_suite(config, folder, progress, overrides=overrides, only=names, jobs=jobs)
    weak = [] if fail_under is None else below(card.rows, fail_under)
    if not quiet:
        print_wide(console if as_json else Console(), card_table(card))
    if as_json:
        verdict = {"fail_under": fail_under, "below": [row.stress for row in weak]}
        click.echo(json.dumps({**card.plain(), **verdict}))
    raise_outcome(card.failures, weak, fail_under)


def card_table(card: Card) -> Table:
    """Return the card: a line for each stress, each figure against the calm run's."""
    table = Table(header_style="bold", title="robustness card, against the calm run", title_justify="left")
    table.add_column("stress")
    for heading in ("own accuracy kept", "global", "time", "energy", "bytes wasted", "visits lost", "survived"):
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    for row in card.rows:
        table.add_row(*_cells(row))
    calm = card.plain()["calm"]
    table.caption = (
        f"calm: accuracy {_number(calm['average_accuracy'])} own, {_number(calm['average_accuracy_global'])} global; "
        f"{calm['virtual_time_s']:.1f} virtual s, {calm['visits']} visits, {calm['lost_visits']} of them lost\n"
        f"card: {card.out / 'card.json'}"
    )
    table.caption_justify = "left"
    return table


def raise_outcome(failures: Mapping[str, Failure], weak: list[CardRow], fail_under: float | None) -> None:
    """Raise what ends the program with the right status: 1 if a failure is ours, 4 if the gate is shut, else 2.

    Raises:
        WorkerError: with the tracebacks.
        GateError: with the stresses below the limit.
        UserError: with the runs that did not finish, where no gate was asked for.
    """
    ours = [f"{name}\n{failure.message.strip()}" for name, failure in failures.items() if failure.is_ours]
    if ours:
        raise WorkerError("\n".join(ours))
    if weak and fail_under is not None:
        raise GateError(f"less than {fail_under:g} of the calm run's accuracy kept: {'; '.join(map(_kept, weak))}")
    if failures and fail_under is None:
        told = [f"  {name}: {failure.message.strip()}" for name, failure in failures.items()]
        raise UserError("\n".join([f"{len(failures)} of the stressed runs did not finish", *told]))


def _kept(row: CardRow) -> str:
    if row.failure is not None:
        return f"{row.stress} (did not finish)"
    shared = "" if row.accuracy_kept_global is None else f", global {row.accuracy_kept_global:.3f}"
    return f"{row.stress} (own {_number(row.accuracy_kept)}{shared})"


def _cells(row: CardRow) -> list[str]:
    if row.failure is not None:
        return [row.stress, *["-"] * 7, f"did not finish: {row.failure}"]
    figures: dict[str, Any] = row.plain()
    wasted, part = figures["wasted_bytes"], figures["wasted_fraction"]
    reasons = ", ".join(f"{count} {status}" for status, count in figures["lost_by"].items())
    return [
        row.stress,
        _number(row.accuracy_kept),
        _number(row.accuracy_kept_global),
        _number(row.time_ratio),
        _number(row.energy_ratio),
        f"{format_bytes(wasted)}{'' if part is None else f' ({100 * part:.1f} %)'}",
        f"{row.lost_visits}{f' ({reasons})' if reasons else ''}",
        str(row.survived_visits),
        "" if row.feels else f"no difference in {row.differs_in}",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
