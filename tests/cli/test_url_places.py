"""The program with runs at URLs: what goes in, what is printed, and which commands refuse them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fedknow_ray.__main__ import main

pytestmark = pytest.mark.program

TINY = """\
seed: 3
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 2, samples_per_client: 12,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 1, client_fraction: 1.0, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}]
"""

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Program]:
    """Run the program in this process, in an empty folder; memory:// is empty as well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["fedknow-ray", *arguments])
        status = main()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, captured.out, captured.err)

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_a_run_is_made_reported_verified_and_taken_up_at_a_url(program: Program):
    done = program("run", "tiny.yaml", "--backend", "local", "--out", "memory://runs/one", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["url"] == "memory://runs/one"
    assert "memory://runs/one/report.html" in done.stderr
    report = "/runs/one/report.html"
    assert report in MemoryFileSystem.store
    del MemoryFileSystem.store[report]
    assert program("report", "memory://runs/one").stdout == "memory://runs/one/report.html\n"
    assert report in MemoryFileSystem.store
    verdict = program("verify", "memory://runs/one", "--backend", "local", "--json", "--quiet")
    assert json.loads(verdict.stdout)["same"] is True
    again = json.loads(program("resume", "memory://runs/one", "--backend", "local", "--json", "--quiet").stdout)
    assert again["parameters_sha256"] == made["parameters_sha256"]
    assert again["url"] == "memory://runs/one"
    assert again["run_dir"] != made["run_dir"]
    forked = program(
        *("resume", "memory://runs/one", "--fork-at-task", "1", "--set", "training.local_epochs=2"),
        *("--out", "memory://runs/two", "--backend", "local", "--json", "--quiet"),
    )
    assert json.loads(forked.stdout)["url"] == "memory://runs/two"
    assert "/runs/two/summary.json" in MemoryFileSystem.store


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tiny.yaml", "--out", "s4://b/run"], "s4://b/run: no file system 's4' is known; known: abfs"),
        (["run", "tiny.yaml", "--out", "smb://ann:secret@h/"], "smb://***@h/"),
        (["report", "memory://none"], "memory://none is not a run directory: it has no config.yaml"),
        (["verify", "memory://none"], "memory://none is not a run directory"),
        (["resume", "memory://none"], "memory://none is not a run directory"),
        (["resume", "memory://none", "--out", "memory://other"], "a run at a URL goes on there"),
        (
            ["stress", "tiny.yaml", "--out", "s3://ann:secret@b/x"],
            "s3://***@b/x is a URL, and this command takes a local folder",
        ),
        (["timeline", "s3://b/x"], "s3://b/x is a URL"),
        (["what-if", "runs/x", "--out", "s3://b/x"], "s3://b/x is a URL"),
    ],
)
def test_what_cannot_be_is_told_in_one_message(arguments: list[str], message: str, program: Program, tmp_path: Path):
    refused = program(*arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "secret" not in refused.stderr
    assert "Traceback" not in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
