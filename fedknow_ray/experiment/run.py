"""One run: config in, run directory out.

    config -> data -> scenario -> backend -> manifest -> rounds, rows flushed after each -> summary

Whatever the user can get wrong is found before the backend starts. Nothing is left behind if the run cannot start; an
interrupted run keeps what it recorded, says so in its events, and has no summary. A run can be saved at boundaries and
another started from there (`experiment.checkpoint`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, Protocol

from fedknow_ray.config.loading import dump_yaml, load_config, resolve_run_name
from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import UserError
from fedknow_ray.experiment.assembly import Parts, open_data, put_together
from fedknow_ray.experiment.catalogue import CATALOGUE
from fedknow_ray.experiment.checkpoint import (
    Checkpoint,
    Contents,
    make_folder,
    open_checkpoint,
    past_tables,
    save_checkpoint,
)
from fedknow_ray.experiment.host_precision import precision_warning
from fedknow_ray.experiment.manifest import make_manifest
from fedknow_ray.experiment.summary import summarise
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.executor import Executor
from fedknow_ray.federation.scheduler import Progress, Scheduler, SchedulerState
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

    def warn(self, text: str) -> None:
        """Something that the user may want to change before the run goes on."""

    def advance(self, progress: Progress) -> None:
        """A round, or a task, is done and recorded."""


class Unwatched:
    """A watcher that looks away."""

    def stage(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
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
    insecure: bool = False,
    out: str | Path | None = None,
    watcher: Watcher | None = None,
    start_from: str | Path | None = None,
    save_at: Collection[Boundary] = (),
    checkpoints: str | Path | None = None,
) -> Run:
    """Run a config and return the finished run.

    *backend* "ray" starts a Ray of its own unless *address* names a cluster; "local" does everything in this process,
    to the same bits. A cluster that lets in whoever has no token is joined only if *insecure* is set. *out* is the run
    directory, new or empty; without it `runs/<time>-<name>`.

    *start_from* is a checkpoint of a run with the same past; the run is then, to the bit, what it would be from its
    beginning, and has all rows from there. At the boundaries *save_at* it is saved in the folder *checkpoints*, as
    `<boundary>.ckpt`.

    Raises:
        UserError: if the config, the data, the checkpoint or the arguments are wrong.
        PlacementError: if the nodes cannot hold the fleet.
    """
    started_s = time.perf_counter()
    watcher = watcher or Unwatched()
    if backend == "local" and address is not None:
        raise UserError("--address goes with --backend ray; the local backend uses no cluster")
    if insecure and address is None:
        raise UserError("--insecure goes with --address; a Ray of our own is always locked with a token")
    config = read_config(path, overrides)
    name = resolve_run_name(path)
    past = None if start_from is None else _open_past(Path(start_from), config)
    _check_save_at(save_at, checkpoints, config, past)
    warning = precision_warning(config.training.precision)
    if warning is not None:
        watcher.warn(warning)
    watcher.stage(f"reading {config.scenario.dataset}")
    dataset = open_data(config)
    parts = put_together(config, dataset)
    manifest = make_manifest(name, config, dataset, parts.start, parts.ledger.devices, backend)
    made_with = _made_with(manifest, own_devices=config.devices_path is not None)
    if past is not None:
        past.check_made_with(made_with)
        manifest["started_from"] = past.origin()
        # the seconds of the past count as if they had been spent here
        started_s -= past.wall_s
    saving = _Saving(config, frozenset(save_at), Path(checkpoints or "."), made_with, started_s)
    with _new_directory(out, name, dump_yaml(config)) as directory:
        watcher.stage(f"starting {len(config.devices)} clients ({backend})")
        with open_executor(parts, backend, address, insecure=insecure) as executor:
            directory.write_manifest(manifest)
            _run_course(parts, executor, directory, watcher, past, saving)
    return load(directory.path)


def _open_past(path: Path, config: RunConfig) -> Checkpoint:
    past = open_checkpoint(path)
    past.check_past(config)
    return past


def _made_with(manifest: Mapping[str, Any], *, own_devices: bool) -> dict[str, str]:
    """Return what bits depend on besides the config: the images, the start model, and the code that trains.

    The user's own devices as well; those that ship change only with the version.
    """
    digests, versions = manifest["digests"], manifest["versions"]
    keys = ["dataset_sha256", "initial_parameters_sha256", *(["devices_sha256"] if own_devices else [])]
    return {
        **{key: digests[key] for key in keys},
        **{package: str(versions[package]) for package in ("fedknow-ray", "torch")},
    }


def _check_save_at(
    save_at: Collection[Boundary], folder: str | Path | None, config: RunConfig, past: Checkpoint | None
) -> None:
    """Refuse boundaries that the run never comes to, before it starts, and make the folder for the others."""
    if not save_at:
        return
    if not config.task_arrival.in_lockstep:
        raise UserError("a run can be saved between tasks, and with this task_arrival they come to each client by time")
    if folder is None:
        raise UserError("save_at needs checkpoints, the folder to save in")
    last = Boundary(config.scenario.places - 1, True)
    missed = [b for b in sorted(save_at) if b > last or b.task_index < 0 or (past and b <= past.state.boundary)]
    if missed:
        start = "the beginning" if past is None else str(past.state.boundary)
        names = ", ".join(map(str, missed))
        raise UserError(f"a run from {start} to {last} cannot be saved at {names}; name boundaries in between")
    make_folder(Path(folder))


@dataclass(frozen=True, slots=True)
class _Saving:
    """Where and when a run is saved; *made_with* goes into the checkpoint, *started_s* is when the host clock began."""

    config: RunConfig
    boundaries: frozenset[Boundary]
    folder: Path
    made_with: Mapping[str, str]
    started_s: float

    @property
    def wall_s(self) -> float:
        """Host seconds since the run began."""
        return time.perf_counter() - self.started_s

    def save(self, state: SchedulerState, executor: Executor, store: ResultStore) -> None:
        """Save a run that stands at a boundary."""
        contents = Contents(executor.save(), past_tables(store))
        save_checkpoint(self.folder, self.config, state, contents, made_with=self.made_with, wall_s=self.wall_s)


def _run_course(
    parts: Parts,
    executor: PlacedExecutor,
    directory: RunDirectory,
    watcher: Watcher,
    past: Checkpoint | None,
    saving: _Saving,
) -> None:
    store = ResultStore(directory)
    placement = executor.placement()
    store.append(placement)
    store.append(_packing_event(parts, placement))
    start = None if past is None else past.state
    scheduler = Scheduler(
        parts.course, parts.ledger, parts.policy, parts.conditions, executor, store.append, start, parts.slow_down
    )
    try:
        if past is not None:
            _take_up(past, executor, store)
        for progress in scheduler.run():
            store.flush()
            if progress.boundary in saving.boundaries:
                saving.save(scheduler.state(), executor, store)
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
        wall_s=saving.wall_s,
        parameters_sha256=digest,
    )
    directory.write_summary({"run_dir": str(directory.path), **summary})


def _take_up(past: Checkpoint, executor: Executor, store: ResultStore) -> None:
    """Put the run where its past ended; what was read of the past is let go of when this returns."""
    contents = past.contents()
    executor.restore(contents.saved)
    store.take_over(contents.tables)
    store.flush()


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
def open_executor(
    parts: Parts, backend: Backend, address: str | None = None, *, insecure: bool = False
) -> Iterator[PlacedExecutor]:
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
        else (lambda: joined_ray(address, insecure=insecure))
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
