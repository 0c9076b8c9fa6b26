"""Makes a recorded run again and compares: the digest of the global model after each round, and every row.

Whoever has the config, the data and the code gets the same bits, on any backend, or learns where the first one is that
is another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.checkpoint import open_checkpoint
from fedknow_ray.experiment.past import Past
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.run import make_run, read_config
from fedknow_ray.experiment.run_checkpoints import CHECKPOINTS, boundary_checkpoint
from fedknow_ray.experiment.watching import Unwatched, Watcher
from fedknow_ray.federation.standing import Progress
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import HOST_EVENTS
from fedknow_ray.results.store import CONFIG_FILE

#: What no two runs have in common.
OF_THE_HOST = {"visits": ("host_wall_s", "host_cpu_s")}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first thing that is another: the table, its row, the column, and what each of the runs has."""

    table: str
    row: int
    column: str
    recorded: Any
    again: Any

    def __str__(self) -> str:
        return f"{self.table}, row {self.row}, {self.column}: recorded {self.recorded}, made again {self.again}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What has come of making a run again: how many rounds and rows were compared, and where they differ first."""

    rounds: int
    rows: int
    mismatch: Mismatch | None

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        found = self.mismatch
        return {
            "same": found is None,
            "rounds": self.rounds,
            "rows": self.rows,
            "mismatch": None if found is None else {**_fields(found), "message": str(found)},
        }


class EnoughRounds(Exception):
    """The round that was asked for is made again."""


def verify(
    run_dir: str | Path,
    *,
    task_index: int | None = None,
    round_index: int | None = None,
    place: Place | None = None,
    watcher: Watcher | None = None,
) -> Verdict:
    """Make a run again, all of it or up to one round, and compare it with its record.

    With *task_index* and *round_index* it is made from the end of the task before, where the run was saved there, else
    from the beginning, up to that round.

    Raises:
        UserError: if there is no such run or round, or it promises no bits.
        PlacementError: if the nodes cannot hold the fleet.
    """
    recorded = load(run_dir)
    _refuse_unsuitable(recorded, task_index, round_index)
    config = read_config(recorded.path / CONFIG_FILE)
    stop = None if task_index is None else _Until(task_index, round_index, watcher or Unwatched())
    with tempfile.TemporaryDirectory(prefix="fkr-verify-") as folder:
        out = Path(folder) / "again"
        past = _nearest_past(recorded, task_index)
        with suppress(EnoughRounds):
            make_run(
                recorded.path.name, config, past=past, out=out, place=place, watcher=stop or watcher, durable=False
            )
        return compare_runs(recorded, load(out), whole=stop is None)


def compare_runs(recorded: Run, again: Run, *, whole: bool = True) -> Verdict:
    """Compare what a seed decides of two runs; without *whole* only the rows that the second one has."""
    rows = 0
    for name in ("rounds", "visits", "accuracy", "events"):
        one, other = _of_the_seed(name, recorded), _of_the_seed(name, again)
        if not whole:
            one = one.slice(0, len(other))
        if (found := _first_other(name, one, other)) is not None:
            return Verdict(len(again.rounds), rows, found)
        rows += len(other)
    digests = [(run.summary or {}).get("parameters_sha256") for run in (recorded, again)]
    last = Mismatch("summary", 0, "parameters_sha256", *digests) if whole and digests[0] != digests[1] else None
    return Verdict(len(again.rounds), rows, last)


class _Until:
    """A watcher that ends a run when one of its rounds is recorded."""

    def __init__(self, task_index: int, round_index: int | None, watcher: Watcher) -> None:
        self._task_index, self._round_index, self._watcher = task_index, round_index, watcher

    def stage(self, text: str) -> None:
        """Pass it on."""
        self._watcher.stage(text)

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._watcher.warn(text)

    def advance(self, progress: Progress) -> None:
        """Pass it on, and end the run where it is enough."""
        self._watcher.advance(progress)
        is_there = progress.task_finished if self._round_index is None else progress.round_index >= self._round_index
        if progress.task_index == self._task_index and is_there:
            raise EnoughRounds


def _refuse_unsuitable(recorded: Run, task_index: int | None, round_index: int | None) -> None:
    if recorded.config.get("clock") == "measured":
        raise UserError(f"{recorded.path}: its clock was a measured one, and no two such runs agree in their bits")
    if task_index is None and recorded.summary is None:
        raise RunDirectoryError(
            f"{recorded.path} is not finished; go on with it (fedknow-ray resume), or verify a part of it: --task N"
        )
    rounds = recorded.rounds.select(["task_index", "round_index"]).to_pylist()
    asked = {"task_index": task_index, "round_index": round_index}
    if task_index is not None and not any(
        row["task_index"] == task_index and round_index in (None, row["round_index"]) for row in rounds
    ):
        raise UserError(f"{recorded.path} has recorded no round {asked}; it has {len(rounds)} rounds in all")


def _nearest_past(recorded: Run, task_index: int | None) -> Past | None:
    """Return where to begin: at the end of the task before the one that is asked for, if the run was saved there.

    A fork whose past was made with another method begins where it was forked, in any case.

    Raises:
        UserError: if such a fork has not kept its beginning.
    """
    forked = recorded.manifest.get("started_from", {})
    path = None if not task_index else boundary_checkpoint(recorded.path, task_index - 1)
    if path is None or not path.is_file():
        if forked.get("same_past", True):
            return None
        path = recorded.path / CHECKPOINTS / f"{forked['boundary']}.ckpt"
        if not path.is_file():
            raise UserError(
                f"{recorded.path} is a fork whose past was made with another method, and {path.name}, where it began, "
                "was not kept (recovery.keep_task_ends)"
            )
    checkpoint = open_checkpoint(path)
    checkpoint.check_whole()
    return Past(checkpoint)


def _of_the_seed(name: str, run: Run) -> pa.Table:
    table: pa.Table = getattr(run, name)
    if name == "events":
        return table.filter(pc.invert(pc.is_in(table["kind"], pa.array(sorted(HOST_EVENTS)))))
    return table.drop_columns(list(OF_THE_HOST.get(name, ())))


def _first_other(name: str, recorded: pa.Table, again: pa.Table) -> Mismatch | None:
    if len(recorded) != len(again):
        return Mismatch(name, min(len(recorded), len(again)), "number of rows", len(recorded), len(again))
    differing = [column for column in recorded.column_names if not recorded[column].equals(again[column])]
    places = [(_first_row(recorded[column], again[column]), column) for column in differing]
    if not places:
        return None
    row, column = min(places)
    return Mismatch(name, row, column, recorded[column][row].as_py(), again[column][row].as_py())


def _first_row(recorded: pa.ChunkedArray, again: pa.ChunkedArray) -> int:
    pairs = zip(recorded.to_pylist(), again.to_pylist(), strict=True)
    return next(row for row, (one, other) in enumerate(pairs) if one != other)


def _fields(found: Mismatch) -> dict[str, Any]:
    names: Sequence[str] = ("table", "row", "column", "recorded", "again")
    return {name: getattr(found, name) for name in names}
