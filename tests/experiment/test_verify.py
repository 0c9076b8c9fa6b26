"""Runs made again: the same bits, or where the first other one is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from small import Recorder, run_small

from fedknow_ray.cli.app import app
from fedknow_ray.errors import GateError, RunDirectoryError, UserError
from fedknow_ray.experiment.fork import fork
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.verify import verify
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.store import to_parquet

LOCAL = Place("local")
TWO_ROUNDS = {"training.rounds_per_task": 2, "scenario.samples_per_client": 10}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_small(tmp_path_factory.mktemp("recorded"), {**TWO_ROUNDS, "method.name": "fedknow"})


def tampered(run: Run, folder: Path, table: str, column: str, row: int, value: Any) -> Path:
    """A copy of a run in which one value of a table is another."""
    import shutil

    shutil.copytree(run.path, folder)
    rows = pq.read_table(folder / f"{table}.parquet")
    values = rows[column].to_pylist()
    values[row] = value
    at = rows.column_names.index(column)
    changed = rows.set_column(at, rows.schema.field(column), pa.array(values, rows.schema.field(column).type))
    (folder / f"{table}.parquet").write_bytes(to_parquet(changed.replace_schema_metadata(rows.schema.metadata)))
    return folder


def test_a_run_made_again_is_the_same(run: Run):
    verdict = verify(run.path, place=LOCAL)
    assert verdict.mismatch is None
    assert verdict.rounds == 4
    assert verdict.rows == sum(len(table) for table in (run.rounds, run.visits, run.accuracy, run.events))


@pytest.mark.parametrize(
    ("table", "column", "row", "value"),
    [
        ("rounds", "parameters_sha256", 2, "0" * 64),
        ("visits", "loss", 3, 0.5),
        ("visits", "upload_s", 1, 0.5),
        ("accuracy", "correct", 0, 0),
    ],
)
def test_the_first_other_value_is_named(table: str, column: str, row: int, value: Any, run: Run, tmp_path: Path):
    recorded = getattr(run, table)[column][row].as_py()
    verdict = verify(tampered(run, tmp_path / "run", table, column, row, value), place=LOCAL)
    assert verdict.mismatch is not None
    assert str(verdict.mismatch) == f"{table}, row {row}, {column}: recorded {value}, made again {recorded}"


def test_host_seconds_are_nobodys_fault(run: Run, tmp_path: Path):
    assert verify(tampered(run, tmp_path / "run", "visits", "host_wall_s", 0, 99.0), place=LOCAL).mismatch is None


def test_one_round_can_be_made_again_from_the_end_of_the_task_before(run: Run):
    """Task 1, round 0: of the 4 rounds the first 3, of which 2 are of the past."""
    watcher = Recorder()
    verdict = verify(run.path, task_index=1, round_index=0, place=LOCAL, watcher=watcher)
    assert (verdict.mismatch, verdict.rounds) == (None, 3)
    assert [(p.task_index, p.round_index) for p in watcher.progress] == [(1, 0)]


def test_a_task_can_be_made_again_from_the_beginning(run: Run):
    verdict = verify(run.path, task_index=0, place=LOCAL)
    assert (verdict.mismatch, verdict.rounds) == (None, 2)


def test_a_part_of_a_run_that_was_left_can_be_verified(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path, TWO_ROUNDS, Recorder(KeyboardInterrupt(), after=2))
    assert verify(tmp_path / "run", task_index=0, round_index=1, place=LOCAL).mismatch is None
    with pytest.raises(RunDirectoryError, match="is not finished; go on with it"):
        verify(tmp_path / "run", place=LOCAL)


def test_a_fork_of_another_method_begins_where_it_was_forked(run: Run, tmp_path: Path):
    forked = fork(run.path, 1, ["method.name=fedavg"], out=tmp_path / "fork", place=LOCAL)
    verdict = verify(forked.path, place=LOCAL)
    assert (verdict.mismatch, verdict.rounds) == (None, 4)


def test_a_round_that_was_never_made_is_told(run: Run):
    with pytest.raises(UserError, match="has recorded no round"):
        verify(run.path, task_index=1, round_index=7, place=LOCAL)


def test_a_measured_clock_promises_no_bits(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recorded = load(run.path)
    recorded.config["clock"] = "measured"
    monkeypatch.setattr("fedknow_ray.experiment.verify.load", lambda path: recorded)
    with pytest.raises(UserError, match="no two such runs agree"):
        verify(run.path, place=LOCAL)


def test_the_command_says_so_and_ends_with_0(run: Run):
    result = CliRunner().invoke(app, ["verify", str(run.path), "--task", "0", "--backend", "local", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1])["same"] is True


def test_the_command_ends_with_4_where_something_is_another(run: Run, tmp_path: Path):
    other = tampered(run, tmp_path / "run", "rounds", "parameters_sha256", 0, "0" * 64)
    result = CliRunner().invoke(app, ["verify", str(other), "--task", "0", "--backend", "local", "--quiet", "--json"])
    assert isinstance(result.exception, GateError)
    assert json.loads(result.stdout.splitlines()[-1])["mismatch"]["table"] == "rounds"


def test_a_round_needs_its_task(run: Run):
    result = CliRunner().invoke(app, ["verify", str(run.path), "--round", "0"])
    assert isinstance(result.exception, UserError)
