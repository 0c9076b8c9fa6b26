"""The smallest whole run: 3 clients on 2 kinds of device, 2 tasks of 2 digits, one round of one epoch a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.watching import Watcher
from fedknow_ray.federation.standing import Progress
from fedknow_ray.results.run import Run

HOST_COLUMNS = ["host_wall_s", "host_cpu_s"]
TEXT = """\
seed: 1
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 3, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 1, client_fraction: 0.7, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 1}]
"""


def write_config(folder: Path, text: str = TEXT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def run_small(
    folder: Path, overrides: Mapping[str, Any] | None = None, watcher: Watcher | None = None, out: str = "run"
) -> Run:
    """Run the small config in this process; the run directory is *out* in the folder."""
    return execute(write_config(folder), overrides or {}, backend="local", out=folder / out, watcher=watcher)


def with_memory(folder: Path, memory_bytes: int | None, watts: str = "") -> dict[str, Any]:
    """A nano with so much memory, in place of the one that ships."""
    figure = "null" if memory_bytes is None else f"{{value: {memory_bytes}, basis: measured, source: a test}}"
    folder.mkdir(exist_ok=True)
    (folder / "tight.yaml").write_text(f"name: tight\ninherits: jetson-nano\nmemory_bytes: {figure}\n{watts}")
    return {"devices_path": folder / "tight.yaml", "fleet.0.device": "tight"}


def tables(run: Run) -> dict[str, pa.Table]:
    """All tables that a seed decides; host columns and the process of `placement` are not."""
    return {
        "visits": run.visits.drop_columns(HOST_COLUMNS),
        "rounds": run.rounds,
        "accuracy": run.accuracy,
        "events": run.events,
    }


def without_models(table: pa.Table) -> pa.Table:
    """A table without the digests of models, which a replay has none of."""
    return table.drop_columns([name for name in table.column_names if name == "parameters_sha256"])


class Recorder:
    """A watcher that remembers; it raises *error* after so many calls of `advance`."""

    def __init__(self, error: BaseException | None = None, after: int = 1) -> None:
        self.stages: list[str] = []
        self.progress: list[Progress] = []
        self._error, self._after = error, after

    def warn(self, text: str) -> None:
        raise AssertionError(f"a small run warns: {text}")

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def advance(self, progress: Progress) -> None:
        self.progress.append(progress)
        if self._error is not None and len(self.progress) == self._after:
            raise self._error
