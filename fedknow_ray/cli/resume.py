"""`fedknow-ray resume`: goes on with a run that was left, or starts another future of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from fedknow_ray.cli.run_options import RunPlace, close_run, out_option, place_options, set_option


@click.command()
@click.argument("run_dir", type=RunPlace())
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
    run_dir: str | Path,
    fork_at_task: int | None,
    overrides: Sequence[str],
    out: str | Path | None,
    backend: Literal["ray", "local"],
    address: str | None,
    insecure: bool,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Go on with the run in RUN_DIR, from its last checkpoint: the end is, to the bit, that of a run never left.

    RUN_DIR may be a URL: the run is fetched into --out, a local folder, and copied to the URL again while it goes on.
    A run in a local folder is copied to --out, a URL, while it goes on.
    """
    from rich.console import Console

    from fedknow_ray.cli.display import Display
    from fedknow_ray.experiment.fork import fork
    from fedknow_ray.experiment.mirror import at_hand
    from fedknow_ray.experiment.place import Place
    from fedknow_ray.experiment.resume import resume as go_on
    from fedknow_ray.results.remote import is_url

    console, place = Console(stderr=True), Place(backend, address, insecure)
    with Display(console, quiet=quiet) as display:
        if fork_at_task is None:
            done = go_on(run_dir, overrides, out=out, place=place, watcher=display)
            kept_at = run_dir if is_url(run_dir) else out
        else:
            with at_hand(run_dir) as folder:
                done = fork(folder, fork_at_task, overrides, out=out, place=place, watcher=display)
            kept_at = out
        close_run(done, console, display, kept_at, as_json=as_json, quiet=quiet)
