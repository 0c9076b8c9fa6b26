"""The job API without a cluster: addresses, logs that go on, and dashboards that let in everybody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fedknow_ray.errors import UserError
from fedknow_ray.runtime import jobs
from fedknow_ray.runtime.jobs import JobClient, JobLog


@contextmanager
def dashboard(status: int) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://host:10001", "auto", "http://", "host"])
def test_only_the_address_of_a_dashboard_will_do(address: str) -> None:
    with pytest.raises(UserError, match="is not the address of a dashboard: jobs are submitted to http://HOST:8265"):
        JobClient(address)


def test_a_cluster_that_takes_jobs_of_everybody_is_refused() -> None:
    with dashboard(200) as address, pytest.raises(UserError, match="no token authentication"):
        jobs._refuse_open(address)


@pytest.mark.parametrize("status", [401, 403])
def test_one_that_asks_for_a_token_is_not(status: int) -> None:
    with dashboard(status) as address:
        jobs._refuse_open(address)


def test_what_is_missing_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no requests, aiohttp, pydantic\): pip install 'ray\[default\]'"):
        JobClient("http://127.0.0.1:8265")


def test_a_dashboard_that_is_not_there_is_told_with_what_to_do() -> None:
    pytest.importorskip("aiohttp")
    with pytest.raises(UserError, match=r"http://127.0.0.1:1 cannot be reached .*\n.*ssh -L 8265"):
        JobClient("http://127.0.0.1:1")


def test_a_log_that_comes_again_goes_on_where_it_was() -> None:
    shown: list[str] = []
    log = JobLog("job", shown.append)
    assert log.take(log.take(0, "abc"), "de") == 5
    # the connection is made again, and the log comes from its beginning in other pieces
    assert log.take(log.take(log.take(0, "ab"), "cdef"), "g") == 7
    assert shown == ["abc", "de", "f", "g"]
