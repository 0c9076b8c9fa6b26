"""Opening runs: finished, unfinished, broken, too new, and folders that are none."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from sample_rows import ALL

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results import TABLES, load
from fedknow_ray.results.schema import VERSION_KEY


def test_finished_run_has_its_config_manifest_and_summary(finished_run):
    run = load(str(finished_run))
    assert run.path == finished_run
    assert run.config == {"seed": 1, "method": {"name": "fedavg"}}
    assert run.manifest == {"seed": 1}
    assert run.summary == {"average_accuracy": 0.875}


@pytest.mark.parametrize("table", TABLES)
def test_run_has_each_table_as_an_attribute(finished_run, table):
    found = getattr(load(finished_run), table)
    assert (found.num_rows, found.schema) == (len(ALL) // len(TABLES), TABLES[table])


def test_run_that_did_not_finish_has_no_summary(finished_run):
    (finished_run / "summary.json").unlink()
    assert load(finished_run).summary is None


def test_table_is_read_once_and_only_when_asked_for(finished_run):
    run = load(finished_run)
    assert "visits" not in vars(run)
    assert run.visits is run.visits


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a folder"):
        load(tmp_path / "nowhere")


def test_folder_without_manifest_is_no_run(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"not a run directory: it has no manifest\.json"):
        load(tmp_path)


def test_missing_table_is_named(finished_run):
    (finished_run / "rounds.parquet").unlink()
    with pytest.raises(RunDirectoryError, match=r"lacks rounds\.parquet"):
        load(finished_run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("visits.parquet", b"not Parquet at all"),
        ("visits.parquet", b""),
        ("config.yaml", b"a: [1"),
        ("config.yaml", b"- 1\n"),
        ("config.yaml", b"\xff\xfe"),
        ("manifest.json", b'{"seed": '),
        ("summary.json", b"[]"),
    ],
)
def test_broken_file_is_refused_by_name(finished_run, name, content):
    (finished_run / name).write_bytes(content)
    with pytest.raises(RunDirectoryError, match=f"cannot read .*{name}"):
        load(finished_run)


def test_missing_config_is_refused(finished_run):
    (finished_run / "config.yaml").unlink()
    with pytest.raises(RunDirectoryError, match=r"cannot read .*config\.yaml"):
        load(finished_run)


def test_truncated_table_is_refused(finished_run):
    path = finished_run / "visits.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunDirectoryError, match=r"cannot read .*visits\.parquet"):
        load(finished_run)


def test_damage_below_a_sound_footer_is_told_when_the_table_is_read(finished_run):
    path = finished_run / "visits.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\x00" * 200 + content[204:])
    run = load(finished_run)
    with pytest.raises(RunDirectoryError, match=r"cannot read .*visits\.parquet"):
        _ = run.visits


def set_metadata(path, metadata):
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | metadata), path)


def test_newer_schema_version_asks_for_an_update(finished_run):
    set_metadata(finished_run / "events.parquet", {VERSION_KEY: b"2"})
    with pytest.raises(RunDirectoryError, match=r"schema version 2, this program knows up to 1; update"):
        load(finished_run)


def test_table_without_a_schema_version_is_refused(finished_run):
    path = finished_run / "events.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(RunDirectoryError, match=r"events\.parquet has no schema version"):
        load(finished_run)


def test_column_that_may_have_nulls_by_now_may_be_of_a_file_in_which_it_could_not(finished_run):
    path = finished_run / "rounds.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("task_index")
    pq.write_table(table.cast(table.schema.set(place, table.schema.field(place).with_nullable(False))), path)
    assert not pq.read_schema(path).field("task_index").nullable
    assert load(finished_run).rounds.equals(table)


def test_column_that_may_not_have_nulls_may_have_none_in_a_file_either(finished_run):
    path = finished_run / "rounds.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("round_index")
    pq.write_table(table.cast(table.schema.set(place, table.schema.field(place).with_nullable(True))), path)
    with pytest.raises(RunDirectoryError, match="does not have the columns of version 1 of the table 'rounds'"):
        load(finished_run)


def test_a_column_that_came_later_need_not_be_in_an_older_file(finished_run):
    path = finished_run / "rounds.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["parameters_sha256"]), path)
    rounds = load(finished_run).rounds
    assert rounds.column_names[-1] == "parameters_sha256"
    assert rounds["parameters_sha256"].to_pylist() == [None] * len(rounds)


def test_table_with_other_columns_is_refused(finished_run):
    (finished_run / "events.parquet").write_bytes((finished_run / "rounds.parquet").read_bytes())
    with pytest.raises(RunDirectoryError, match="does not have the columns of version 1 of the table 'events'"):
        load(finished_run)
