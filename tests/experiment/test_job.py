"""A job hands its run back through its log, whatever became of it."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedknow_ray.experiment import job
from fedknow_ray.results.log_lines import LineReader
from fedknow_ray.results.packing import unpack


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "events.parquet").write_text("rows")
    # random bytes do not pack, so that the limit below lies between
    (run / "checkpoints" / "blob").write_bytes(bytes(range(256)) * 2 + bytes(range(255, -1, -1)))
    return run


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def handed_back(log: str, folder: Path) -> dict[str, str]:
    sink = io.BytesIO()
    reader = LineReader("m", sink)
    reader.feed(log)
    assert reader.complete
    sink.seek(0)
    folder.mkdir()
    unpack(sink, folder)
    return {path.name: path.read_bytes().decode("latin-1")[:4] for path in folder.rglob("*") if path.is_file()}


def test_all_of_a_run_is_handed_back(run: Path, tmp_path: Path) -> None:
    log = io.StringIO()
    job.hand_back(run, "m", log)
    assert handed_back(log.getvalue(), tmp_path / "back") == {"events.parquet": "rows", "blob": "\0\1\2\3"}


def test_a_run_that_is_too_large_comes_without_its_checkpoints(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = io.StringIO()
    job.hand_back(run, "m", log, most_bytes=300)
    assert handed_back(log.getvalue(), tmp_path / "back") == {"events.parquet": "rows"}
    assert "comes without them" in capsys.readouterr().err


def test_one_that_is_too_large_all_the_same_is_not_handed_back(run: Path) -> None:
    log = io.StringIO()
    with pytest.raises(OSError, match="of 10 B"):
        job.hand_back(run, "m", log, most_bytes=10)
    assert log.getvalue() == ""


def test_a_run_without_a_directory_hands_nothing_back(tmp_path: Path) -> None:
    log = io.StringIO()
    job.hand_back(tmp_path / "none", "m", log)
    assert log.getvalue() == ""


@pytest.mark.parametrize(("returned", "status"), [(0, 0), (2, 2), (3, 3), (-signal.SIGKILL, 137)])
def test_its_exit_status_is_that_of_the_run_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sigterm: None,
    returned: int, status: int,
) -> None:  # fmt: skip
    commands = []

    def make_run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        out = Path(command[command.index("--out") + 1])
        out.mkdir()
        (out / "events.parquet").write_text("rows")
        return subprocess.CompletedProcess(command, returned)

    monkeypatch.setattr(job.subprocess, "run", make_run)
    monkeypatch.setattr(job.tempfile, "tempdir", str(tmp_path))
    assert job.main(["m", "small.yaml", "--insecure"]) == status
    assert commands[0][:7] == [sys.executable, "-m", "fedknow_ray", "run", "small.yaml", "--address", "auto"]
    assert commands[0][-1] == "--insecure"
    assert handed_back(capsys.readouterr().out, tmp_path / "back") == {"events.parquet": "rows"}
    assert [path.name for path in tmp_path.iterdir()] == ["back"]
