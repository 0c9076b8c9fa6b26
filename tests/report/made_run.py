"""Runs of a few rows with round numbers, for tests of what the report works out of them by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedknow_ray.results import PlacementRow, ResultStore, RoundRow, Run, RunDirectory, VisitRow, load
from fedknow_ray.results.schema import Row
from fedknow_ray.simulation.device import FIGURES, NETWORK_KINDS

CONFIG: dict[str, Any] = {
    "seed": 7,
    "model": {"name": "cnn6"},
    "policy": {"name": "synchronous"},
    "fleet": [{"device": "slow", "count": 2}, {"device": "fast", "count": 1}],
}
DEVICES = {0: "slow", 1: "slow", 2: "fast"}


def visit(client_id: int, start_s: float, seconds: Sequence[float], **more: Any) -> VisitRow:
    """Return a visit that begins at *start_s*; *seconds* are those of download, compute, upload and waiting."""
    download_s, compute_s, upload_s, wait_s = seconds
    values: dict[str, Any] = {
        "task_index": 0,
        "round_index": 0,
        "kind": "train",
        "status": "ok",
        "download_bytes": 100,
        "upload_bytes": 200,
        "flops": 0,
        "moved_bytes": 0,
        "peak_memory_bytes": None,
        "energy_j": None,
        "loss": None,
        "integrated_steps": None,
        "violated_steps": None,
        "host_wall_s": 0.5,
        "host_cpu_s": 0.25,
        "work": [step("train", 1, 3)],
        "model_version": 0,
        "merge_index": 0,
    }
    return VisitRow(
        client_id=client_id,
        device=DEVICES[client_id],
        start_s=start_s,
        download_s=download_s,
        compute_s=compute_s,
        upload_s=upload_s,
        wait_s=wait_s,
        **(values | more),
    )


def step(phase: str, count: int, megabytes: int) -> dict[str, str | int]:
    """Return steps of one phase, each of which moves so many MB: that many seconds on the device "slow"."""
    return {"phase": phase, "count": count, "flops": 0, "moved_bytes": megabytes * 10**6, "stored_bytes": 0}


def a_round(index: int, start_s: float, end_s: float, clients: Sequence[int] = (0, 1, 2), task: int = 0) -> RoundRow:
    """Return a round that moved no byte."""
    return RoundRow(task, index, start_s, end_s, list(clients), 0, 0)


def made_run(path: Path, rows: Sequence[Row], config: Mapping[str, Any] | None = None) -> Run:
    """Write a run of the rows, with the config above and some changes to it; clients 0 and 1 share a process."""
    directory = RunDirectory.create(path)
    directory.write_config(json.dumps(CONFIG | dict(config or {})))
    directory.write_manifest({"devices": {"slow": _profile(1e6), "fast": _profile(3e6)}})
    store = ResultStore(directory)
    store.append(PlacementRow(c, device, None, None, 100 + c // 2, "{}") for c, device in DEVICES.items())
    store.append(rows)
    store.flush()
    return load(path)


def _profile(memory_bandwidth_bytes_per_s: float) -> dict[str, Any]:
    def figure(value: float) -> dict[str, Any]:
        return {"value": value, "basis": "measured", "source": "a test", "formula": None}

    known = {"memory_bandwidth_bytes_per_s": memory_bandwidth_bytes_per_s, "memory_bytes": 10**9}
    figures = {key: figure(known.get(key, 1.0)) for key in FIGURES if key != "step_overhead_s"}
    utilisation = {f"utilisation.{kind}": figure(1.0) for kind in NETWORK_KINDS}
    return {"title": "a board", "accelerator": "cpu", "figures": figures | utilisation}
