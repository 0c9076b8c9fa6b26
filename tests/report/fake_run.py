"""A made-up run that looks like a real one, written with the real store: for the report's tests, and for looking at.

`python tests/report/fake_run.py FOLDER` writes one with its report.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedknow_ray.results import AccuracyRow, EventRow, PlacementRow, ResultStore, RoundRow, RunDirectory, VisitRow

# device -> (clients, seconds of computing for a visit, watts)
FLEET = {
    "jetson-nano": (4, 310.0, 10.0),
    "jetson-tx2": (1, 120.0, 15.0),
    "jetson-xavier-nx": (4, 101.0, 15.0),
    "raspberry-pi-4-4gb": (1, 1900.0, None),
}
DEVICES = [device for device, (count, *_) in FLEET.items() for _ in range(count)]
PAYLOAD_BYTES = 2_400_000
CONFIG = """\
seed: 1
scenario: {dataset: cifar100, tasks: 4, clients: 10, note: "<b>bold & 'quoted'</b>"}
model: {name: cnn6, head: local}
method: {name: fedknow, retained_fraction: 0.1, signature_tasks: 10, second_use: on_receive}
fleet: [{device: jetson-nano, count: 4}, {device: jetson-tx2, count: 1}, {device: raspberry-pi-4-4gb, count: 1}]
"""
MANIFEST = {
    "seed": 1,
    "versions": {"fedknow_ray": "0.1.0", "ray": "2.60.0"},
    "estimated_device_fields": {"jetson-tx2": ["sustained_flops_per_s"], "raspberry-pi-4-4gb": []},
}


@dataclass(frozen=True)
class Shape:
    """How large the made-up run is, and what it lacks."""

    tasks: int = 4
    rounds: int = 8
    models: tuple[str, ...] = ("own", "global")
    finished: bool = True
    events: bool = True
    power: bool = False


def write_fake_run(path: Path, shape: Shape | None = None) -> Path:
    """Write a run of the given shape into *path*, which is new or empty."""
    shape = shape or Shape()
    directory = RunDirectory.create(path)
    directory.write_config(CONFIG)
    directory.write_manifest(MANIFEST)
    store = ResultStore(directory)
    store.append(PlacementRow(c, d, f"actor-{c}", "node", 4000 + c, '{"CPU": 0.1}') for c, d in enumerate(DEVICES))
    end_s = _append_visits(store, shape)
    _append_scores(store, shape)
    if shape.events:
        store.append(
            [EventRow(0.0, "placed", None, "10 clients"), EventRow(812.0, "failed", 3, "<i>lost</i> its node")]
        )
    store.flush()
    if shape.finished:
        directory.write_summary(_summary(store, end_s))
    return path


def _append_visits(store: ResultStore, shape: Shape) -> float:
    generator = np.random.Generator(np.random.PCG64(7))
    now_s = 0.0
    for task in range(shape.tasks):
        for round_index in range(shape.rounds):
            clients = sorted(generator.choice(len(DEVICES), size=4, replace=False).tolist())
            visits = _visits(clients, task, round_index, "train", now_s, shape.power)
            end_s = now_s + visits[0].download_s + visits[0].compute_s + visits[0].upload_s + visits[0].wait_s
            sent, received = sum(v.upload_bytes for v in visits), sum(v.download_bytes for v in visits)
            store.append([*visits, RoundRow(task, round_index, now_s, end_s, clients, sent, received)])
            now_s = end_s
        finishes = _visits(list(range(len(DEVICES))), task, shape.rounds, "finish_task", now_s, shape.power)
        store.append(finishes)
        now_s += finishes[0].download_s + finishes[0].compute_s + finishes[0].wait_s
    return now_s


def _visits(clients: list[int], task: int, round_index: int, kind: str, start_s: float, power: bool) -> list[VisitRow]:
    trains = kind == "train"
    compute_s = {c: FLEET[DEVICES[c]][1] * ((1 + 0.12 * task) if trains else 0.2) for c in clients}
    transfer_s = 0.02 + PAYLOAD_BYTES / 1e6
    slowest_s = max(compute_s.values())
    return [
        VisitRow(
            client_id=client,
            device=DEVICES[client],
            task_index=task,
            round_index=round_index,
            kind=kind,
            status="ok",
            download_s=transfer_s,
            compute_s=compute_s[client],
            upload_s=transfer_s if trains else 0.0,
            wait_s=slowest_s - compute_s[client],
            download_bytes=PAYLOAD_BYTES,
            upload_bytes=PAYLOAD_BYTES if trains else 0,
            flops=10**12,
            moved_bytes=10**10,
            peak_memory_bytes=400_000_000,
            energy_j=None if (watts := FLEET[DEVICES[client]][2]) is None and not power else (watts or 7.0) * slowest_s,
            loss=1.5 / (1 + task) if trains else None,
            integrated_steps=48 if trains else None,
            violated_steps=20 if trains else None,
            host_wall_s=1.1,
            host_cpu_s=1.0,
            start_s=start_s,
            work=[],
            model_version=0,
            merge_index=0,
        )
        for client in clients
    ]


def _append_scores(store: ResultStore, shape: Shape) -> None:
    generator = np.random.Generator(np.random.PCG64(11))
    for client in range(len(DEVICES)):
        for model in shape.models:
            for trained in range(shape.tasks):
                for task in range(trained + 1):
                    share = 0.72 - 0.05 * (trained - task) - (0.03 if model == "global" else 0)
                    correct = int(np.clip(generator.normal(100 * share, 6), 0, 100))
                    store.append(AccuracyRow(client, model, trained, task, correct, 100))


def _summary(store: ResultStore, end_s: float) -> dict[str, float | str | None]:
    visits = store.table("visits")
    return {
        "average_accuracy": 0.645,
        "average_accuracy_global": 0.612,
        "forgetting": 0.101,
        "forgetting_relative": 0.14,
        "backward_transfer": -0.1,
        "virtual_time_s": end_s,
        "upload_bytes": int(visits["upload_bytes"].to_numpy().sum()),
        "download_bytes": int(visits["download_bytes"].to_numpy().sum()),
        "energy_j": None,
        "wall_s": 83.0,
        "parameters_sha256": "0" * 64,
    }


if __name__ == "__main__":
    from fedknow_ray.report import write_report
    from fedknow_ray.results import load

    print(write_report(load(write_fake_run(Path(sys.argv[1])))))
