"""Run directories for the tests of the results package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sample_rows import ALL

from fedknow_ray.results import ResultStore, RunDirectory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


@pytest.fixture
def finished_run(directory: RunDirectory) -> Path:
    directory.write_config("seed: 1\nmethod: {name: fedavg}\n")
    directory.write_manifest({"seed": 1})
    store = ResultStore(directory)
    store.append(ALL)
    store.flush()
    directory.write_summary({"average_accuracy": 0.875})
    return directory.path


@pytest.fixture
def break_replace(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A switch that makes every later os.replace fail, as a full disk would."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr("os.replace", refuse)
