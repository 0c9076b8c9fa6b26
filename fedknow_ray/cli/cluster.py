"""`fedknow-ray cluster render`: the files that start a Ray cluster for a fleet."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedknow_ray.cli.run_options import set_option
from fedknow_ray.errors import UserError

if TYPE_CHECKING:
    from fedknow_ray.cluster.render import Kind


@click.group()
def cluster() -> None:
    """Start a Ray cluster for a fleet."""


@cluster.command()
@click.option(
    "--fleet", "config", metavar="CONFIG", required=True, type=click.Path(path_type=Path), help="The config of the run."
)
@click.option(
    "--kind",
    required=True,
    type=click.Choice(["kuberay", "launcher", "slurm", "local"]),
    help="Kubernetes, machines that `ray up` starts, a Slurm job, or this machine.",
)
@set_option
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write to FILE. Default: standard output.")
@click.option(
    "--clients-per-node", metavar="N", type=int, help="At most so many clients a node. Default: a kind's on one."
)
@click.option("--cpus-per-node", metavar="N", type=int, help="Visits that a node makes at once. Default: 4 at most.")
@click.option("--hosts", metavar="IP[,IP...]", help="launcher: the head's address, then the workers' in fleet order.")
@click.option("--user", metavar="NAME", help="launcher: who logs in on the machines.")
@click.option("--image", metavar="IMAGE", help="kuberay: the container image with fedknow-ray in it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line, with the text in it.")
def render(
    config: Path,
    kind: Kind,
    overrides: tuple[str, ...],
    out: Path | None,
    clients_per_node: int | None,
    cpus_per_node: int | None,
    hosts: str | None,
    user: str | None,
    image: str | None,
    *,
    as_json: bool,
) -> None:
    """Print the file that starts a cluster for the fleet of CONFIG: its nodes, resources, labels and a token.

    What to do with each kind is in cluster/README.md.
    """
    from fedknow_ray.cluster.plan import plan_cluster
    from fedknow_ray.cluster.render import Places, Source
    from fedknow_ray.cluster.render import render as render_text
    from fedknow_ray.config.loading import dump_yaml, resolve_run_name
    from fedknow_ray.experiment.fitting import fleet_sizes
    from fedknow_ray.experiment.run import read_config

    resolved = read_config(config, overrides)
    plan = plan_cluster(
        resolved,
        resolve_run_name(config),
        fleet_sizes(resolved),
        clients_per_node=clients_per_node,
        cpus_per_node=cpus_per_node,
    )
    given = {
        "--clients-per-node": clients_per_node,
        "--cpus-per-node": cpus_per_node,
        "--hosts": hosts,
        "--user": user,
        "--image": image,
    }
    words = ["fedknow-ray", "cluster", "render", "--fleet", str(config), "--kind", kind]
    words += [word for override in overrides for word in ("--set", override)]
    words += [word for option, value in given.items() if value is not None for word in (option, str(value))]
    addresses = None if hosts is None else [host.strip() for host in hosts.split(",")]
    text = render_text(
        kind, plan, Source(str(config), dump_yaml(resolved), shlex.join(words)), Places(addresses, user, image)
    )
    if out is not None:
        _write(out, text)
    elif not as_json:
        click.echo(text, nl=False)
    if as_json:
        nodes = [
            {"device": group.device, "nodes": group.nodes, "clients": group.clients, "cpus": group.cpus}
            | {"memory_bytes": group.memory_bytes, "resources": group.resources, "labels": group.labels}
            for group in plan.groups
        ]
        told = {"kind": kind, "name": plan.name, "file": None if out is None else str(out), "text": text}
        click.echo(json.dumps({**told, "groups": nodes}))


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
