"""A backend that loses what it cannot make again: the run goes back to its last checkpoint, and ends as it would have.

The backend is the local one, which loses everything at calls that are named beforehand, and knows nothing afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small import run_small, tables

from fedknow_ray.errors import WorkerError, WorkerLost
from fedknow_ray.experiment.assembly import Parts
from fedknow_ray.federation.executor import Saved
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import HOST_EVENTS
from fedknow_ray.runtime.local import LocalExecutor, local_executor

COMMON: dict[str, Any] = {"training.rounds_per_task": 3, "scenario.samples_per_client": 10, "method.name": "fedknow"}
ASKED = ("report", "merge", "score", "save", "global_parameters_sha256")


class Fragile:
    """Passes everything on, and at some calls of *method*, counted from 1, loses all that it holds."""

    def __init__(self, inner: LocalExecutor, method: str, losses: Collection[int]) -> None:
        self._inner, self._method, self._losses = inner, method, set(losses)
        self._calls, self._lost = 0, False

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)
        if name not in (*ASKED, "dispatch", "forget"):
            return act

        def call(*arguments: Any, **options: Any) -> Any:
            if self._lost:
                raise AssertionError(f"{name} was asked of a backend that holds nothing")
            self._calls += name == self._method
            if name == self._method and self._calls in self._losses:
                self._lost = True
                self._inner.restore(Saved(self._inner.global_model(), {}))
                raise WorkerLost(f"{name} number {self._calls} is lost")
            return act(*arguments, **options)

        return call

    def restore(self, saved: Saved) -> None:
        self._lost = False
        self._inner.restore(saved)


def run_fragile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: str, losses: Collection[int], **overrides: Any
) -> Run:
    @contextmanager
    def open_fragile(parts: Parts, *_: Any) -> Iterator[Fragile]:
        with local_executor(parts.assembly, parts.dataset, parts.start, parts.broadcast) as inner:
            yield Fragile(inner, method, losses)

    with monkeypatch.context() as patch:
        patch.setattr("fedknow_ray.experiment.run.open_executor", open_fragile)
        return run_small(folder, {**COMMON, **overrides})


def of_the_host(run: Run) -> list[dict[str, Any]]:
    return [row for row in run.events.to_pylist() if row["kind"] in HOST_EVENTS]


def of_the_seed(name: str, table: pa.Table) -> pa.Table:
    if name != "events":
        return table
    return table.filter(pc.invert(pc.is_in(table["kind"], pa.array(sorted(HOST_EVENTS)))))


def same(run: Run, other: Run) -> None:
    assert run.summary is not None and other.summary is not None
    assert run.summary["parameters_sha256"] == other.summary["parameters_sha256"]
    for name, table in tables(run).items():
        assert of_the_seed(name, table).equals(of_the_seed(name, tables(other)[name])), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_small(tmp_path_factory.mktemp("whole"), COMMON)


@pytest.mark.parametrize(
    ("method", "losses"),
    [
        ("report", [1]),
        ("report", [4, 9]),
        ("merge", [1, 3]),
        ("score", [2]),
        ("save", [2]),
        ("global_parameters_sha256", [3]),
    ],
)
def test_a_run_that_loses_everything_ends_as_it_would_have(
    method: str, losses: list[int], whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = run_fragile(tmp_path, monkeypatch, method, losses)
    same(run, whole)
    assert [row["kind"] for row in of_the_host(run)] == ["rolled_back"] * len(losses)


def test_the_event_says_from_where_to_where_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run):
    """The 4th report is the 2nd of round 1: back to the end of round 0."""
    (row,) = of_the_host(run_fragile(tmp_path, monkeypatch, "report", [4]))
    ends_s = whole.rounds["end_s"].to_pylist()
    assert row["time_s"] == ends_s[0]
    assert json.loads(row["detail"]) == {
        "cause": "report number 4 is lost",
        "from_s": ends_s[0],
        "checkpoint": "round-000001.ckpt",
    }


def test_rounds_that_are_saved_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run):
    """2 clients a round; lost at the 5th report, the first of round 2: of the 12 reports one is asked for twice."""
    made: list[int] = []
    report = LocalExecutor.report

    def counted(self: LocalExecutor, order: Any) -> Any:
        made.append(order.facts.round_index)
        return report(self, order)

    monkeypatch.setattr(LocalExecutor, "report", counted)
    run_fragile(tmp_path, monkeypatch, "report", [6])
    assert made[:7] == [0, 0, 1, 1, 2, 2, 2]


def test_with_fewer_checkpoints_more_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run):
    run = run_fragile(tmp_path, monkeypatch, "report", [4], **{"recovery.checkpoint_every_rounds": 5})
    same(run, whole)
    assert json.loads(of_the_host(run)[0]["detail"])["checkpoint"] is None


def test_without_checkpoints_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(WorkerLost, match="report number 4 is lost"):
        run_fragile(tmp_path, monkeypatch, "report", [4], **{"recovery.checkpoint_every_rounds": 0})
    run = load(tmp_path / "run")
    assert (run.summary, [row["kind"] for row in of_the_host(run)]) == (None, ["failed"])


def test_what_is_lost_again_and_again_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(WorkerError, match="report number 6 is lost"):
        run_fragile(tmp_path, monkeypatch, "report", [4, 5, 6], **{"recovery.losses_in_a_row": 2})
    kinds = [row["kind"] for row in of_the_host(load(tmp_path / "run"))]
    assert kinds == ["rolled_back", "rolled_back", "failed"]


def test_losses_with_rounds_in_between_are_not_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Run):
    run = run_fragile(tmp_path, monkeypatch, "merge", [1, 3, 5, 7], **{"recovery.losses_in_a_row": 1})
    same(run, whole)
