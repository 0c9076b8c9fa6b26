"""A Ray-distributed cluster simulator for federated continual learning, with FedKNOW.

    run = fedknow_ray.run("configs/quickstart.yaml", overrides={"training.rounds_per_task": 2})
    run.accuracy, run.visits, run.rounds, run.events, run.placement     pyarrow tables
    old = fedknow_ray.load("runs/20261124-120000-quickstart")

Importing this package imports neither torch nor ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fedknow_ray.results.run import Run

__all__ = ["__version__", "load", "run"]


def __getattr__(name: str) -> str:
    """Look the version up when it is asked for: importlib.metadata takes longer to import than all the rest."""
    if name == "__version__":
        from importlib.metadata import version

        return version("fedknow-ray")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def run(
    config: str | Path,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    backend: Literal["ray", "local"] = "ray",
    address: str | None = None,
    insecure: bool = False,
    out: str | Path | None = None,
) -> Run:
    """Run a config, write its report, and return the finished run.

    *overrides* is a mapping such as {"method.name": "fedavg"} or a list of "KEY=VALUE". *backend* "ray" starts a Ray
    of its own unless *address* names a cluster ("auto": the one that is there); "local" stays in this process, to the
    same bits. A cluster that lets in whoever has no token is joined only if *insecure* is set.
    *out* is the run directory, new or empty; without it `runs/<time>-<name>`. Where it is a URL (`s3://bucket/run`),
    the run is made in such a local directory and copied to the URL after each round.

    Raises:
        UserError: if the config, the data or the arguments are wrong.
        PlacementError: if the cluster cannot hold the fleet.
    """
    from fedknow_ray.experiment.mirror import publish
    from fedknow_ray.experiment.run import execute
    from fedknow_ray.report import write_report

    done = execute(config, overrides, backend=backend, address=address, insecure=insecure, out=out)
    publish(write_report(done), out)
    return done


def load(run_dir: str | Path) -> Run:
    """Open the directory of an old run, finished or not; of one at a URL all but its checkpoints is fetched for as long
    as the run is used.

    Raises:
        RunDirectoryError: if it is no run, or a file in it is missing or broken.
    """
    from fedknow_ray.results.remote import is_url
    from fedknow_ray.results.run import load as load_run

    if not is_url(run_dir):
        return load_run(run_dir)
    from fedknow_ray.experiment.mirror import load_fetched

    return load_fetched(str(run_dir))
