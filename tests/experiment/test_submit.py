"""Following and fetching a job, against a cluster that is played: what comes to the disk, and which exit status."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.submit import Fetched, fetch
from fedknow_ray.results.log_lines import to_lines
from fedknow_ray.results.packing import pack
from fedknow_ray.runtime.jobs import JobClient, JobEnd, JobLog

SUCCEEDED = JobEnd("succeeded", 0, "")


class PlayedClient:
    """Shows a log in pieces and says how the job ended; *interrupted* at first, as by Ctrl-C."""

    def __init__(self, log: str, end: JobEnd, *, interrupted: bool = False) -> None:
        self.log, self.end, self.interrupted = log, end, interrupted
        self.stopped: list[str] = []

    def follow(self, log: JobLog, *, timeout_s: float | None = None) -> JobEnd:
        if self.interrupted:
            self.interrupted = False
            log.take(0, self.log[:5])
            raise KeyboardInterrupt
        before = 0
        for start in range(0, len(self.log), 1000):
            before = log.take(before, self.log[start : start + 1000])
        return self.end

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)


@pytest.fixture
def log(tmp_path: Path) -> str:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "manifest.json").write_text("{}")
    packed = io.BytesIO()
    pack(tmp_path / "there", packed)
    size_bytes = packed.tell()
    packed.seek(0)
    return "\n".join(["round 1", *to_lines(packed, size_bytes, "job"), "done", ""])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "out"


def fetched(client: PlayedClient, out: Path, show: Callable[[str], None] = lambda text: None) -> Fetched:
    return fetch(cast(JobClient, client), "job", out, show=show)


def test_the_run_comes_to_its_folder_and_the_log_is_shown_without_it(log: str, out: Path) -> None:
    shown: list[str] = []
    assert fetched(PlayedClient(log, SUCCEEDED), out, shown.append) == Fetched("job", 0, out)
    assert "".join(shown) == "round 1\ndone\n"
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("status", [1, 2, 3, 130, 137])
def test_a_run_that_fails_gives_its_exit_status_and_what_it_has_recorded(log: str, out: Path, status: int) -> None:
    assert fetched(PlayedClient(log, JobEnd("failed", status, "")), out) == Fetched("job", status, out)


def test_a_run_that_was_refused_leaves_nothing_behind(out: Path) -> None:
    assert fetched(PlayedClient("error: no\n", JobEnd("failed", 2, "")), out) == Fetched("job", 2, None)
    assert not out.parent.exists()


def test_ctrl_c_stops_the_job_and_fetches_what_it_has_recorded(log: str, out: Path) -> None:
    shown: list[str] = []
    client = PlayedClient(log, JobEnd("stopped", None, ""), interrupted=True)
    assert fetched(client, out, shown.append) == Fetched("job", 130, out)
    assert client.stopped == ["job"]
    assert "".join(shown) == "roundstopping the job job; Ctrl-C again to leave it\n 1\ndone\n"


@pytest.mark.parametrize(
    ("log_text", "end", "told"),
    [
        ("done\n", SUCCEEDED, "went well, and its log does not hold the run"),
        ("", JobEnd("failed", None, "the head has died"), "not run to an end of its own: the head has died"),
        ("fedknow-ray:job:begin 3\nfedknow-ray:job:end 1 x\n", SUCCEEDED, "did not come through"),
        ("\n".join([*to_lines(io.BytesIO(b"abc"), 3, "job"), ""]), SUCCEEDED, "no archive of it|cannot write"),
    ],
)
def test_where_no_run_comes_nothing_is_left(out: Path, log_text: str, end: JobEnd, told: str) -> None:
    with pytest.raises(UserError, match=told):
        fetched(PlayedClient(log_text, end), out)
    assert not out.parent.exists()


def test_a_folder_that_holds_something_is_left_alone(log: str, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "mine").write_text("")
    with pytest.raises(RunDirectoryError, match="is not empty"):
        fetched(PlayedClient(log, SUCCEEDED), out)
    assert [path.name for path in out.iterdir()] == ["mine"]
