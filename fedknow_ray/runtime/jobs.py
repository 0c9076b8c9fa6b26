"""Ray's job API: submit a command with a folder, follow its log, stop it. Over HTTP, and no wait without an end.

Who may submit jobs may run commands, so a cluster that takes jobs from whoever has no token is refused, as
`runtime.ray_security` refuses to join it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from fedknow_ray.errors import UserError
from fedknow_ray.runtime.timing import now_s

REQUEST_TIMEOUT_S = 60.0
#: A job waits for its folder to be unpacked and a process to start; on a cluster that scales up, for a head.
START_TIMEOUT_S = 600.0
#: A log may be silent for as long as a round takes: after so long it is asked whether the job is still there.
QUIET_S = 30.0
#: A dashboard that cannot be reached for so long is given up.
LOST_TIMEOUT_S = 120.0
RETRY_S = 2.0
_PACKAGING = "ray._private.runtime_env.packaging"


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended: its own exit status where it had one, and what Ray says about it."""

    status: Literal["succeeded", "failed", "stopped"]
    exit_status: int | None
    message: str


@dataclass(slots=True)
class JobLog:
    """The log of a job, shown as it comes; goes on where it was left, over a lost connection or another `follow`."""

    job_id: str
    show: Callable[[str], None]
    shown: int = 0

    def take(self, before: int, text: str) -> int:
        """Show what is new of a piece that comes after *before* characters; return how many there are by now."""
        after = before + len(text)
        if after > self.shown:
            new = text[max(0, self.shown - before) :]
            self.shown = after
            self.show(new)
        return after


class JobClient:
    """Speaks to the dashboard of one cluster."""

    def __init__(self, address: str, *, insecure: bool = False) -> None:
        """Find the cluster.

        Raises:
            UserError: if the address is none of a dashboard, nobody answers there, or it does not let us in; and if it
                lets in everybody and *insecure* is not set.
        """
        self._address = _checked(address)
        _need_job_api()
        with self._told():
            if not insecure:
                _refuse_open(self._address)
            self._client = _client(self._address)

    def submit(self, name: str, command: Callable[[str], str], folder: Path, environment: Mapping[str, str]) -> str:
        """Run a shell command in a copy of a folder, on the head; return the id of the job.

        *command* is told the id, which begins with *name*. The environment is that of its actors as well.
        """
        job_id = f"{name}-{secrets.token_hex(4)}"
        runtime_env = {"working_dir": str(folder), "env_vars": dict(environment)}
        with self._told():
            self._client.submit_job(entrypoint=command(job_id), submission_id=job_id, runtime_env=runtime_env)
        return job_id

    def stop(self, job_id: str) -> None:
        """Ask a job to end; returns at once."""
        with self._told():
            self._client.stop_job(job_id)

    def follow(self, log: JobLog, *, timeout_s: float | None = None) -> JobEnd:
        """Show the log of a job until the job has ended; None is as long as it takes.

        Raises:
            UserError: if there is no such job, it does not start, its dashboard cannot be reached any more, or it has
                not ended in time.
        """
        with self._told():
            return asyncio.run(_ended_in(self._follow(log), timeout_s, log.job_id))

    async def _follow(self, log: JobLog) -> JobEnd:
        begun_s = heard_s = now_s()
        while True:
            try:
                await self._tail(log)
                info = await asyncio.to_thread(self._client.get_job_info, log.job_id)
                heard_s = now_s()
            except Exception as error:
                # which exceptions a connection ends with is the affair of three libraries
                if not _may_pass(error) or now_s() - heard_s > LOST_TIMEOUT_S:
                    raise
            else:
                if info.status.is_terminal():
                    return JobEnd(info.status.value.lower(), info.driver_exit_code, info.message or "")
                if info.status.value == "PENDING" and now_s() - begun_s > START_TIMEOUT_S:
                    raise UserError(
                        f"the job {log.job_id} has not started in {START_TIMEOUT_S:.0f} s and still waits: "
                        f"{info.message or 'Ray does not say for what'}\n"
                        f"  stop it with ray job stop --address {self._address} {log.job_id}"
                    )
            await asyncio.sleep(RETRY_S)

    async def _tail(self, log: JobLog) -> None:
        """Show the log until it ends, the connection breaks, or a job that has ended says no more."""
        before, pieces, ended = 0, self._client.tail_job_logs(log.job_id), False
        waiting: asyncio.Task[str] = asyncio.ensure_future(anext(pieces))
        try:
            while True:
                done, _ = await asyncio.wait({waiting}, timeout=QUIET_S)
                if done:
                    try:
                        before = log.take(before, waiting.result())
                    except StopAsyncIteration:
                        return
                    waiting = asyncio.ensure_future(anext(pieces))
                elif ended:
                    return
                else:
                    info = await asyncio.to_thread(self._client.get_job_info, log.job_id)
                    ended = info.status.is_terminal()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await pieces.aclose()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what Ray and its libraries raise as a user's error."""
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise UserError(
                f"the cluster at {self._address} refuses this command: it asks for a token that the environment does "
                "not have\n  set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its nodes"
            ) from error
        except (requests.RequestException, OSError) as error:
            raise UserError(
                f"the dashboard at {self._address} cannot be reached ({type(error).__name__})\n"
                "  give the address of the cluster's dashboard, http://HOST:8265; where it listens on the head's own "
                "127.0.0.1, forward the port: ssh -L 8265:127.0.0.1:8265 HEAD"
            ) from error
        except aiohttp.WSServerHandshakeError as error:
            raise UserError(
                f"the dashboard at {self._address} gives no log of this job (HTTP {error.status}); "
                f"ray job list --address {self._address} tells which jobs there are"
            ) from error
        except (RuntimeError, ValueError, aiohttp.ClientError) as error:
            raise UserError(f"the cluster at {self._address} refuses the job: {error}") from error


def _checked(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(
            f"{address!r} is not the address of a dashboard: jobs are submitted to http://HOST:8265; the HOST:PORT of "
            "the cluster itself is for fedknow-ray run --address"
        )
    return address.rstrip("/")


def _refuse_open(address: str) -> None:
    """Ask for something without a token, and refuse a cluster that gives it."""
    import requests

    answer = requests.get(f"{address}/api/version", timeout=REQUEST_TIMEOUT_S)
    if answer.status_code == requests.codes.ok:
        raise UserError(
            f"the cluster at {address} has no token authentication: whoever reaches it can run commands on it\n"
            "  start it with RAY_AUTH_MODE=token and a RAY_AUTH_TOKEN in the environment of every node and of this "
            "command (SECURITY.md), or say --insecure if the network keeps others out"
        )


def _need_job_api() -> None:
    missing = [name for name in ("requests", "aiohttp", "pydantic") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"jobs take more of Ray than is installed here (no {', '.join(missing)}): pip install 'ray[default]'"
        )


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    # its modules set a level of their own each, and tell of every upload and every closed connection
    for module in (JobSubmissionClient.__module__, JobSubmissionClient.__base__.__module__, _PACKAGING):
        logging.getLogger(module).setLevel(logging.ERROR)

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Ray's own, whose requests would wait for ever."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": REQUEST_TIMEOUT_S, **options})

    return Client(address)


async def _ended_in(following: Coroutine[Any, Any, JobEnd], timeout_s: float | None, job_id: str) -> JobEnd:
    try:
        async with asyncio.timeout(timeout_s):
            return await following
    except TimeoutError as error:
        raise UserError(f"the job {job_id} has not ended within {timeout_s} s") from error


def _may_pass(error: Exception) -> bool:
    """Return whether a connection that ended so may be made again: not where the cluster has answered with a no."""
    import aiohttp
    import requests

    if isinstance(error, aiohttp.WSServerHandshakeError):
        return bool(error.status >= 500)
    lost = isinstance(error, RuntimeError) and "WebSocket" in str(error)
    return lost or isinstance(error, aiohttp.ClientError | requests.ConnectionError | requests.Timeout)
