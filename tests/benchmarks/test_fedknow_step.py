"""`benchmarks/fedknow_step.py` times what it says: each way makes its steps, and ours are the method's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from scripts import load_script

# The bits of sums depend on the number of threads, and this machine is shared.
torch.set_num_threads(1)

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fedknow_step.py"
WAYS = ("ours", "sum", "plain", "lower", "obvious")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    module = load_script("fedknow_step", SCRIPT)
    module.IMAGES, module.BATCH = 8, 4
    module.TRAINING = module.TrainingConfig(local_epochs=1, batch_size=4)
    return module


def test_each_way_takes_time_and_ours_counts_its_checked_steps(benchmark: ModuleType):
    """Two turns of one step each, after one that is not timed."""
    result = benchmark.compare(1, steps=1, repeats=2)
    assert all(getattr(result, way) > 0 for way in (*WAYS, "labelling"))
    assert result.tally.integrated_steps == 4


def test_projection_and_sum_start_alike_and_part_with_the_first_step(benchmark: ModuleType):
    bench = benchmark.Bench(1)
    ours, (batch,) = benchmark.Ours(bench), bench.batches(1)
    ends = []
    for prepare in (ours.prepare, ours.prepare_sum, ours.prepare_plain):
        step = prepare()
        assert torch.equal(bench.learner.network.theta, bench._start)
        step(batch)
        ends.append(bench.learner.network.theta.clone())
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])


def test_the_command_prints_one_row_for_each_number_of_past_tasks(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def compare(k: int, steps: int, repeats: int) -> SimpleNamespace:
        tally = SimpleNamespace(violated_steps=3, integrated_steps=4)
        seconds = {"ours": 0.3, "labelling": 0.01, "lower": 0.2, "obvious": 0.6, "sum": 0.11, "plain": 0.1}
        return SimpleNamespace(k=k, tally=tally, **seconds)

    monkeypatch.setattr(benchmark, "compare", compare)
    monkeypatch.setattr(sys, "argv", ["fedknow_step.py", "--tasks", "1", "9"])
    benchmark.main()
    header, rule, *rows = capsys.readouterr().out.splitlines()
    figures = "| 300 | 10.0 | 200 | 600 | 1.50 | 2.00 | 75% | 110 | 100 | 1.10 |"
    assert rows == [f"| 1 {figures}", f"| 9 {figures}"]
    assert {line.count("|") for line in (header, rule, *rows)} == {12}
