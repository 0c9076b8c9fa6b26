"""What the report says of stragglers."""

from __future__ import annotations

import re

from made_run import a_round, made_run, visit

from fedknow_ray.report import blame_section as section_module
from fedknow_ray.report.blame_section import blame_section

#: Client 1 sets the first round, of 10 s, and client 2 the second, of 5 s after 5 s without anybody.
ROUNDS = [
    visit(1, 0.0, (2, 7, 1, 0)),
    visit(2, 0.0, (2, 3, 1, 4)),
    visit(2, 15.0, (1, 3, 1, 0), round_index=1),
    a_round(0, 0.0, 10.0, [1, 2]),
    a_round(1, 10.0, 20.0, [2]),
]
#: The visit of client 0 misses the merges of clients 1 and 2 while it computes.
MERGES = [
    visit(1, 0.0, (1, 1, 1, 0)),
    visit(2, 0.0, (1, 4, 1, 0), merge_index=1),
    visit(0, 0.0, (1, 8, 1, 0), merge_index=2),
    *(a_round(index, start_s, end_s) for index, (start_s, end_s) in enumerate(((0, 3), (3, 6), (6, 10)))),
]


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of each row of a table's body."""
    body = table.split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]


def test_kinds_clients_and_rounds_have_their_tables(tmp_path):
    section = blame_section(made_run(tmp_path, ROUNDS))
    kinds, clients, rounds = section.below.split("<table>")[1:]
    assert section.title == "Who holds up the rounds"
    assert rows_of(kinds) == [
        ["slow", "33.3%", "10.0%", "35.0%", "5.0%", "0.0%", "50.0%"],
        ["fast", "66.7%", "5.0%", "15.0%", "5.0%", "0.0%", "25.0%"],
        ["nobody was on", "", "0.0%", "0.0%", "0.0%", "25.0%", "25.0%"],
        ["all", "", "15.0%", "50.0%", "10.0%", "25.0%", "100.0%"],
    ]
    assert [row[0] for row in rows_of(clients)] == ["client 1 (slow)", "client 2 (fast)", "nobody was on"]
    assert rows_of(rounds) == [
        ["task 1, round 1", "client 1", "10.0 s", "20.0%", "70.0%", "10.0%", "0.0%"],
        ["task 1, round 2", "client 2", "10.0 s", "10.0%", "30.0%", "10.0%", "50.0%"],
    ]


def test_bars_are_parts_of_all_rounds_and_seconds_of_each(tmp_path):
    per_client, per_round = blame_section(made_run(tmp_path, ROUNDS)).plots
    assert per_client.figure is not None
    assert per_round.figure is not None
    shares = {trace["name"]: trace["x"] for trace in per_client.figure["data"]}
    assert shares == {
        "download": [0.1, 0.05, 0.0],
        "compute": [0.35, 0.15, 0.0],
        "upload": [0.05, 0.05, 0.0],
        "nobody on": [0.0, 0.0, 0.25],
    }
    seconds = {trace["name"]: trace["y"] for trace in per_round.figure["data"]}
    assert seconds == {"download": [2, 1], "compute": [7, 3], "upload": [1, 1], "nobody on": [0, 5]}
    assert per_round.figure["data"][0]["text"] == ["task 1, round 1: client 1", "task 1, round 2: client 2"]


def test_a_kind_of_device_that_holds_nobody_up_has_its_row(tmp_path):
    kinds = blame_section(made_run(tmp_path, [*ROUNDS[:2], ROUNDS[3]])).below.split("<table>")[1]
    assert rows_of(kinds)[1] == ["fast", "50.0%", "0.0%", "0.0%", "0.0%", "0.0%"]


def test_without_rounds_it_is_about_staleness(tmp_path):
    """Client 0 missed two merges and client 2 one."""
    section = blame_section(made_run(tmp_path, MERGES, {"policy": {"name": "fedasync"}}))
    assert section.title == "Who holds the staleness of the merges"
    assert [plot.name for plot in section.plots] == ["blame-per-client", "blame-per-merge"]
    assert rows_of(section.below.split("<table>")[2]) == [
        ["client 0 (slow)", "0.0%", "66.7%", "0.0%", "66.7%"],
        ["client 2 (fast)", "0.0%", "33.3%", "0.0%", "33.3%"],
    ]
    assert rows_of(section.below.split("<table>")[3])[0] == ["task 1, merge 1", "", "0", "", "", ""]


def test_updates_that_are_not_stale_have_no_plot(tmp_path):
    section = blame_section(made_run(tmp_path, MERGES[:1], {"policy": {"name": "fedbuff"}}))
    assert [plot.figure for plot in section.plots] == [None, None]
    assert section.plots[0].missing == "No update was stale: none missed a merge."
    assert section.below == ""


def test_clients_beyond_the_worst_are_added_up(tmp_path, monkeypatch):
    monkeypatch.setattr(section_module, "MOST_CLIENTS", 2)
    rows = [
        *(visit(c, 10.0 * c, (1, 8 - c, 1, 0), round_index=c) for c in range(3)),
        *(a_round(c, 10.0 * c, 10.0 * c + 10 - c, [c]) for c in range(3)),
    ]
    clients = blame_section(made_run(tmp_path, rows)).below.split("<table>")[2]
    assert [(row[0], row[-1]) for row in rows_of(clients)] == [
        ("client 0 (slow)", "37.0%"),
        ("2 other clients", "63.0%"),
    ]


def test_very_many_rounds_have_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr(section_module, "MOST_PARTS", 1)
    assert blame_section(made_run(tmp_path, ROUNDS)).below.count("<table>") == 2
