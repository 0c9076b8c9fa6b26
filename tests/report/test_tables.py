"""The report's HTML tables: escaped, with headings, honest about what they leave out."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from fedknow_ray.report.device_accuracy import DeviceAccuracy
from fedknow_ray.report.numbers import IntegrationUse, device_use
from fedknow_ray.report.tables import (
    accuracy_table,
    device_accuracy_table,
    device_table,
    events_table,
    format_energy,
    html_table,
    integration_table,
)
from fedknow_ray.results import TABLES


def test_text_from_the_run_is_escaped():
    table = html_table("a & b", ["<x>"], [["<script>", "'"]])
    assert "<script>" not in table
    assert "a &amp; b" in table
    assert "&lt;x&gt;" in table


def test_first_column_holds_the_headings_of_the_rows():
    assert "<th scope='row'>after task 1</th><td>50.0%</td>" in accuracy_table(np.array([[0.5]]), "own")


def test_accuracy_of_a_task_that_is_not_learnt_is_left_empty():
    assert "<td>50.0%</td><td></td>" in accuracy_table(np.array([[0.5, np.nan], [0.25, 1.0]]), "own")


def test_task_without_checked_steps_has_no_shares():
    table = integration_table([IntegrationUse(0, 0, 0, None, 0.25, None)])
    assert re.findall(r"<td>(.*?)</td>", table) == ["0", "-", "-", "0.250", "-"]


def test_energy_that_no_profile_gives_is_called_unknown(fake_run):
    rows = device_table(device_use(fake_run)).split("<tr>")
    assert ["not known" in row for row in rows[2:]] == [False, False, False, True]


def test_accuracy_of_devices_has_a_pair_of_columns_for_each_model_that_is_scored():
    slow = DeviceAccuracy("slow", 2, np.array([0.5, 0.75]), np.array([np.nan, -0.125]))
    fast = DeviceAccuracy("fast", 1, np.array([1.0]), np.array([np.nan]))
    table = device_accuracy_table({"own": [slow, fast], "global": [fast]})
    assert re.findall(r"<th scope='col'>(.*?)</th>", table)[2:] == [
        *("accuracy, own model", "forgetting, own model"),
        *("accuracy, global model", "forgetting, global model"),
    ]
    assert re.findall(r"<td>(.*?)</td>", table) == [
        *("2", "75.0%", "\N{MINUS SIGN}12.5 points", "", ""),
        *("1", "100.0%", "", "100.0%", ""),
    ]


def test_long_list_of_events_is_cut_and_says_so():
    count = 201
    columns = {"time_s": [0.5] * count, "kind": ["drop"] * count, "client_id": [None] * count, "detail": [""] * count}
    table = events_table(pa.table(columns, schema=TABLES["events"]))
    assert "The first 200 of 201 events" in table
    assert table.count("<tr>") == 201


@pytest.mark.parametrize(
    ("joules", "text"),
    [(0.25, "0.25 J"), (999, "999 J"), (999.6, "1.00 kJ"), (99_960, "100 kJ"), (123_456, "123 kJ"), (2.5e6, "2.50 MJ")],
)
def test_energy_is_written_with_three_digits_or_so(joules, text):
    assert format_energy(joules) == text
