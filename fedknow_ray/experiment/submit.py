"""A run as a job of a cluster that only its dashboard can be reached of: submit, follow, fetch.

The job's exit status is ours: what the user of `fedknow-ray run` has done wrong is theirs here too.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedknow_ray.config.loading import resolve_run_name
from fedknow_ray.errors import UserError
from fedknow_ray.experiment.job_folder import fill_job_folder
from fedknow_ray.experiment.run import Overrides, read_config
from fedknow_ray.results.log_lines import LineReader
from fedknow_ray.results.packing import unpack
from fedknow_ray.results.store import RunDirectory
from fedknow_ray.runtime.jobs import JobClient, JobEnd, JobLog

#: How long a job that is told to stop may close its tables and pack them, before Ray kills it.
STOP_S = 60
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a job: its exit status, and its run directory if it got as far as one."""

    job_id: str
    exit_status: int
    path: Path | None


def submit(
    client: JobClient, path: str | Path, overrides: Overrides, *, insecure: bool, warn: Callable[[str], None]
) -> str:
    """Submit a config as a job and return the job's id.

    Raises:
        UserError: if the config is wrong, a file that it names is not there, or the cluster does not take the job.
    """
    config = read_config(path, overrides)
    with tempfile.TemporaryDirectory(prefix="fkr-submit-") as folder:
        filled = fill_job_folder(Path(folder), resolve_run_name(path), config)
        for key, place in filled.expected.items():
            warn(f"{key} is {place}: a path from the root does not travel, the head of the cluster must have it")
        options = ["--insecure"] if insecure else []

        def command(job_id: str) -> str:
            return shlex.join(["python", "-m", "fedknow_ray.experiment.job", job_id, filled.config, *options])

        return client.submit("fedknow-ray", command, Path(folder), {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)})


def fetch(client: JobClient, job_id: str, out: Path, *, show: Callable[[str], None]) -> Fetched:
    """Follow a job to its end and write its run directory to *out*, new or empty; *show* is given its log.

    Ctrl-C stops the job: it closes its tables, what it has recorded is fetched, and the exit status is 130. A second
    one leaves at once.

    Raises:
        UserError: if *out* is not empty, the job or its cluster is lost, or the run does not come through whole.
    """
    directory = RunDirectory.create(out)
    try:
        fetched = _fetch(client, job_id, out.resolve(), show)
    except BaseException:
        directory.abandon()
        raise
    if fetched.path is None:
        directory.abandon()
    return fetched


def _fetch(client: JobClient, job_id: str, out: Path, show: Callable[[str], None]) -> Fetched:
    # not in memory, and on the disk that it is for
    with tempfile.TemporaryFile(dir=out.parent) as packed:
        reader = LineReader(job_id, packed)
        end = _follow(client, JobLog(job_id, lambda text: show(reader.feed(text))), show)
        show(reader.close())
        status = _exit_status(job_id, end)
        if reader.complete:
            packed.seek(0)
            _unpack_whole(packed, out)
        elif status == 0:
            raise UserError(f"the job {job_id} went well, and its log does not hold the run; fetch it again")
        return Fetched(job_id, status, out if reader.complete else None)


def _unpack_whole(packed: IO[bytes], out: Path) -> None:
    """Unpack beside the folder and put it in its place, so that it holds all of the run or nothing."""
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        unpack(packed, beside)
        beside.chmod(out.stat().st_mode)
        beside.replace(out)
    except OSError as error:
        raise UserError(f"cannot write the run to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _follow(client: JobClient, log: JobLog, show: Callable[[str], None]) -> JobEnd:
    try:
        return client.follow(log)
    except KeyboardInterrupt:
        show(f"stopping the job {log.job_id}; Ctrl-C again to leave it\n")
        client.stop(log.job_id)
        return client.follow(log, timeout_s=2 * STOP_S)


def _exit_status(job_id: str, end: JobEnd) -> int:
    if end.status == "succeeded":
        return 0
    if end.status == "stopped":
        return INTERRUPTED
    if end.exit_status is None:
        raise UserError(f"the job {job_id} has not run to an end of its own: {end.message or 'Ray does not say why'}")
    return end.exit_status
