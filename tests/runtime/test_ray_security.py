"""Who can reach a Ray and whom it lets in, on real ones: heads with and without a token, and our own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from proc import family_of
from tiny import write_config

from fedknow_ray.errors import UserError
from fedknow_ray.experiment.run import execute
from fedknow_ray.runtime.ray_security import locked_address, probe

pytestmark = pytest.mark.ray

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}
OPEN = {"RAY_AUTH_MODE": "disabled"}
START_S = 60.0


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


def plain_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment without a word about Ray, and with another home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", **more}


@contextmanager
def head(home: Path, authentication: dict[str, str]) -> Iterator[str]:
    """A head node of its own that ends with the block."""
    # short, as the path of a socket must be
    folder, port = Path(tempfile.mkdtemp(prefix="fks-", dir="/tmp")), free_port()
    options = ["--head", "--block", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=1"]
    more = ["--include-dashboard=false", "--dashboard-agent-listen-port=0", "--object-store-memory=80000000"]
    with (folder / "told").open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *more],
            env=plain_environment(home, **authentication),
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_started(folder / "told")
        yield f"127.0.0.1:{port}"
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_started(told: Path) -> None:
    limit = time.monotonic() + START_S
    while "Ray runtime started" not in told.read_text():
        assert time.monotonic() < limit, told.read_text()
        time.sleep(0.2)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a head and all that it has started."""
    family = family_of(process.pid)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def open_head(home: Path) -> Iterator[str]:
    with head(home, OPEN) as address:
        yield address


@pytest.fixture(scope="module")
def locked_head(home: Path) -> Iterator[str]:
    with head(home, TOKEN) as address:
        yield address


def test_a_head_says_whether_it_asks_for_a_token(
    open_head: str, locked_head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever token we have: it is not shown."""
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    assert probe(open_head) == "open"
    assert probe(locked_head) == "locked"
    with pytest.raises(UserError, match=r"has no token authentication: whoever reaches it.*\n.*--insecure"):
        locked_address(open_head, insecure=False)
    assert locked_address(open_head, insecure=True) == open_head
    assert locked_address(locked_head, insecure=False).endswith(":" + locked_head.split(":")[1])
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(UserError, match=r"refuses this command.*\n.*RAY_AUTH_TOKEN"):
        locked_address(locked_head, insecure=False)


def test_where_nobody_answers_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedknow_ray.runtime.ray_security.PROBE_TIMEOUT_S", 3.0)
    nobody = f"127.0.0.1:{free_port()}"
    assert probe(nobody) == "unknown"
    with pytest.raises(UserError, match="does not say whether it asks for a token"):
        locked_address(nobody, insecure=False)


def test_addresses_that_cannot_be_asked_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"'ray://host:10001' asks for a token cannot be found out"):
        locked_address("ray://host:10001", insecure=False)
    with pytest.raises(UserError, match="'local' is no cluster; leave --address out"):
        locked_address("local", insecure=False)
    assert locked_address("ray://host:10001", insecure=True) == "ray://host:10001"


def run_at(
    address: str, folder: Path, home: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = ["run", str(write_config(folder)), "--quiet", "--address", address, "--out", str(folder / "run")]
    return subprocess.run(
        [sys.executable, "-m", "fedknow_ray", *command, *options],
        env=plain_environment(home, **environment),
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_run_refuses_an_open_cluster_unless_it_is_told_to_be_insecure(
    open_head: str, home: Path, tmp_path: Path
) -> None:
    """With --insecure it gets as far as the fleet, which that cluster cannot hold: status 3."""
    refused = run_at(open_head, tmp_path, home)
    assert refused.returncode == 2
    assert "has no token authentication" in refused.stderr
    assert "Traceback" not in refused.stderr
    told = run_at(open_head, tmp_path, home, "--insecure")
    assert told.returncode == 3, told.stderr
    # a token of ours changes nothing: the cluster does not look at it
    assert run_at(open_head, tmp_path, home, **TOKEN).returncode == 2
    assert not (tmp_path / "run").exists()


def test_a_run_joins_a_locked_cluster_with_its_token_and_not_without(
    locked_head: str, home: Path, tmp_path: Path
) -> None:
    assert run_at(locked_head, tmp_path, home, **TOKEN).returncode == 3
    for wrong in ({}, {**TOKEN, "RAY_AUTH_TOKEN": "cd" * 32}):
        refused = run_at(locked_head, tmp_path, home, **wrong)
        assert refused.returncode == 2
        assert "asks for a token that the environment does not have" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_insecure_goes_with_an_address(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--insecure goes with --address"):
        execute(write_config(tmp_path), insecure=True)


OURS = """
import json, os
from pathlib import Path
from proc import family_of, listening
from fedknow_ray.runtime.ray_session import own_ray
with own_ray(["jetson-nano"], 1):
    import ray
    from fedknow_ray.runtime.ray_security import probe
    @ray.remote(num_cpus=0)
    class Actor:
        def listening(self):
            return listening({os.getpid()})
    actor = Actor.remote()
    heard = ray.get(actor.listening.remote())
    assert heard
    heard |= listening(family_of(os.getpid()))
    gcs, token = ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"]
    files = [path for path in Path(os.environ["TMPDIR"]).rglob("*") if path.is_file()]
    assert len(files) > 10
    lines = [Path(f"/proc/{pid}/cmdline") for pid in family_of(os.getpid())]
    shown = [str(path) for path in files + lines if token.encode() in path.read_bytes()]
    told = {"listening": sorted(heard), "lock": probe(gcs), "token": token, "shown": shown}
told["left"] = "RAY_AUTH_TOKEN" in os.environ
print(json.dumps(told))
"""


def test_our_own_ray_is_locked_listens_on_loopback_alone_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    """Its token is in the environment of its processes, in no file and on no command line."""
    # short, as the path of a socket must be
    temporary = tempfile.mkdtemp(prefix="fks-", dir="/tmp")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", OURS],
        env=plain_environment(tmp_path, PYTHONPATH=paths, TMPDIR=temporary),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["lock"] == "locked"
    assert len(told["token"]) == 64
    assert told["shown"] == []
    assert list(Path(temporary).iterdir()) == []
    Path(temporary).rmdir()
    assert not told["left"]
    names = {name for name, _ in told["listening"]}
    assert {"gcs_server", "raylet"} <= names
    assert {ip for _, ip in told["listening"]} == {"127.0.0.1"}
    assert not any("dashboard" in name.lower() for name in names)
    assert list(tmp_path.iterdir()) == []
