"""When tasks come to each client: a beat and trace files, good and broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedknow_ray.errors import ConfigError
from fedknow_ray.scenario.arrivals import Arrivals, arrivals_every, parse_arrivals, read_arrivals

HEAD = "client_id,time_s,task\n"


def faults(text: str, clients: int = 2, tasks: int = 3) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_arrivals(text, clients, tasks, where="a.csv")
    return [str(fault) for fault in caught.value.faults]


def test_a_beat_begins_at_once():
    assert arrivals_every(20.0, [(0, 1, 0), (2, 1, 0)]) == Arrivals(
        ((0, 1, 0), (2, 1, 0)), ((0.0, 20.0, 40.0), (0.0, 20.0, 40.0))
    )


def test_each_client_has_its_rows_in_order():
    text = "# made by hand\n" + HEAD + "1,5,2\n0,0,1\n\n0,0,0\n1, 7.5, 2\n"
    assert parse_arrivals(text, 2, 3, where="a.csv") == Arrivals(((1, 0), (2, 2)), ((0.0, 0.0), (5.0, 7.5)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["a.csv:1: the first line must be client_id,time_s,task"]),
        ("0,0,0\n", ["a.csv:1: the first line must be client_id,time_s,task, got '0,0,0'"]),
        (HEAD, ["a.csv: has no row for 2 of the 2 clients: 0, 1"]),
        (HEAD + "0,0,0\n", ["a.csv: has no row for 1 of the 2 clients: 1"]),
        (
            HEAD + "0,0,0\n0,1\n1,x,0\n",
            [
                "a.csv:3: must be client_id,time_s,task, the first and the last whole numbers, got '0,1'",
                "a.csv:4: must be client_id,time_s,task, the first and the last whole numbers, got '1,x,0'",
            ],
        ),
        (
            HEAD + "0,9,0\n0,8,1\n1,0,0\n1,1,0\n",
            ["a.csv:3: client 0: 8 s comes before 9 s, the row above it; sort a client's rows by their times"],
        ),
        (
            HEAD + "0,-1,0\n1,inf,3\n2,0,0\n",
            [
                "a.csv:2: the time -1 s must be a finite number of at least 0",
                "a.csv:3: there is no task 3: they are 0 to 2 (scenario.tasks is 3)",
                "a.csv:3: the time inf s must be a finite number of at least 0",
                "a.csv:4: there is no client 2: they are 0 to 1",
            ],
        ),
        (
            HEAD + "0,0,0\n1,0,0\n1,1,1\n",
            ["a.csv: client 0 has 1 rows and client 1 has 2; give every client the same number of tasks"],
        ),
    ],
)
def test_a_broken_trace_is_told_line_by_line(text: str, told: list[str]):
    assert faults(text) == told


def test_of_a_file_that_is_broken_throughout_some_faults_are_told():
    told = faults(HEAD + "0,0,9\n" * 30)
    assert len(told) == 21
    assert told[-1] == "a.csv: and 11 faults more"


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)"):
        read_arrivals(tmp_path / "none.csv", 1, 1)


def test_a_file_is_read(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "0,1.5,0\n")
    assert read_arrivals(path, 1, 1) == Arrivals(((0,),), ((1.5,),))
