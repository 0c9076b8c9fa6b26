"""`fedknow-ray verify`: makes a run again and compares the bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from fedknow_ray.cli.run_options import RunPlace, place_options
from fedknow_ray.errors import GateError, UserError


@click.command()
@click.argument("run_dir", type=RunPlace())
@click.option("--task", metavar="N", type=int, help="Make it again up to the end of task N only (from 0).")
@click.option("--round", "round_index", metavar="R", type=int, help="With --task: up to round R of it only (from 0).")
@place_options
def verify(
    run_dir: str | Path,
    task: int | None,
    round_index: int | None,
    backend: Literal["ray", "local"],
    address: str | None,
    insecure: bool,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the run in RUN_DIR again and compare every row and digest; exit status 4 if anything is another.

    RUN_DIR may be a URL.
    """
    from rich.console import Console

    from fedknow_ray.cli.display import Display
    from fedknow_ray.experiment.mirror import at_hand
    from fedknow_ray.experiment.place import Place
    from fedknow_ray.experiment.verify import verify as make_again
    from fedknow_ray.results.remote import shown

    if round_index is not None and task is None:
        raise UserError("--round goes with --task: rounds are counted within a task")
    console = Console(stderr=True)
    with Display(console, quiet=quiet) as display, at_hand(run_dir) as folder:
        verdict = make_again(
            folder,
            task_index=task,
            round_index=round_index,
            place=Place(backend, address, insecure),
            watcher=display,
        )
    if not quiet and verdict.mismatch is None:
        told = f"{shown(str(run_dir))}: the same bits, {verdict.rounds} rounds and {verdict.rows} rows compared"
        click.echo(told, err=as_json)
    if as_json:
        click.echo(json.dumps(verdict.plain()))
    if verdict.mismatch is not None:
        raise GateError(f"{shown(str(run_dir))} was not made again as it was: {verdict.mismatch}")
