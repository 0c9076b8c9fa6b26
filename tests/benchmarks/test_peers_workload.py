"""`benchmarks/peers/run.py` does the work of the plain loop of the peers' folder, to its weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
from scripts import load_script

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("FEDKNOW_PEERS", ROOT.parent / "shared" / "peers"))

pytestmark = pytest.mark.skipif(not (PEERS / "workload.py").exists(), reason=f"the peers' folder is not at {PEERS}")


def load(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return load_script(name, path)


def plain_digest(floor: ModuleType, workload: ModuleType, work: object) -> float:
    """Train the cohorts one client after another in plain torch, and average."""
    model = workload.make_model()
    weights = floor.flat(model).clone()
    for round_index in range(work.rounds):
        total = 0 * weights
        floor.visit_all(model, weights, work, workload.cohort(work, round_index), total)
        weights = total / work.visits
    return workload.digest([weights])


@pytest.mark.parametrize(("optimizer", "rtol"), [("sgd", 1e-4), ("adam", 2e-2)])
def test_the_weights_are_those_of_the_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, rtol: float
):
    """Adam divides by the gradient's size, so that a last bit of a small gradient becomes a step."""
    ours = load(f"peers_ours_{optimizer}", ROOT / "benchmarks" / "peers" / "run.py", monkeypatch)
    floor = load(f"peers_floor_{optimizer}", PEERS / "floor" / "run.py", monkeypatch)
    lr = {"sgd": 0.01, "adam": 1e-3}[optimizer]
    work = ours.workload.Workload("tiny", 3, 2, 2, 40, 1, optimizer, lr)
    expected = plain_digest(floor, ours.workload, work)
    assert ours.run(work, "local", tmp_path / "run") == pytest.approx(expected, rel=rtol)
    assert pq.read_table(tmp_path / "run" / "visits.parquet").num_rows == 4
    assert pq.read_table(tmp_path / "run" / "rounds.parquet").num_rows == 2
