"""`benchmarks/bandwidth.py` tells the same hours from a recorded run as from its config, and sums them by hand."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

from fedknow_ray.experiment.run import execute

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bandwidth.py"
TEXT = """\
seed: 1
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 3, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 2, client_fraction: 0.7, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 1}]
"""


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("bandwidth", SCRIPT)


def test_a_recorded_run_and_its_config_give_the_same_hours(benchmark: ModuleType, tmp_path: Path):
    config = tmp_path / "small.yaml"
    config.write_text(TEXT)
    run = execute(config, backend="local", out=tmp_path / "run")
    replayed, told = (list(benchmark.measure(source, [])) for source in (run.path, config))
    assert replayed == told
    assert [row["bytes_per_s"] for row in replayed] == [50e3, 100e3, 500e3, 1e6, 5e6, 10e6]
    sent = run.visits["upload_bytes"][0].as_py() + run.visits["download_bytes"][0].as_py()
    for row in replayed:
        # 4 rounds, each with both ways of one client, and 20 ms of latency a transfer
        assert row["communication_h"] * 3600 == pytest.approx(4 * (sent / row["bytes_per_s"] + 0.04))


def test_the_last_visit_of_a_round_counts_and_the_ends_of_tasks_do_not(benchmark: ModuleType):
    def visit(
        kind: str, client_s: float, transfer_s: float, round_index: int = 0, status: str = "ok"
    ) -> dict[str, object]:
        times = {"start_s": 0.0, "download_s": transfer_s, "compute_s": client_s, "upload_s": transfer_s}
        return {"task_index": 0, "round_index": round_index, "kind": kind, "status": status, **times}

    visits = [
        visit("train", 9.0, 1.0),
        visit("train", 1.0, 2.0),
        visit("train", 1.0, 7.0, status="late"),
        visit("refine", 1.0, 3.0),
        visit("finish_task", 1.0, 5.0, 1),
    ]
    assert benchmark.communication_s(visits) == 2 * 1.0 + 2 * 3.0
