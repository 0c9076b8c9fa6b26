"""`benchmarks/soak_figures.py` reads what processes hold, and says whether it grows."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    # a dataclass looks for its module by name
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return import_module("soak_figures")


@pytest.mark.parametrize(
    ("title", "short"),
    [
        ("ray::ClientActor.visit", "ray::ClientActor"),
        ("ray::IDLE", "ray::IDLE"),
        ("/venv/bin/python -u /lib/ray/_private/log_monitor.py --session-dir=/tmp/a.py", "log_monitor.py"),
        ("/lib/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/x", "raylet"),
        ("", "?"),
    ],
)
def test_a_process_is_named_by_what_it_is(figures: ModuleType, title: str, short: str) -> None:
    assert figures.short(title) == short


def test_a_slope_is_the_growth_for_one_step(figures: ModuleType) -> None:
    """0, 1, 2, 6 at 0, 1, 2, 3: least squares by hand, (1.5 x 2.25 + 0.5 x 1.25 - 0.5 x 0.25 + 1.5 x 3.75) / 5."""
    assert figures.slope([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 6.0]) == pytest.approx(1.9)
    assert figures.slope([25.0, 50.0], [7.0, 7.0]) == 0.0
    assert figures.slope([25.0], [7.0]) == 0.0


def test_this_process_holds_memory_files_and_threads(figures: ModuleType) -> None:
    held = figures.held_by(os.getpid())
    assert held.rss_bytes >= held.pss_bytes > 2**20
    assert held.files >= 3
    assert held.threads >= 1


def test_a_process_that_has_ended_holds_nothing(figures: ModuleType) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert figures.held_by(ended.pid) is None


def test_a_family_has_the_processes_below(figures: ModuleType) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(figures.family())
        child.communicate(b"\n")
    assert child.pid not in figures.family()


def test_what_is_left_behind_is_told(figures: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of a Ray, a variable and an open file that were not there before, and nothing else."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    earlier = figures.Surroundings.now()
    monkeypatch.setenv("LEFT", "behind")
    (tmp_path / "fkr-left").mkdir()
    with (tmp_path / "left").open("w"):
        more = figures.Surroundings.now().more_than(earlier)
    del more["rss_bytes"]
    assert more == {"processes": 0, "threads": 0, "files": 1, "folders": ["fkr-left"], "variables": ["LEFT"]}


def test_a_folder_has_files_and_bytes(figures: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"123")
    assert figures.folder_figures(tmp_path) == (2, 8)
