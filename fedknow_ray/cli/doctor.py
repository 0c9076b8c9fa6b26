"""`fedknow-ray doctor`: whether a fleet fits a cluster, and what a run would stumble over there."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from fedknow_ray.cli.run_options import set_option


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@set_option
@click.option(
    "--address", metavar="ADDRESS", help="The cluster; auto finds it. Default: this machine, for a local run."
)
@click.option("--insecure", is_flag=True, help="Join a cluster without token authentication; see SECURITY.md.")
@click.option(
    "--wait",
    "wait_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Give nodes so long to join until the fleet fits.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line, and no table.")
def doctor(
    config: Path | None,
    overrides: tuple[str, ...],
    address: str | None,
    insecure: bool,
    wait_s: float,
    *,
    as_json: bool,
) -> None:
    """Tell whether the fleet of CONFIG fits a cluster, kind by kind, and whether its nodes are fit for a run.

    Without CONFIG only the nodes are looked at. Exit status 0 if nothing fails, 3 if the fleet does not fit, else 2.
    """
    from fedknow_ray.errors import UserError
    from fedknow_ray.experiment.checkup import exit_status, worst
    from fedknow_ray.experiment.doctor import examine
    from fedknow_ray.experiment.run import read_config

    if insecure and address is None:
        raise UserError("--insecure goes with --address; a Ray of our own is always locked with a token")
    if overrides and config is None:
        raise UserError("--set goes with a config")
    resolved = None if config is None else read_config(config, overrides)
    checks = examine(resolved, address=address, insecure=insecure, wait_s=wait_s, tell=partial(click.echo, err=True))
    status = exit_status(checks)
    if as_json:
        told = {"status": worst(checks), "exit_status": status, "checks": [asdict(check) for check in checks]}
        click.echo(json.dumps(told))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            click.echo(f"{check.status:<6}{check.name:<{width}}  {check.found}")
            if check.todo:
                click.echo(f"{'':<{width + 8}}-> {check.todo}")
    click.get_current_context().exit(status)
