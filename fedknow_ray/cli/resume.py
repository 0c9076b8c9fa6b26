"""`fedknow-ray resume`: goes on with a run that was left, or starts another future of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from fedknow_ray.cli.run_options import close_run, out_option, place_options, set_option
from fedknow_ray.errors import UserError


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--fork-at-task",
    metavar="N",
    type=int,
    help="Start another run from where RUN_DIR begins with task N (from 0), with what --set changes, in --out.",
)
@set_option
@out_option
@place_options
def resume(
    run_dir: Path,
    fork_at_task: int | None,
    overrides: Sequence[str],
    out: Path | None,
    backend: Literal["ray", "local"],
    address: str | None,
    insecure: bool,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Go on with the run in RUN_DIR, from its last checkpoint: the end is, to the bit, that of a run never left."""
    from rich.console import Console

    from fedknow_ray.cli.display import Display
    from fedknow_ray.experiment.fork import fork
    from fedknow_ray.experiment.place import Place
    from fedknow_ray.experiment.resume import resume as go_on

    if out is not None and fork_at_task is None:
        raise UserError("--out goes with --fork-at-task; a run goes on in its own directory")
    console, place = Console(stderr=True), Place(backend, address, insecure)
    with Display(console, quiet=quiet) as display:
        if fork_at_task is None:
            done = go_on(run_dir, overrides, place=place, watcher=display)
        else:
            done = fork(run_dir, fork_at_task, overrides, out=out, place=place, watcher=display)
        close_run(done, console, display, as_json=as_json, quiet=quiet)
