"""Writing a run directory: whole files only, cheap flushes, plain refusals."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from sample_rows import ACCURACY, ALL, EVENT, ROUND, VISIT

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results import TABLES, ResultStore, RunDirectory, write_atomically
from fedknow_ray.results.store import replacing


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_directory_is_made_with_its_parents(tmp_path):
    assert RunDirectory.create(tmp_path / "runs" / "one").path.is_dir()


def test_empty_folder_is_taken(tmp_path):
    assert RunDirectory.create(tmp_path).path == tmp_path


def test_folder_that_holds_something_is_refused_and_named(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunDirectoryError, match=r"not empty \(it holds 'thesis.tex'\)"):
        RunDirectory.create(tmp_path)


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(RunDirectoryError, match="is a file"):
        RunDirectory.create(tmp_path / "run")


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot make the run directory"):
        RunDirectory.create(tmp_path / "file" / "run")


def test_a_refused_folder_keeps_every_file_hidden_ones_as_well(tmp_path):
    (tmp_path / ".draft.tmp").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"not empty"):
        RunDirectory.create(tmp_path)
    assert (tmp_path / ".draft.tmp").read_text() == "mine"


def test_of_two_runs_that_found_the_same_empty_folder_the_second_is_refused(tmp_path):
    first, second = RunDirectory.create(tmp_path), RunDirectory.create(tmp_path)
    first.write_config("seed: 1\n")
    with pytest.raises(RunDirectoryError, match="in use by another run"):
        second.write_config("seed: 2\n")
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"


def test_an_abandoned_run_takes_the_folders_away_that_it_made_and_no_other(tmp_path):
    directory = RunDirectory.create(tmp_path / "a" / "b")
    directory.write_config("seed: 1\n")
    directory.abandon()
    assert names(tmp_path) == []


def test_a_run_with_a_manifest_is_not_abandoned(tmp_path):
    directory = RunDirectory.create(tmp_path / "run")
    directory.write_config("seed: 1\n")
    directory.write_manifest({})
    directory.abandon()
    assert names(tmp_path / "run") == ["config.yaml", "manifest.json"]


def test_config_manifest_and_summary_stand_in_their_files(directory):
    directory.write_config("seed: 1\n")
    directory.write_manifest({"host": "œuvre"})
    directory.write_summary({"forgetting": None})
    assert (directory.path / "config.yaml").read_text() == "seed: 1\n"
    assert json.loads((directory.path / "manifest.json").read_text()) == {"host": "œuvre"}
    assert json.loads((directory.path / "summary.json").read_text()) == {"forgetting": None}


def test_summary_with_nan_is_refused_as_other_readers_could_not_parse_it(directory):
    with pytest.raises(ValueError, match="not JSON compliant"):
        directory.write_summary({"average_accuracy": float("nan")})


def test_first_flush_writes_every_table_if_only_its_columns(directory):
    ResultStore(directory).flush()
    for table, schema in TABLES.items():
        written = pq.read_table(directory.path / f"{table}.parquet")
        assert (written.num_rows, written.schema) == (0, schema)


def test_rows_come_back_as_they_went_in(directory):
    store = ResultStore(directory)
    store.append(ALL)
    store.flush()
    for row, table in zip(ALL, ("visits", "rounds", "accuracy", "events", "placement"), strict=True):
        expected = dataclasses.asdict(row)
        if table == "rounds":
            expected["clients"] = [3]
        assert pq.read_table(directory.path / f"{table}.parquet").to_pylist() == [expected]


def test_file_keeps_the_table_name_and_version(directory):
    ResultStore(directory).flush()
    assert pq.read_schema(directory.path / "visits.parquet").metadata[b"fedknow_ray.schema_version"] == b"1"


def test_later_flush_adds_to_what_is_there(directory):
    store = ResultStore(directory)
    for client_id in (5, 6, 7):
        store.append(dataclasses.replace(VISIT, client_id=client_id))
        store.flush()
    assert pq.read_table(directory.path / "visits.parquet")["client_id"].to_pylist() == [5, 6, 7]


def test_table_that_did_not_change_is_not_written_again(directory):
    store = ResultStore(directory)
    store.flush()
    before = (directory.path / "accuracy.parquet").stat().st_mtime_ns, (directory.path / "visits.parquet").stat().st_ino
    store.append(VISIT)
    store.flush()
    after = (directory.path / "accuracy.parquet").stat().st_mtime_ns, (directory.path / "visits.parquet").stat().st_ino
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_table_shows_rows_before_they_are_flushed(directory):
    store = ResultStore(directory)
    store.append(ACCURACY)
    store.flush()
    store.append(ACCURACY)
    assert store.table("accuracy").num_rows == 2


def test_null_where_none_may_be_is_refused(directory):
    with pytest.raises(ValueError, match=r"visits\.compute_s may not be null"):
        ResultStore(directory).append(dataclasses.replace(VISIT, compute_s=None))


def test_object_that_is_no_row_is_refused(directory):
    with pytest.raises(TypeError, match="SimpleNamespace is not a row"):
        ResultStore(directory).append([SimpleNamespace()])


def test_interrupted_flush_leaves_the_old_table_whole(directory, break_replace):
    store = ResultStore(directory)
    store.append(EVENT)
    store.flush()
    store.append(EVENT)
    break_replace()
    with pytest.raises(RunDirectoryError, match=r"cannot write .*events\.parquet: No space left"):
        store.flush()
    assert pq.read_table(directory.path / "events.parquet").num_rows == 1
    assert not list(directory.path.glob(".*"))


def test_rows_of_a_failed_flush_are_written_by_the_next(directory, monkeypatch):
    store = ResultStore(directory)
    store.append(EVENT)
    with monkeypatch.context() as broken:
        broken.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("busy")))
        with pytest.raises(RunDirectoryError, match="busy"):
            store.flush()
    store.flush()
    assert pq.read_table(directory.path / "events.parquet").num_rows == 1


def test_a_round_is_written_after_its_visits(directory, monkeypatch):
    """The process may die between two tables; a round without its visits would be a lie."""
    order = []
    monkeypatch.setattr("fedknow_ray.results.store.write_atomically", lambda path, _: order.append(path.stem))
    store = ResultStore(directory)
    store.append([ROUND, VISIT])
    store.flush()
    assert order.index("visits") < order.index("rounds")


def test_write_replaces_the_whole_file(tmp_path):
    write_atomically(tmp_path / "a.txt", b"a long first text")
    write_atomically(tmp_path / "a.txt", b"short")
    assert (tmp_path / "a.txt").read_bytes() == b"short"
    assert names(tmp_path) == ["a.txt"]


def test_a_past_that_is_taken_over_comes_behind_what_is_there_and_is_written(directory):
    past = ResultStore(RunDirectory.create(directory.path.parent / "past"))
    past.append([EVENT, VISIT])
    store = ResultStore(directory)
    store.append(dataclasses.replace(EVENT, detail="own"))
    store.take_over({name: past.table(name) for name in ("events", "visits")})
    store.append(dataclasses.replace(EVENT, detail="later"))
    store.flush()
    assert pq.read_table(directory.path / "events.parquet")["detail"].to_pylist() == ["own", EVENT.detail, "later"]
    assert pq.read_table(directory.path / "visits.parquet").num_rows == 1


def test_a_past_is_written_though_nothing_follows_it(directory):
    past = ResultStore(RunDirectory.create(directory.path.parent / "past"))
    past.append(EVENT)
    store = ResultStore(directory)
    store.flush()
    store.take_over({"events": past.table("events")})
    store.flush()
    assert pq.read_table(directory.path / "events.parquet").num_rows == 1


def test_a_stream_whose_block_raises_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as stream:
        stream.write(b"half of it")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]


def test_a_table_of_many_flushes_comes_to_few_pieces_and_keeps_its_rows(directory, monkeypatch):
    """Three pieces at most: 7 flushes of one event each."""
    monkeypatch.setattr("fedknow_ray.results.store.MOST_CHUNKS", 3)
    store = ResultStore(directory)
    events = [dataclasses.replace(EVENT, time_s=float(number)) for number in range(7)]
    for event in events:
        store.append(event)
        store.flush()
        assert store._tables["events"].column("time_s").num_chunks <= 3
    assert store.table("events")["time_s"].to_pylist() == [event.time_s for event in events]
    assert pq.read_table(directory.path / "events.parquet").equals(store.table("events"))
