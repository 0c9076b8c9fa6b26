"""A small made-up comparison, written with the real store, whose figures can be worked out in the head.

Two tasks and two clients with equal scores: 60 % on task 0 when learnt, and at the end *old* on task 0 and *new* on
task 1, so that the average accuracy is (old + new) / 2 and the forgetting 60 - old, all in per cent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedknow_ray.results import AccuracyRow, EventRow, ResultStore, RoundRow, RunDirectory, VisitRow
from fedknow_ray.results.comparison import Comparison, load_comparison

CLIENTS = 2
MODELS = ("own", "global")


@dataclass(frozen=True)
class FakeRun:
    """What one run scored, in per cent, and what it took."""

    old: int
    new: int
    old_of_last_client: int | None = None
    """Where the last client is not like the others."""
    cpu_s: float = 1.0
    checked: int | None = None
    finished: bool = True
    models: tuple[str, ...] = MODELS
    memory_bytes: int | None = None
    kept_bytes: int | None = None


def write_fake_run(path: Path, fake: FakeRun) -> None:
    """Write the run into *path*: a visit of each client in each task, 100 bytes up and 200 down."""
    directory = RunDirectory.create(path)
    directory.write_config("seed: 1\n")
    directory.write_manifest({} if fake.kept_bytes is None else {"kept_bytes": fake.kept_bytes})
    store = ResultStore(directory)
    for task in range(2):
        store.append(_visit(client, task, fake) for client in range(CLIENTS))
        store.append(RoundRow(task, 0, 13.0 * task, 13.0 * task + 13, [0, 1], 200, 400))
    store.append(row for client in range(CLIENTS) for model in fake.models for row in _scores(client, model, fake))
    if fake.checked:
        figures = {"task_index": 1, "round_index": 0, "kind": "train", "violated_after_steps": 1}
        store.append(EventRow(1.0, "method_figures", client, json.dumps(figures)) for client in range(CLIENTS))
    store.flush()
    if fake.finished:
        directory.write_summary({"virtual_time_s": 26.0, "wall_s": 3.0, "energy_j": None})


def _visit(client: int, task: int, fake: FakeRun) -> VisitRow:
    checked = fake.checked if task else None
    return VisitRow(
        client_id=client,
        device="jetson-nano",
        task_index=task,
        round_index=0,
        kind="train",
        status="ok",
        download_s=2.0,
        compute_s=10.0,
        upload_s=1.0,
        wait_s=0.0,
        download_bytes=200,
        upload_bytes=100,
        flops=1,
        moved_bytes=1,
        peak_memory_bytes=fake.memory_bytes and fake.memory_bytes + 100 * task + client,
        energy_j=None,
        loss=1.0,
        integrated_steps=checked,
        violated_steps=checked and checked // 2,
        host_wall_s=1.0,
        host_cpu_s=fake.cpu_s * (1 + task),
        start_s=0.0,
        work=[],
        model_version=0,
        merge_index=0,
    )


def _scores(client: int, model: str, fake: FakeRun) -> list[AccuracyRow]:
    is_last = client == CLIENTS - 1 and fake.old_of_last_client is not None
    old = fake.old_of_last_client if is_last else fake.old
    return [
        AccuracyRow(client, model, 0, 0, 60, 100),
        AccuracyRow(client, model, 1, 0, old, 100),
        AccuracyRow(client, model, 1, 1, fake.new, 100),
    ]


def write_fake_comparison(
    path: Path, runs: dict[str, dict[int, FakeRun | None]], *, choosing_seeds: tuple[int, ...] = ()
) -> Comparison:
    """Write a comparison of the given labels, such as "fedknow, margin=0", and open it; None is a run never begun.

    The first label is the baseline; what follows its method are settings of "method.".
    """
    cases = [_case(label, of_case) for label, of_case in runs.items()]
    plan = {
        "schema_version": 1,
        "name": "small",
        "config": "small.yaml",
        "seeds": sorted({seed for of_case in runs.values() for seed in of_case}),
        "choosing_seeds": list(choosing_seeds),
        "baseline": next(iter(runs)),
        "cases": cases,
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / "comparison.json").write_text(json.dumps(plan))
    for case, of_case in zip(cases, runs.values(), strict=True):
        for seed, fake in of_case.items():
            if fake is not None:
                write_fake_run(path / case["runs"][str(seed)], fake)
    return load_comparison(path)


def _case(label: str, of_case: dict[int, FakeRun | None]) -> dict:
    method, *settings = label.split(", ")
    pairs = {key if "." in key else f"method.{key}": value for key, value in (text.split("=") for text in settings)}
    return {
        "label": label,
        "method": method,
        "settings": pairs,
        "overrides": [f"method.name={method}", *(f"{key}={value}" for key, value in pairs.items())],
        "runs": {str(seed): f"runs/{label}/seed-{seed}" for seed in of_case},
    }
