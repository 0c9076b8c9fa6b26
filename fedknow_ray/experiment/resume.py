"""Goes on with a run that was left: where it was killed, interrupted or failed, in its own directory.

The last whole checkpoint says where; rounds before it are not made again, and the end is the run's that was never left,
to the bit, wherever it goes on: on any backend, on any nodes, with its clients packed in any way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.carrying import Carrier
from fedknow_ray.experiment.checkpoint import OF_THE_HOST, Checkpoint
from fedknow_ray.experiment.claims import claimed
from fedknow_ray.experiment.differences import differences
from fedknow_ray.experiment.host_clock import HostClock
from fedknow_ray.experiment.manifest import resumed_note
from fedknow_ray.experiment.mirror import Mirror, followed, last_part
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.run import (
    Overrides,
    Prepared,
    carry_in,
    default_path,
    prepare,
    read_config,
)
from fedknow_ray.experiment.run_checkpoints import RunCheckpoints, latest_whole
from fedknow_ray.experiment.watching import Unwatched, Watcher
from fedknow_ray.results.remote import Remote, is_url, shown
from fedknow_ray.results.run import Run, load, read_manifest, read_table
from fedknow_ray.results.schema import TABLES
from fedknow_ray.results.store import CONFIG_FILE, SUMMARY_FILE, ResultStore, RunDirectory


def resume(
    run_dir: str | Path,
    overrides: Overrides = (),
    *,
    out: str | Path | None = None,
    place: Place | None = None,
    watcher: Watcher | None = None,
) -> Run:
    """Go on with the run in a directory, and return it finished; one that is finished is returned as it is.

    *overrides* may change `placement` and `recovery` alone. A run at a URL is fetched into the local folder *out*, by
    default `runs/<time>-<name>`, and copied to the URL again as it goes on; one in a local folder is copied to *out* if
    that is a URL.

    Raises:
        UserError: if there is no run, another program makes it, or its data or code are not what they were.
        PlacementError: if the nodes cannot hold the fleet.
    """
    watcher = watcher or Unwatched()
    folder, mirror = _local(run_dir, out, watcher)
    with claimed(folder), followed(mirror, watcher.warn) as copy:
        if (folder / SUMMARY_FILE).exists():
            copy()
            return load(folder)
        clock = HostClock()
        config = _config_of(folder, overrides)
        refused: list[str] = []
        latest = latest_whole(folder, refused.append)
        for message in refused:
            watcher.warn(f"{message}; the one before it is used")
        place = place or Place("ray")
        prepared = prepare(config, _name_of(folder), place.backend, watcher)
        directory = RunDirectory(folder, copy=copy)
        store = ResultStore(directory)
        checkpoints = RunCheckpoints(folder, config, prepared.made_with, clock)
        carrier = Carrier(prepared.parts, store, checkpoints if config.recovery.checkpoint_every_rounds else None)
        if latest is not None:
            latest.check_made_with(prepared.made_with)
            clock.add(latest.wall_s)
            _take_up(latest, carrier, checkpoints, folder)
        _note(prepared, folder, carrier, latest, refused)
        carry_in(directory, prepared, carrier, place, watcher, clock)
    return load(folder)


def _local(run_dir: str | Path, out: str | Path | None, watcher: Watcher) -> tuple[Path, Mirror | None]:
    """Return the local folder of a run, and its copy at a URL if it has one.

    Raises:
        UserError: if there is no run, or the two places do not go together.
    """
    if is_url(run_dir):
        if is_url(out):
            raise UserError(f"a run at a URL goes on there; --out {shown(str(out))} can only be a local folder for it")
        remote = Remote(str(run_dir), watcher.warn)
        watcher.stage(f"fetching {remote.shown}")
        mirror = Mirror.fetch(remote, default_path(last_part(remote.url)) if out is None else Path(out))
        return mirror.local, mirror
    folder = Path(run_dir)
    if not (folder / CONFIG_FILE).is_file():
        raise RunDirectoryError(f"{folder} is not a run directory: it has no {CONFIG_FILE}")
    if out is None:
        return folder, None
    if not is_url(out):
        raise UserError("a run in a local folder goes on there; --out can only be a URL to copy it to")
    return folder, Mirror.go_on(folder, Remote(str(out), watcher.warn))


def _config_of(folder: Path, overrides: Overrides) -> RunConfig:
    """Return the config that a run goes on with.

    Raises:
        UserError: if it would be another run.
    """
    recorded, config = read_config(folder / CONFIG_FILE), read_config(folder / CONFIG_FILE, overrides)
    changed = [
        each
        for each in differences(recorded.to_dict(), config.to_dict(), absent="nothing")
        if each.key.split(".")[0] not in OF_THE_HOST
    ]
    if changed:
        keys = ", ".join(f"{each.key} (was {each.there})" for each in changed)
        raise UserError(
            f"a run can go on with other {' and '.join(OF_THE_HOST)} only, and {keys} would make it another run; "
            "leave it out, or start another future at the end of a task: --fork-at-task N --out DIR"
        )
    return config


def _take_up(latest: Checkpoint, carrier: Carrier, checkpoints: RunCheckpoints, folder: Path) -> None:
    """Put the run where it was saved last; what its machines went through since stays in the events."""
    store = carrier.store
    store.take_over({name: read_table(folder, name) for name in TABLES})
    store.cut({name: rows for name, (rows, _) in latest.header.stored.tables.items()})
    checkpoints.go_on_from(latest)
    carrier.begin_with(latest.contents().saved, latest.state)


def _note(prepared: Prepared, folder: Path, carrier: Carrier, latest: Checkpoint | None, refused: list[str]) -> None:
    """Say in the manifest and the events that the run was left and goes on."""
    at = "the beginning" if latest is None else latest.path.name
    earlier: dict[str, Any] = read_manifest(folder) or dict(prepared.manifest)
    note = resumed_note(prepared.manifest, at)
    prepared.manifest.clear()
    prepared.manifest.update({**earlier, "resumed": [*earlier.get("resumed", ()), note]})
    for message in refused:
        carrier.happened("checkpoint_refused", message)
    carrier.happened("resumed", json.dumps({"checkpoint": at}))


def _name_of(folder: Path) -> str:
    manifest = read_manifest(folder)
    return folder.name if manifest is None else str(manifest.get("name", folder.name))
