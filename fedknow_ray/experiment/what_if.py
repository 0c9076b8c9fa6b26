"""What a recorded run would have taken under other conditions, without training; or that it must be trained again.

    recorded config -> told unchanged, as the record has it? -> told with the change, the same course? -> its seconds

The answer holds where the change leaves every visit, its outcome, its start model and every merge as they were: then a
run with that config would have the recorded accuracies, and the seconds, bytes and joules that are told here, to the
bit. Anything else is not answered but said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedknow_ray.config.loading import dump_yaml
from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.course_difference import Told, first_difference
from fedknow_ray.experiment.differences import Difference, differences
from fedknow_ray.experiment.manifest import replayed_manifest
from fedknow_ray.experiment.recorded_config import RecordedConfig
from fedknow_ray.experiment.replay import RecordedVisits, Replay
from fedknow_ray.experiment.summary import summarise
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import HOST_EVENTS
from fedknow_ray.results.store import ResultStore, RunDirectory, tables_of
from fedknow_ray.simulation.device import Device

#: Sections that decide what is learnt: no replay can tell what they do.
TRAINING = ("seed", "scenario", "model", "method", "training", "compression", "door", "task_arrival")
#: Keys of the host alone, and of clocks that no replay can tell.
HOST = ("placement", "recovery", "clock", "host_device")

_ABSENT = "absent"
#: Columns that the course of a run does not tell: a replay holds no model.
_NOT_TOLD = ("parameters_sha256",)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over visits; *energy_j* None where a device's watts are not known."""

    visits: int
    download_s: float
    compute_s: float
    upload_s: float
    wait_s: float
    download_bytes: int
    upload_bytes: int
    energy_j: float | None

    @staticmethod
    def of(visits: pa.Table) -> Totals:
        """Return the sums of some rows of `visits`."""
        names = [field.name for field in fields(Totals) if field.name != "visits"]
        return Totals(visits=visits.num_rows, **{name: _sum(visits[name]) for name in names})


@dataclass(frozen=True)
class Timing:
    """What a course takes: its tables by name, and the virtual time at its end."""

    tables: Mapping[str, pa.Table]
    virtual_time_s: float

    @property
    def totals(self) -> Totals:
        """The sums over all visits."""
        return Totals.of(self.tables["visits"])

    def by_device(self) -> dict[str, Totals]:
        """Return the sums over the visits of each device kind, by name."""
        visits = self.tables["visits"]
        names = sorted(set(visits["device"].to_pylist()))
        return {name: Totals.of(visits.filter(pc.equal(visits["device"], name))) for name in names}

    def plain(self) -> dict[str, Any]:
        """Return the sums as values that JSON can hold."""
        devices = {name: asdict(totals) for name, totals in self.by_device().items()}
        return {"virtual_time_s": self.virtual_time_s, **asdict(self.totals), "devices": devices}


@dataclass(frozen=True)
class Answer:
    """What a change of some keys does to a recorded run; *reason* why only training can tell, None if a replay did.

    *changes* are the keys that differ, with their values there and here.
    """

    run: Run
    config: RunConfig
    devices: tuple[Device, ...]
    changes: tuple[Difference, ...]
    reason: str | None
    replayed: Timing | None

    @property
    def valid(self) -> bool:
        """Whether a run with the change trains the same, so that a replay tells what it takes."""
        return self.replayed is not None

    @property
    def recorded(self) -> Timing:
        """What the run took."""
        return _recorded(self.run)

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {
            "run_dir": str(self.run.path),
            "changes": {change.key: [change.there, change.here] for change in self.changes},
            "valid": self.valid,
            "reason": self.reason,
            "recorded": self.recorded.plain(),
            "replayed": None if self.replayed is None else self.replayed.plain(),
        }


def what_if(run_dir: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Answer:
    """Return what the run in a directory would have taken with other values of some config keys.

    Raises:
        UserError: if the run did not finish or its clock was a measured one, if it cannot be told from its record even
            unchanged, or if a change is wrong or says nothing about virtual time.
    """
    run = load(run_dir)
    recorded_config = RecordedConfig(run)
    config = recorded_config.read()
    _refuse_unfinished(run, config)
    changed = recorded_config.read(overrides)
    changes = tuple(differences(config.to_dict(), changed.to_dict(), absent=_ABSENT))
    _refuse_host_keys(changes)
    devices = recorded_config.devices(changed)
    training = next((change.key for change in changes if _section(change) in TRAINING), None)
    if training is not None:
        return Answer(run, changed, devices, changes, f"{training} decides what is learnt", None)
    if not config.task_arrival.in_lockstep:
        by_time = "tasks come to each client by time, so who trains what with whom turns on all seconds"
        return Answer(run, changed, devices, changes, by_time, None)
    visits = RecordedVisits.of(run)
    as_it_was = _check_record(run, Replay(config, visits, recorded_config.devices(config)))
    replay = Replay(changed, visits, devices)
    reason = first_difference(as_it_was, replay.tell())
    if reason is not None:
        return Answer(run, changed, devices, changes, reason, None)
    return Answer(run, changed, devices, changes, None, _timing(run, replay))


def write_replayed(answer: Answer, out: str | Path) -> Path:
    """Write a run directory that holds the replayed tables, and of the record what training decided; return it.

    Raises:
        UserError: if the answer has no replay.
        RunDirectoryError: if the folder is not new or empty.
    """
    if answer.replayed is None:
        raise UserError(f"there is nothing to write: retraining is needed, {answer.reason}")
    run, tables, recorded = answer.run, answer.replayed.tables, answer.run.summary or {}
    changes = {change.key: [change.there, change.here] for change in answer.changes}
    directory = RunDirectory.create(out)
    directory.write_config(dump_yaml(answer.config))
    directory.write_manifest(replayed_manifest(run, answer.config, answer.devices, changes))
    store = ResultStore(directory)
    store.take_over({**tables, "placement": _placement(run, answer.devices)})
    store.flush()
    summary = summarise(
        tables["accuracy"],
        tables["visits"],
        virtual_time_s=answer.replayed.virtual_time_s,
        wall_s=recorded["wall_s"],
        parameters_sha256=recorded["parameters_sha256"],
    )
    directory.write_summary({"run_dir": str(directory.path), **summary})
    return directory.path


def _sum(column: pa.ChunkedArray) -> Any:
    """Return a sum that is rounded once, so that it does not depend on how rows lie in chunks; None of unknowns."""
    if column.null_count:
        return None
    return math.fsum(column.to_pylist()) if pa.types.is_floating(column.type) else sum(column.to_pylist())


def _refuse_unfinished(run: Run, config: RunConfig) -> None:
    if run.summary is None:
        raise RunDirectoryError(
            f"{run.path} has no summary: the run did not finish, and only a finished one can be replayed"
        )
    if config.clock == "measured":
        raise UserError(
            f"{run.path}: its clock was a measured one, so no other run takes its seconds; "
            f"replay a run with clock: virtual"
        )


def _refuse_host_keys(changes: Sequence[Difference]) -> None:
    for change in changes:
        if _section(change) in HOST:
            raise UserError(
                f"{change.key} is about the host that makes a run, and a replay makes no visit; leave it as it is"
            )


def _section(change: Difference) -> str:
    return change.key.split(".")[0]


def _recorded(run: Run) -> Timing:
    of_the_host, told = _events(run)
    events = pa.concat_tables([of_the_host, told])
    tables = {"visits": run.visits, "rounds": run.rounds, "accuracy": run.accuracy, "events": events}
    return Timing(tables, float((run.summary or {})["virtual_time_s"]))


def _events(run: Run) -> tuple[pa.Table, pa.Table]:
    """Return the events of the machines that made a run, and those that its course tells."""
    of_the_host = pc.is_in(run.events["kind"], pa.array(sorted(HOST_EVENTS)))
    return run.events.filter(of_the_host), run.events.filter(pc.invert(of_the_host))


def _timing(run: Run, replay: Replay) -> Timing:
    """Return what a replay takes; events of the host are the recorded ones."""
    rows, now_s = replay.rows()
    tables = tables_of(rows)
    tables["events"] = pa.concat_tables([_events(run)[0], tables["events"]])
    return Timing({name: tables[name] for name in ("visits", "rounds", "accuracy", "events")}, now_s)


def _check_record(run: Run, replay: Replay) -> Told:
    """Tell a run as it was, and hold it against its record.

    Raises:
        RunDirectoryError: if they differ.
    """
    told = replay.tell()
    if told.stopped is not None:
        raise RunDirectoryError(f"{run.path} cannot be told from its record: {told.stopped}")
    again, recorded = _timing(run, replay), _recorded(run)
    for name, table in again.tables.items():
        where = _first_unequal(table, recorded.tables[name])
        if where is not None:
            raise RunDirectoryError(
                f"{run.path}: told again, it is not what was recorded, in {name} {where}. Another version made it "
                f"({run.manifest.get('versions', {}).get('fedknow-ray', 'unknown')}), or a trace that it reads has "
                f"changed since; make the run again"
            )
    return told


def _first_unequal(table: pa.Table, recorded: pa.Table) -> str | None:
    if table.num_rows != recorded.num_rows:
        return f"({table.num_rows} rows, recorded {recorded.num_rows})"
    for column in (name for name in table.column_names if name not in _NOT_TOLD):
        one, other = table[column], recorded[column]
        if not one.equals(other):
            row = next(i for i, (a, b) in enumerate(zip(one.to_pylist(), other.to_pylist(), strict=True)) if a != b)
            return f"(row {row}, {column}: {one[row].as_py()}, recorded {other[row].as_py()})"
    return None


def _placement(run: Run, devices: Sequence[Device]) -> pa.Table:
    """Return where the recorded run's clients lived, each as the device that it is here."""
    placement = run.placement
    names = pa.array([devices[client].name for client in placement["client_id"].to_pylist()], pa.string())
    at = placement.column_names.index("device")
    return placement.set_column(at, placement.schema.field(at), names)
