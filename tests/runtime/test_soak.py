"""Runs made one after the other in one process leave nothing behind; `benchmarks/soak.py` makes more of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"
NOTHING = {"processes": 0, "threads": 0, "files": 0, "folders": [], "variables": []}


def soak(*arguments: str, timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, str(SOAK), *arguments, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.program
def test_five_runs_in_one_process_leave_nothing_behind(tmp_path: Path) -> None:
    found = soak("runs", "--runs", "5", "--backend", "local", "--out", str(tmp_path), timeout_s=300.0)
    assert (found["runs"], found["digests"], found["left_behind"]) == (5, 1, NOTHING)


@pytest.mark.ray
@pytest.mark.slow
def test_two_runs_on_ray_leave_nothing_behind(tmp_path: Path) -> None:
    found = soak("runs", "--runs", "2", "--out", str(tmp_path), timeout_s=300.0)
    # Ray 2.60 itself keeps a log and a socket open now and then, with nothing of ours in the process
    files = found["left_behind"].pop("files")
    assert files <= 3
    assert (found["runs"], found["digests"]) == (2, 1)
    assert found["left_behind"] == {name: value for name, value in NOTHING.items() if name != "files"}


@pytest.mark.ray
@pytest.mark.slow
def test_objects_files_and_threads_stay_as_many_through_the_rounds(tmp_path: Path) -> None:
    """100 rounds of 10 clients: from the second look at a task on, nothing is added to what is held."""
    arguments = ("--rounds", "100", "--clients", "10", "--packed", "5", "--every", "5")
    slopes = soak("rounds", *arguments, "--out", str(tmp_path), timeout_s=1800.0)["slope_for_100_rounds"]
    held = [name for name in slopes if name.endswith((" files", " threads")) or name == "objects"]
    assert len(held) > 10
    # one more or less at a single look, as when a socket is opened or a thread ends, is no growth
    assert {name: slopes[name] for name in held if any(abs(each) > 5.0 for each in slopes[name].values())} == {}
