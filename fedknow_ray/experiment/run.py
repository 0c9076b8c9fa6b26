"""One run: config in, run directory out.

    config -> data -> scenario -> backend -> manifest -> rounds, rows flushed after each -> summary

Whatever the user can get wrong is found before the backend starts. Nothing is left behind if the run cannot start; an
interrupted run keeps what it recorded, says so in its events, and has no summary.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, Protocol

from fedknow_ray.config.loading import dump_yaml, load_config, resolve_run_name
from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import UserError
from fedknow_ray.experiment.assembly import Parts, open_data, put_together
from fedknow_ray.experiment.catalogue import CATALOGUE
from fedknow_ray.experiment.manifest import make_manifest
from fedknow_ray.experiment.summary import summarise
from fedknow_ray.federation.executor import Executor
from fedknow_ray.federation.scheduler import Progress, Scheduler
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import EventRow, PlacementRow
from fedknow_ray.results.store import ResultStore, RunDirectory
from fedknow_ray.transport.payload import Buffer

Backend = Literal["ray", "local"]
Overrides = Mapping[str, Any] | Sequence[str]


class PlacedExecutor(Executor, Protocol):
    """An executor that knows where its clients live, and hands out the global model."""

    def placement(self) -> list[PlacementRow]:
        """Return one row a client."""

    def global_model(self) -> Buffer:
        """Return the present broadcast: the one way by which a model reaches the driver, taken only when asked."""


class Watcher(Protocol):
    """Is told how a run gets on; the command line draws its display from it."""

    def stage(self, text: str) -> None:
        """A stage before round 0 begins."""

    def advance(self, progress: Progress) -> None:
        """A round, or a task, is done and recorded."""


class Unwatched:
    """A watcher that looks away."""

    def stage(self, text: str) -> None:
        """Do nothing."""

    def advance(self, progress: Progress) -> None:
        """Do nothing."""


def read_config(path: str | Path, overrides: Overrides = ()) -> RunConfig:
    """Return the resolved config of a file.

    Raises:
        ConfigError: with all faults at once.
    """
    return load_config(Path(path), overrides, catalogue=CATALOGUE)


def execute(
    path: str | Path,
    overrides: Overrides = (),
    *,
    backend: Backend = "ray",
    address: str | None = None,
    out: str | Path | None = None,
    watcher: Watcher | None = None,
) -> Run:
    """Run a config and return the finished run.

    *backend* "ray" starts a Ray of its own unless *address* names a cluster; "local" does everything in this process,
    to the same bits. *out* is the run directory, new or empty; without it `runs/<time>-<name>`.

    Raises:
        UserError: if the config, the data or the arguments are wrong.
        PlacementError: if the nodes cannot hold the fleet.
    """
    started_s = time.perf_counter()
    watcher = watcher or Unwatched()
    if backend == "local" and address is not None:
        raise UserError("--address goes with --backend ray; the local backend uses no cluster")
    config = read_config(path, overrides)
    name = resolve_run_name(path)
    watcher.stage(f"reading {config.scenario.dataset}")
    dataset = open_data(config)
    parts = put_together(config, dataset)
    with _new_directory(out, name, dump_yaml(config)) as directory:
        watcher.stage(f"starting {len(config.devices)} clients ({backend})")
        with open_executor(parts, backend, address) as executor:
            manifest = make_manifest(name, config, dataset, parts.start, parts.ledger.devices, backend)
            directory.write_manifest(manifest)
            _run_course(parts, executor, directory, watcher, started_s)
    return load(directory.path)


def _run_course(
    parts: Parts, executor: PlacedExecutor, directory: RunDirectory, watcher: Watcher, started_s: float
) -> None:
    store = ResultStore(directory)
    placement = executor.placement()
    store.append(placement)
    store.append(_packing_event(parts, placement))
    scheduler = Scheduler(parts.course, parts.ledger, parts.policy, executor, store.append)
    try:
        for progress in scheduler.run():
            store.flush()
            watcher.advance(progress)
        digest = executor.global_parameters_sha256()
    except KeyboardInterrupt:
        store.append(EventRow(scheduler.now_s, "interrupted", None, "stopped by the user; no summary was written"))
        store.flush()
        raise
    except Exception as error:
        store.append(EventRow(scheduler.now_s, "failed", None, f"{type(error).__name__}: {error}"))
        store.flush()
        raise
    summary = summarise(
        store.table("accuracy"),
        store.table("visits"),
        virtual_time_s=scheduler.now_s,
        wall_s=time.perf_counter() - started_s,
        parameters_sha256=digest,
    )
    directory.write_summary({"run_dir": str(directory.path), **summary})


def _packing_event(parts: Parts, placement: Sequence[PlacementRow]) -> list[EventRow]:
    """Say that clients share actors, where they do: the user asked for it, or one to one would not have fitted."""
    actors = {row.actor_id for row in placement}
    if None in actors or len(actors) == len(placement):
        return []
    asked = parts.assembly.config.placement.clients_per_actor
    return [
        EventRow(0.0, "packed", None, f"{len(placement)} clients in {len(actors)} actors (clients_per_actor: {asked})")
    ]


@contextmanager
def open_executor(parts: Parts, backend: Backend, address: str | None = None) -> Iterator[PlacedExecutor]:
    """Yield an executor for the parts of a run; with "ray" and no address, on a Ray that ends with the block.

    Raises:
        PlacementError: if the nodes cannot hold the fleet.
    """
    if backend == "local":
        from fedknow_ray.runtime.local import local_executor

        with local_executor(parts.assembly, parts.dataset, parts.start, parts.broadcast) as local:
            yield local
        return
    from fedknow_ray.runtime.ray_session import joined_ray, own_ray

    session: Callable[[], Any] = (
        (lambda: own_ray(parts.assembly.config.devices, len(os.sched_getaffinity(0))))
        if address is None
        else (lambda: joined_ray(address))
    )
    with session():
        # ray_backend imports ray, which reads its environment when it is imported: the session comes first
        from fedknow_ray.runtime.ray_backend import ray_executor

        sizes = {"client_bytes": parts.client_bytes, "visit_bytes": parts.visit_bytes}
        with ray_executor(parts.assembly, parts.dataset, parts.start, parts.broadcast, **sizes) as remote:
            yield remote


@contextmanager
def _new_directory(out: str | Path | None, name: str, config_text: str) -> Iterator[RunDirectory]:
    """Make and claim the run directory, and leave no trace of it if the run fails before its manifest is written."""
    directory = RunDirectory.create(_default_path(name) if out is None else out)
    try:
        directory.write_config(config_text)
        yield directory
    except BaseException:
        directory.abandon()
        raise


def _default_path(name: str) -> Path:
    """Return `runs/<time>-<name>`, with a number behind it where that is taken."""
    first = Path("runs") / f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-{name}"
    others = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(path for path in chain([first], others) if not path.exists())
