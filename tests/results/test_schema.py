"""The tables' contract: columns, nulls, and the documentation of each."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from fedknow_ray.results.schema import ROW_TYPES, SCHEMA_VERSION, TABLE_KEY, TABLES, VERSION_KEY

DOCUMENT = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
CONTRACT = {
    "visits": "client_id, device, task_index, round_index, kind, status, download_s, compute_s, upload_s, wait_s, "
    "download_bytes, upload_bytes, flops, moved_bytes, peak_memory_bytes, energy_j, loss, integrated_steps, "
    "violated_steps, host_wall_s, host_cpu_s, start_s, work, model_version, merge_index",
    "rounds": "task_index, round_index, start_s, end_s, clients, upload_bytes, download_bytes, parameters_sha256",
    "accuracy": "client_id, model, trained_task_index, task_index, correct, total",
    "events": "time_s, kind, client_id, detail",
    "placement": "client_id, device, actor_id, node_id, pid, resources",
}


@pytest.mark.parametrize("table", CONTRACT)
def test_table_has_the_columns_of_the_contract_in_order(table):
    assert TABLES[table].names == CONTRACT[table].split(", ")


def test_there_is_no_other_table():
    assert set(TABLES) == set(CONTRACT)


@pytest.mark.parametrize(("row_type", "table"), ROW_TYPES.items())
def test_row_type_has_the_columns_of_its_table_in_order(row_type, table):
    assert [field.name for field in dataclasses.fields(row_type)] == TABLES[table].names


@pytest.mark.parametrize(("row_type", "table"), ROW_TYPES.items())
def test_a_column_is_nullable_where_the_row_may_hold_none(row_type, table):
    hints = get_type_hints(row_type)
    optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
    assert {field.name for field in TABLES[table] if field.nullable} == optional


@pytest.mark.parametrize("table", TABLES)
def test_schema_names_its_table_and_version(table):
    assert TABLES[table].metadata == {TABLE_KEY: table.encode(), VERSION_KEY: str(SCHEMA_VERSION).encode()}


def documented_columns(table: str) -> list[str]:
    section = re.search(rf"^## `{table}`.*?(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `(\w+)` \|", section.group(), re.MULTILINE) if section else []


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_documented_in_order(table):
    assert documented_columns(table) == TABLES[table].names


@pytest.mark.parametrize("table", TABLES)
def test_the_document_gives_each_column_its_type(table):
    for field in TABLES[table]:
        written = {"clients": "list<int32>", "work": "list<struct>"}.get(field.name, str(field.type))
        row = re.search(rf"^\| `{field.name}` \| {re.escape(written)}(, null)? \|", DOCUMENT, re.MULTILINE)
        assert row, f"{table}.{field.name} is not documented as {written}"
