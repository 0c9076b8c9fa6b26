"""Prints run directories as the tables of docs/results: accuracy on each task after each task, and what it cost.

python benchmarks/results_table.py runs/fedknow runs/fedavg runs/local
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

import fedknow_ray
from fedknow_ray.metrics.continual import accuracy_matrix
from fedknow_ray.results.run import Run

MODELS = ("own", "global")


def accuracy_rows(name: str, run: Run) -> Iterator[str]:
    """Yield one row a model: accuracy on each learnt task after each task, and their mean."""
    for model in MODELS:
        matrix_TT = accuracy_matrix(run.accuracy, model)
        cells = []
        for row_T in matrix_TT:
            learnt = row_T[~np.isnan(row_T)]
            values = " ".join(f"{value:.3f}" for value in learnt)
            cells.append(f"{values} = **{learnt.mean():.3f}**" if len(learnt) > 1 else f"**{values}**")
        if cells:
            yield f"| {name} | {model} | " + " | ".join(cells) + " |"


def cost_row(name: str, run: Run) -> str:
    """Return the row of forgetting, seconds, bytes and energy."""
    summary: Mapping[str, Any] = run.summary or {}
    trained = run.visits.filter(pc.equal(run.visits["kind"], "train"))
    host_s = trained.group_by("task_index").aggregate([("host_cpu_s", "mean")]).sort_by("task_index")
    by_task = " ".join(f"{seconds:.1f}" for seconds in host_s["host_cpu_s_mean"].to_pylist())
    forgetting = [summary["forgetting"], summary["forgetting_global"], summary["forgetting_relative"]]
    cells = [
        *("-" if value is None else f"{value:.3f}" for value in forgetting),
        f"{summary['wall_s']:.0f}",
        by_task,
        f"{summary['virtual_time_s']:.0f}",
        f"{summary['upload_bytes'] / 1e9:.3f}",
        f"{summary['download_bytes'] / 1e9:.3f}",
        "-" if summary["energy_j"] is None else f"{summary['energy_j'] / 1e3:.1f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print both tables for the run directories on the command line."""
    runs = {path: fedknow_ray.load(path) for path in sys.argv[1:]}
    names = {path: f"{run.config['method']['name']}" for path, run in runs.items()}
    tasks = max(run.config["scenario"]["tasks"] for run in runs.values())
    print("| method | model | " + " | ".join(f"after task {task + 1}" for task in range(tasks)) + " |")
    print("|---|---|" + "---|" * tasks)
    for path, run in runs.items():
        print("\n".join(accuracy_rows(names[path], run)))
    heads = ["method", "forgetting own", "global", "relative, own", "wall s", "host CPU s a visit, by task"]
    heads += ["virtual s", "uploaded GB", "downloaded GB", "energy kJ"]
    print("\n| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for path, run in runs.items():
        print(cost_row(names[path], run))


if __name__ == "__main__":
    main()
