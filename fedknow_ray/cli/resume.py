"""`fedknow-ray resume`: goes on with a run that was left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from fedknow_ray.cli.run_options import close_run, place_options, set_option


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@set_option
@place_options
def resume(
    run_dir: Path,
    overrides: Sequence[str],
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
    from fedknow_ray.experiment.place import Place
    from fedknow_ray.experiment.resume import resume as go_on

    console = Console(stderr=True)
    with Display(console, quiet=quiet) as display:
        done = go_on(run_dir, overrides, place=Place(backend, address, insecure), watcher=display)
        close_run(done, console, display, as_json=as_json, quiet=quiet)
