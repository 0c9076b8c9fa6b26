"""Runs that were left and go on: wherever it was, the end is that of the run that was never left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small import Recorder, tables, write_config

from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.resume import resume
from fedknow_ray.experiment.run import execute
from fedknow_ray.results.run import Run
from fedknow_ray.results.schema import HOST_EVENTS

LOCAL = Place("local")
COMMON: dict[str, Any] = {"training.rounds_per_task": 3, "scenario.samples_per_client": 10}
PACED = {"availability": {"name": "duty_cycle", "period_s": 40.0, "on_s": 30.0}, "failures.probability": 0.2}
CASES: dict[str, dict[str, Any]] = {
    "rounds": {"method.name": "fedknow", "scenario.task_order": "shuffled"},
    "refining": {"method": {"name": "fedknow", "second_use": "after_aggregation"}},
    "authors' code": {"method": {"name": "fedknow", "variant": "authors_code"}},
    "residuals": {"compression": {"name": "topk", "fraction": 0.1}, "model.head": "global"},
    "late updates": {"policy": {"name": "deadline", "deadline_s": 1.0, "late": "keep"}},
    "comes and goes": PACED,
    "buffered": {"policy": {"name": "fedbuff", "buffer_size": 2, "concurrency": 3}, **PACED},
    "each update": {"policy": {"name": "fedasync", "concurrency": 2}, "compression.name": "int8"},
    "by time": {"task_arrival": {"every_s": 5.0}, "method.name": "fedknow"},
    "by time, buffered": {
        "task_arrival": {"every_s": 5.0},
        "policy": {"name": "fedbuff", "buffer_size": 2, "concurrency": 3},
    },
    "without federation": {"method.name": "local"},
}


def go(folder: Path, overrides: Mapping[str, Any], out: str, **arguments: Any) -> Run:
    return execute(write_config(folder), {**COMMON, **overrides}, backend="local", out=folder / out, **arguments)


def of_the_seed(events: pa.Table) -> pa.Table:
    return events.filter(pc.invert(pc.is_in(events["kind"], pa.array(sorted(HOST_EVENTS)))))


def same(run: Run, other: Run) -> None:
    """Compare two finished runs in everything that a seed decides."""
    assert run.summary is not None and other.summary is not None
    for name, table in tables(run).items():
        there = tables(other)[name]
        if name == "events":
            table, there = of_the_seed(table), of_the_seed(there)
        assert table.equals(there), name
    figures = [{k: v for k, v in r.summary.items() if k not in ("run_dir", "wall_s")} for r in (run, other)]
    assert figures[0] == figures[1]


def leave(folder: Path, overrides: Mapping[str, Any], after: int, out: str = "left") -> Path:
    """Make a run that is stopped when it has told of progress so often; return its directory."""
    with pytest.raises(KeyboardInterrupt):
        go(folder, overrides, out, watcher=Recorder(KeyboardInterrupt(), after=after))
    return folder / out


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_run_goes_on_from_wherever_it_was_left(overrides: dict[str, Any], tmp_path: Path):
    recorder = Recorder()
    whole = go(tmp_path, overrides, "whole", watcher=recorder)
    # every second place: of a run in rounds, both between rounds and at ends of tasks
    for after in range(1, len(recorder.progress), 2):
        left = leave(tmp_path, overrides, after, f"left-{after}")
        same(resume(left, place=LOCAL), whole)
