"""`fedknow-ray submit`: a run as a job of a cluster, through its dashboard."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fedknow_ray.cli.run_options import LocalPlace, set_option
from fedknow_ray.errors import UserError


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--address", metavar="URL", required=True, help="The dashboard of the cluster: http://HOST:8265.")
@set_option
@click.option(
    "--out",
    metavar="DIR",
    type=LocalPlace(),
    help="The run directory here, new or empty. Default: runs/<job>.",
)
@click.option("--detach", is_flag=True, help="Print the id of the job and leave it running.")
@click.option("--attach", metavar="JOB", help="Follow and fetch a job that was submitted before; without CONFIG.")
@click.option("--insecure", is_flag=True, help="Use a cluster without token authentication; see SECURITY.md.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def submit(
    config: Path | None,
    address: str,
    overrides: tuple[str, ...],
    out: Path | None,
    attach: str | None,
    *,
    detach: bool,
    insecure: bool,
    as_json: bool,
) -> int:
    """Run the YAML file CONFIG as a job of a cluster, follow its log, and fetch its run directory.

    The config travels with the files that it names by relative paths, and with this code. The exit status is that of
    the run. Ctrl-C stops the job. Without --out the run goes to runs/<job>.
    """
    from fedknow_ray.experiment.submit import fetch
    from fedknow_ray.experiment.submit import submit as submit_config
    from fedknow_ray.runtime.jobs import JobClient

    _check(config, overrides, out, attach, detach=detach)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        # before the job has taken hours
        raise UserError(f"{out} is not an empty folder; name a folder for the run that is new or empty")
    client = JobClient(address, insecure=insecure)
    if config is not None:
        job_id = submit_config(client, config, overrides, insecure=insecure, warn=_tell)
        _tell(f"job {job_id}; to come back to it: fedknow-ray submit --attach {job_id} --address {address}")
    else:
        job_id = str(attach)
    if detach:
        click.echo(json.dumps({"job_id": job_id}) if as_json else job_id)
        return 0
    fetched = fetch(
        client, job_id, out or Path("runs") / job_id, show=lambda text: click.echo(text, nl=False, err=True)
    )
    if fetched.path is not None:
        _tell(f"{'the run' if fetched.exit_status == 0 else 'what the run has recorded'} is in {fetched.path}")
    if as_json and fetched.exit_status == 0 and fetched.path is not None:
        summary = json.loads((fetched.path / "summary.json").read_text(encoding="utf-8"))
        click.echo(json.dumps({**summary, "run_dir": str(fetched.path), "job_id": job_id}))
    return fetched.exit_status


def _check(
    config: Path | None, overrides: tuple[str, ...], out: Path | None, attach: str | None, *, detach: bool
) -> None:
    if (config is None) == (attach is None):
        raise UserError("give a CONFIG to submit, or --attach JOB to come back to a job")
    if attach is not None and (overrides or detach):
        raise UserError("--set and --detach go with a CONFIG: the job of --attach runs already")
    if detach and out is not None:
        raise UserError("--out goes with fetching the run: give it with --attach")


def _tell(message: str) -> None:
    click.echo(message, err=True)
