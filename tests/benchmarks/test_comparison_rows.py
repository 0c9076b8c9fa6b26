"""`benchmarks/comparison_rows.py` prints the difference of each case beside what it is a difference to."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripts import load_script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "comparison_rows.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("comparison_rows", SCRIPT)


def table_of(benchmark: ModuleType, path: Path, baselines: dict[str, str]) -> list[dict[str, str]]:
    """The printed table of cases with these baselines, each but a baseline 5 points ahead of its own."""
    figure = {"metric": "average_accuracy", "model": "own", "task_index": None, "n": 1, "mean": 0.5}
    ends = dict.fromkeys(("ci_low", "ci_high", "difference_ci_low", "difference_ci_high"))
    rows = [
        {**figure, **ends, "case": case, "baseline": baseline, "difference": None if case == baseline else 0.05}
        | {"verdict": None if case == baseline else "no difference shown"}
        for case, baseline in baselines.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), path / "comparison.parquet")
    head, *body = benchmark.accuracy_rows(benchmark.Figures(path / "comparison.parquet"))
    return [dict(zip(head, cells, strict=True)) for cells in body]


def test_one_baseline_is_named_in_the_heading(benchmark: ModuleType, tmp_path: Path):
    rows = table_of(benchmark, tmp_path, {"fedavg": "fedavg", "local": "fedavg"})
    assert [row["own: points to fedavg"] for row in rows] == ["-", "+5.0"]
    assert "baseline" not in rows[0]


def test_several_baselines_are_named_row_by_row(benchmark: ModuleType, tmp_path: Path):
    baselines = {
        "fedavg, head=a": "fedavg, head=a",
        "fedavg, head=b": "fedavg, head=b",
        "local, head=b": "fedavg, head=b",
    }
    rows = table_of(benchmark, tmp_path, baselines)
    assert [row["baseline"] for row in rows] == list(baselines.values())
    assert [row["own: points to the baseline"] for row in rows] == ["-", "-", "+5.0"]
