"""One run: config in, run directory out.

    config -> data -> scenario -> backend -> manifest -> rounds, rows flushed after each -> summary

Whatever the user can get wrong is found before the backend starts. Nothing is left behind if the run cannot start; an
interrupted run keeps what it recorded, says so in its events, and has no summary. A run can be saved at boundaries and
another started from there (`experiment.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from fedknow_ray.config.loading import dump_yaml, load_config, resolve_run_name
from fedknow_ray.config.model import RunConfig
from fedknow_ray.experiment.assembly import Parts, last_facts, open_data, put_together
from fedknow_ray.experiment.carrying import Carrier, PlacedExecutor
from fedknow_ray.experiment.catalogue import CATALOGUE
from fedknow_ray.experiment.claims import claimed
from fedknow_ray.experiment.host_clock import HostClock
from fedknow_ray.experiment.host_precision import precision_warning
from fedknow_ray.experiment.manifest import make_manifest
from fedknow_ray.experiment.mirror import Mirror, followed, refuse_taken
from fedknow_ray.experiment.past import Past
from fedknow_ray.experiment.place import Backend, Place, open_executor
from fedknow_ray.experiment.run_checkpoints import RunCheckpoints
from fedknow_ray.experiment.saving import Boundaries
from fedknow_ray.experiment.summary import summarise
from fedknow_ray.experiment.watching import Unwatched, Watcher
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.scheduler import Scheduler
from fedknow_ray.federation.standing import Progress
from fedknow_ray.results.remote import Remote, is_url
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import EventRow, PlacementRow
from fedknow_ray.results.store import ResultStore, RunDirectory

Overrides = Mapping[str, Any] | Sequence[str]


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
    durable: bool = True,
) -> Run:
    """Run a config and return the finished run.

    *backend* "ray" starts a Ray of its own unless *address* names a cluster; "local" does everything in this process,
    to the same bits. A cluster that lets in whoever has no token is joined only if *insecure* is set. *out* is the run
    directory, new or empty; without it `runs/<time>-<name>`. Where it is a URL (`s3://bucket/run`), the run is made in
    such a local directory and copied to the URL after each round.

    *start_from* is a checkpoint of a run with the same past; the run is then, to the bit, what it would be from its
    beginning, and has all rows from there. At the boundaries *save_at* it is saved in the folder *checkpoints*, as
    `<boundary>/state.ckpt`. With *durable* False nothing is saved besides, whatever the config's `recovery` says: for
    runs that somebody makes again if they are lost.

    Raises:
        UserError: if the config, the data, the checkpoint or the arguments are wrong.
        PlacementError: if the nodes cannot hold the fleet.
    """
    place = Place(backend, address, insecure)
    config = read_config(path, overrides)
    past = None if start_from is None else Past.open(Path(start_from), config)
    boundaries = Boundaries.of(save_at, checkpoints, config, past)
    return make_run(
        resolve_run_name(path),
        config,
        past=past,
        boundaries=boundaries,
        out=out,
        place=place,
        watcher=watcher,
        durable=durable,
    )


def make_run(
    name: str,
    config: RunConfig,
    *,
    past: Past | None = None,
    boundaries: Boundaries | None = None,
    out: str | Path | None = None,
    place: Place | None = None,
    watcher: Watcher | None = None,
    durable: bool = True,
) -> Run:
    """Make a run from its beginning or from a past, in a new directory, and return it finished.

    At the *boundaries* it is saved for others.

    Raises:
        UserError: if the data, the devices, the traces or the past are wrong.
        PlacementError: if the nodes cannot hold the fleet.
    """
    clock, watcher, place = HostClock(), watcher or Unwatched(), place or Place()
    if is_url(out):
        # what is wrong with a URL is said before the data are read
        refuse_taken(Remote(str(out), watcher.warn))
    prepared = prepare(config, name, place.backend, watcher)
    begin = None if past is None else past.begin(prepared.parts, prepared.made_with)
    if past is not None:
        prepared.manifest["started_from"] = past.origin()
        # the seconds of the past count as if they had been spent here
        clock.add(past.checkpoint.wall_s)
    with _new_directory(out, name, dump_yaml(config), watcher) as directory:
        carrier = _carrier(directory, prepared, clock, durable=durable)
        if past is not None and begin is not None:
            carrier.store.take_over(past.checkpoint.contents().tables)
            carrier.begin_with(*begin)

        def save(progress: Progress, scheduler: Scheduler, executor: PlacedExecutor) -> None:
            if boundaries is not None:
                boundaries.save(progress, scheduler, executor, carrier.store, prepared.made_with, clock())

        with claimed(directory.path):
            carry_in(directory, prepared, carrier, place, watcher, clock, save)
    return load(directory.path)


@dataclass(frozen=True)
class Prepared:
    """A run that can start: its parts, its manifest, and what its bits depend on besides the config."""

    parts: Parts
    manifest: dict[str, Any]
    made_with: dict[str, str]


def prepare(config: RunConfig, name: str, backend: Backend, watcher: Watcher) -> Prepared:
    """Read the data of a run and put its parts together.

    Raises:
        UserError: if the data, the devices or the traces are wrong.
    """
    warning = precision_warning(config.training.precision)
    if warning is not None:
        watcher.warn(warning)
    watcher.stage(f"reading {config.scenario.dataset}")
    dataset = open_data(config)
    parts = put_together(config, dataset)
    kept_bytes = parts.ledger.method.kept_bytes(last_facts(parts.course))
    manifest = make_manifest(name, config, dataset, parts.start, parts.ledger.devices, backend, kept_bytes)
    return Prepared(parts, manifest, _made_with(manifest, own_devices=config.devices_path is not None))


def carry_in(
    directory: RunDirectory,
    prepared: Prepared,
    carrier: Carrier,
    place: Place,
    watcher: Watcher,
    clock: HostClock,
    saved: Callable[[Progress, Scheduler, PlacedExecutor], None] = lambda *where: None,
) -> None:
    """Carry a run through in its directory, from the manifest to the summary.

    *saved* is called after each round and each end of a task, when its rows are on the disk.

    Raises:
        PlacementError: if the nodes cannot hold the fleet.
    """
    parts, store = prepared.parts, carrier.store
    watcher.stage(f"starting {len(parts.assembly.config.devices)} clients ({place.backend})")
    with open_executor(parts, place, carrier.care(watcher.warn)) as executor:
        directory.write_manifest(prepared.manifest)
        directory.copy()
        placement = executor.placement()
        store.append(placement)
        store.append(_packing_event(parts, placement))

        def written(progress: Progress, scheduler: Scheduler) -> None:
            directory.copy()
            saved(progress, scheduler, executor)

        ended = carrier.carry(executor, written, watcher.advance)
    summary = summarise(
        store.table("accuracy"),
        store.table("visits"),
        virtual_time_s=ended.time_s,
        wall_s=clock(),
        parameters_sha256=ended.parameters_sha256,
    )
    directory.write_summary({"run_dir": str(directory.path), **summary})
    if carrier.checkpoints is not None:
        carrier.checkpoints.finish()
    directory.copy()


def _carrier(directory: RunDirectory, prepared: Prepared, clock: HostClock, *, durable: bool) -> Carrier:
    config = prepared.parts.assembly.config
    keeps = durable and config.recovery.checkpoint_every_rounds > 0
    checkpoints = RunCheckpoints(directory.path, config, prepared.made_with, clock) if keeps else None
    return Carrier(prepared.parts, ResultStore(directory), checkpoints)


def _made_with(manifest: Mapping[str, Any], *, own_devices: bool) -> dict[str, str]:
    """Return what bits depend on besides the config: the images, the start model, and the code that trains.

    The user's own devices and traces as well; what ships changes only with the version.
    """
    digests, versions = manifest["digests"], manifest["versions"]
    keys = [
        "dataset_sha256",
        "initial_parameters_sha256",
        *(["devices_sha256"] if own_devices else []),
        "traces_sha256",
    ]
    return {
        **{key: digests[key] for key in keys if key in digests},
        **{package: str(versions[package]) for package in ("fedknow-ray", "torch")},
    }


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
def _new_directory(out: str | Path | None, name: str, config_text: str, watcher: Watcher) -> Iterator[RunDirectory]:
    """Make and claim the run directory, and leave no trace of it if the run fails before its manifest is written."""
    local = default_path(name) if out is None or is_url(out) else Path(out)
    mirror = Mirror.begin(local, Remote(str(out), watcher.warn)) if is_url(out) else None
    directory = RunDirectory.create(local)
    with followed(mirror, watcher.warn) as copy:
        try:
            directory.write_config(config_text)
            if mirror is not None:
                mirror.bring()
            yield replace(directory, copy=copy)
        except BaseException:
            directory.abandon()
            raise


def default_path(name: str) -> Path:
    """Return `runs/<time>-<name>`, with a number behind it where that is taken."""
    first = Path("runs") / f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-{name}"
    others = (first.with_name(f"{first.name}-{number}") for number in count(2))
    return next(path for path in chain([first], others) if not path.exists())
