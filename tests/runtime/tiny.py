"""A run that takes seconds: 4 clients on 2 kinds of device, 2 tasks of 2 digits, FedKNOW with all of its parts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

HOST_COLUMNS = ["host_wall_s", "host_cpu_s"]
TEXT = """\
seed: 3
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 4, samples_per_client: 24,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedknow}
training: {rounds_per_task: 2, client_fraction: 0.75, local_epochs: 2, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 2}]
"""


def write_config(folder: Path, text: str = TEXT) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def without_host(visits: pa.Table) -> pa.Table:
    return visits.drop_columns(HOST_COLUMNS)
