"""`fedknow-ray stress` as a person runs it: the card, one object, and the gate's status."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from fedknow_ray.cli.stress import card_table, raise_outcome
from fedknow_ray.errors import GateError, UserError, WorkerError
from fedknow_ray.experiment.stress import Card
from fedknow_ray.experiment.stress_card import CardRow, Outcome, Toll
from fedknow_ray.experiment.workers import Failure

CONFIG = """\
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 2, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 2, client_fraction: 1, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}]
"""
CALM = Outcome(Toll(10.0, 5.0, 100, 0, 4, {}, 0), {(0, 0): 0.7, (1, 0): 0.9}, {(0, 0): 0.5})
KEPT = CardRow("churn", "Churn", "lost_visits", True, 0.95, 0.85, 1.25, 0.5, 2048, 0.125, 3, {"offline": 3}, 2)
BROKEN = CardRow("heat", "Heat", "time_ratio", failure="nobody comes")


def program(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "tiny.yaml").write_text(CONFIG)
    command = [sys.executable, "-m", "fedknow_ray", "stress", "tiny.yaml", "--only", "straggler_tail", "--jobs", "1"]
    return subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.program
def test_it_prints_the_card_as_one_object_and_passes_the_gate(tmp_path: Path):
    """A straggler alone changes no accuracy, so all of it is kept."""
    done = program(tmp_path, "--json", "--fail-under", "1")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    card = json.loads(line)
    assert (card["out"], card["fail_under"], card["below"]) == ("runs/stress-tiny", 1.0, [])
    assert [(row["stress"], row["accuracy_kept"], row["feels"]) for row in card["stresses"]] == [
        ("straggler_tail", 1.0, True)
    ]
    assert "2/2 straggler_tail: done" in done.stderr


def test_a_shut_gate_names_the_stresses_below():
    with pytest.raises(GateError) as caught:
        raise_outcome({}, [KEPT, BROKEN], 0.9)
    assert str(caught.value) == (
        "less than 0.9 of the calm run's accuracy kept: churn (own 0.950, global 0.850); heat (did not finish)"
    )
    assert caught.value.exit_status == 4


@pytest.mark.parametrize(
    ("is_ours", "limit", "kind"), [(True, 0.9, WorkerError), (False, None, UserError), (False, 0.9, GateError)]
)
def test_a_run_that_did_not_finish_is_a_fault_or_shuts_the_gate(is_ours: bool, limit: float | None, kind: type):
    with pytest.raises(kind, match="heat"):
        raise_outcome({"heat": Failure("nobody comes", is_ours)}, [BROKEN] if limit else [], limit)


def test_the_card_has_a_line_for_each_stress():
    console = Console(width=200, record=True, file=StringIO())
    console.print(card_table(Card(Path("out"), CALM, (KEPT, BROKEN), {})))
    text = console.export_text()
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "churn 0.950 0.850 1.250 0.500 2.05 kB (12.5 %) 3 (3 offline) 2" in lines
    assert any(line.startswith("heat - - - - - - - did not finish: nobody comes") for line in lines)
    assert "calm: accuracy 0.800 own, 0.500 global; 10.0 virtual s, 4 visits, 0 of them lost" in lines
