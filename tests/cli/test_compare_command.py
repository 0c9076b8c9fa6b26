"""`fedknow-ray compare` as a person runs it: what it prints and refuses, and that stopping it changes no figure."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from fedknow_ray.cli.app import app
from fedknow_ray.cli.compare import closing_table
from fedknow_ray.cli.runs_display import raise_failures
from fedknow_ray.errors import UserError, WorkerError
from fedknow_ray.experiment.grid import RunId
from fedknow_ray.experiment.workers import Failure

CONFIG = """\
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 2, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
training: {rounds_per_task: 10, client_fraction: 1, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}]
"""
HOST_METRICS = ["wall_s", "host_cpu_s", "host_cpu_s_per_visit"]


def command(folder: Path, *more: str) -> list[str]:
    (folder / "tiny.yaml").write_text(CONFIG)
    options = ["--methods", "fedavg,local", "--seeds", "2", "--out", str(folder / "out"), *more]
    return [sys.executable, "-m", "fedknow_ray", "compare", str(folder / "tiny.yaml"), *options]


def table(folder: Path) -> list[dict[str, Any]]:
    """The table of a comparison without what the host decides."""
    rows = pq.read_table(folder / "out/comparison.parquet").to_pylist()
    return [row for row in rows if row["metric"] not in HOST_METRICS]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run(command(folder, "--json"), capture_output=True, text=True, timeout=180, check=False)
    return done, folder


@pytest.mark.program
def test_it_prints_its_progress_a_table_and_one_object(
    undisturbed: tuple[subprocess.CompletedProcess[str], Path],
):
    done, folder = undisturbed
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    summary = json.loads(line)
    assert summary["runs"] == {"planned": 4, "finished": 4, "missing": 0}
    assert [case["label"] for case in summary["cases"]] == ["fedavg", "local"]
    assert "4/4 " in done.stderr
    assert "no difference shown" in done.stderr or "win" in done.stderr or "loss" in done.stderr
    files = {path.name for path in (folder / "out").iterdir()}
    expected = {"comparison.json", "comparison.parquet", "comparison.csv", "comparison.html", "tiny.yaml", "runs"}
    assert files == expected


@pytest.mark.program
@pytest.mark.slow
def test_killed_and_interrupted_and_continued_it_gives_the_same_table(
    undisturbed: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
):
    before: dict[Path, int] = {}
    for sign, status in [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]:
        stopped = subprocess.Popen(command(tmp_path, "--jobs", "1"), stderr=subprocess.PIPE, text=True)
        before |= {path: path.stat().st_mtime_ns for path in wait_for_summaries(tmp_path / "out", len(before) + 1)}
        stopped.send_signal(sign)
        _, errors = stopped.communicate(timeout=60)
        assert stopped.returncode == status, errors
        assert "Traceback" not in errors
        assert len(list((tmp_path / "out").rglob("summary.json"))) < 4
    done = subprocess.run(command(tmp_path, "--quiet"), capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert table(tmp_path) == table(undisturbed[1])


def wait_for_summaries(out: Path, count: int) -> list[Path]:
    end = time.monotonic() + 120
    while len(found := list(out.rglob("summary.json"))) < count:
        assert time.monotonic() < end, "no run has finished within two minutes"
        time.sleep(0.02)
    return found


def here(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], standalone_mode=False)


def test_faults_are_told_before_anything_starts(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    done = here(
        tmp_path / "tiny.yaml",
        "--methods",
        "fedavg",
        "--vary",
        "training.threads=0",
        "--seeds",
        1,
        "--out",
        tmp_path / "o",
    )
    assert isinstance(done.exception, UserError)
    assert "--vary training.threads=0: training.threads" in str(done.exception)
    assert done.stdout == ""
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("missing", ["--methods", "--seeds", "--out"])
def test_methods_seeds_and_the_folder_must_be_named(missing: str):
    options = {"--methods": "fedavg", "--seeds": "1", "--out": "o"}
    given = [part for option, value in options.items() if option != missing for part in (option, value)]
    assert str(here("tiny.yaml", *given).exception) == f"Missing parameter: {missing.removeprefix('--')}"


def test_the_help_says_why_there_is_no_address():
    told = " ".join(here("--help").output.split())
    assert "on the local backend in a process of its own" in told
    assert "--address" not in told


def figure(mean: float, half: float, **difference: Any) -> dict[str, Any]:
    none = dict.fromkeys(("difference", "difference_ci_low", "difference_ci_high", "verdict"))
    return {"n": 3, "mean": mean, "ci_low": mean - half, "ci_high": mean + half, **none, **difference}


def test_the_closing_table_has_a_line_for_each_case():
    against = {"difference": 0.05, "difference_ci_low": 0.01, "difference_ci_high": 0.09, "verdict": "win"}
    knows = {"average_accuracy": {"own": figure(0.65, 0.03, **against)}, "forgetting": {"own": figure(0.1, 0.0)}}
    cases = [
        ("fedavg", False, {"average_accuracy": {"own": figure(0.6, 0.02), "global": figure(0.62, 0.01)}}),
        ("fedknow", True, knows),
        ("local", False, {}),
    ]
    summary = {
        "name": "tiny",
        "baseline": "fedavg",
        "choosing_seeds": [1, 2],
        "page": "o/comparison.html",
        "table": "o/comparison.parquet",
        "cases": [
            {"label": label, "baseline": "fedavg", "chosen": chosen, "metrics": metrics}
            for label, chosen, metrics in cases
        ],
    }
    shown = closing_table(summary)
    assert shown.title == "tiny: average accuracy, against fedavg"
    rows = list(zip(*(column.cells for column in shown.columns), strict=True))
    assert rows == [
        ("fedavg", "3", "0.600 ± 0.020", "0.620 ± 0.010", "-", "", ""),
        ("fedknow *", "3", "0.650 ± 0.030", "-", "0.100 ± 0.000", "+0.050 [+0.010, +0.090]", "win"),
        ("local", "0", "-", "-", "-", "", ""),
    ]
    assert "* chosen on the seeds 1, 2, which are in no figure" in str(shown.caption)


def test_the_closing_table_names_the_baseline_of_each_case_where_they_are_several():
    baselines = {"fedavg, lr=1": "fedavg, lr=1", "fedavg, lr=2": "fedavg, lr=2", "local, lr=2": "fedavg, lr=2"}
    files = {"page": "o/comparison.html", "table": "o/comparison.parquet"}
    cases = [
        {"label": label, "baseline": baseline, "chosen": False, "metrics": {}} for label, baseline in baselines.items()
    ]
    shown = closing_table({"name": "tiny", "choosing_seeds": [], "cases": cases, **files})
    assert shown.title == "tiny: average accuracy, against the case in the last column"
    assert (shown.columns[-1].header, list(shown.columns[-1].cells)) == ("against", ["", "", "fedavg, lr=2"])


def test_a_narrow_terminal_folds_the_labels_of_the_closing_table_and_cuts_none_off():
    labels = [f"fedknow, integration={kind}_then_projection" for kind in ("sum", "mean")]
    cases = [{"label": label, "baseline": label, "chosen": False, "metrics": {}} for label in labels]
    summary = {"name": "tiny", "choosing_seeds": [], "cases": cases, "page": "o/page", "table": "o/table"}
    console = Console(width=90)
    with console.capture() as captured:
        console.print(closing_table(summary))
    assert "…" not in captured.get()


def test_failures_with_one_cause_are_told_once():
    same = Failure("training has diverged")
    with pytest.raises(UserError) as caught:
        raise_failures({RunId("fedavg", 1): same, RunId("fedavg", 2): same})
    assert str(caught.value) == (
        "2 of the runs failed; the same command tries them again\nfedavg, seed 1; fedavg, seed 2\ntraining has diverged"
    )


def test_a_failure_of_ours_ends_the_program_as_one():
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        raise_failures({RunId("a", 1): Failure("x"), RunId("b", 1): Failure("ZeroDivisionError", is_ours=True)})


def test_without_failures_nothing_is_raised():
    raise_failures({})
