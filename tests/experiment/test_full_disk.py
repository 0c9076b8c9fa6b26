"""A disk that is full in the middle of a run: one message, the old files stand, and with room the run goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small import run_small

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.resume import resume
from fedknow_ray.experiment.verify import compare_runs
from fedknow_ray.results.run import load

OVERRIDES: dict[str, Any] = {"training.rounds_per_task": 3, "scenario.samples_per_client": 10, "method.name": "fedknow"}


def mount(place: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(place)], check=True, capture_output=True, timeout=10)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system in memory of so many bytes."""
    place.mkdir()
    try:
        mount(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    except (OSError, subprocess.SubprocessError):
        pytest.skip("a file system of a set size needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=10)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of a set size needs root")
@pytest.mark.parametrize("size", ["6m", "9m"])
def test_a_run_on_a_full_disk_ends_with_a_message_and_goes_on_when_there_is_room(size: str, tmp_path: Path):
    whole = run_small(tmp_path, OVERRIDES, out="whole")
    with small_disk(tmp_path / "disk", size):
        with pytest.raises(RunDirectoryError, match=r"cannot write .*: No space left on device"):
            run_small(tmp_path, OVERRIDES, out="disk/run")
        left = load(tmp_path / "disk" / "run")
        assert left.summary is None
        recorded = len(left.rounds)
        assert left.rounds.equals(whole.rounds.slice(0, recorded))
        mount(tmp_path / "disk", "-o", "remount,size=200m")
        done = resume(tmp_path / "disk" / "run", place=Place("local"))
        assert compare_runs(whole, done).mismatch is None
