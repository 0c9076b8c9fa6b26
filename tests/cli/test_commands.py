"""The program as a person runs it: exit statuses, what goes to which stream, and messages without tracebacks."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import fedknow_ray
from fedknow_ray.__main__ import main

pytestmark = pytest.mark.program

TINY = """\
seed: 3
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 4, samples_per_client: 24,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 1, client_fraction: 0.5, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 4}]
"""
KEYS = {
    "run_dir", "average_accuracy", "average_accuracy_global", "forgetting", "forgetting_relative", "backward_transfer",
    "virtual_time_s", "upload_bytes", "download_bytes", "energy_j", "wall_s", "parameters_sha256",
}  # fmt: skip


def program(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedknow_ray", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@dataclass(frozen=True)
class Here:
    """Runs the program in this process, which spares the second that importing torch takes."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        self.monkeypatch.setattr(sys, "argv", ["fedknow-ray", *map(str, arguments)])
        status = main()
        captured = self.capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, captured.out, captured.err)


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    handler = signal.getsignal(signal.SIGTERM)
    yield Here(capsys, monkeypatch)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def fault(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a user's fault: status 2, on standard error, without a traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    out = folder / "run"
    return program("run", folder / "tiny.yaml", "--backend", "local", "--out", out, "--json"), out


def test_a_run_ends_with_status_0_and_one_json_object_in_the_last_line(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, out = finished
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary.keys() >= KEYS
    assert summary["run_dir"] == str(out)


def test_a_run_leaves_tables_config_manifest_and_report(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    names = {path.name for path in finished[1].iterdir()}
    tables = {f"{table}.parquet" for table in ("visits", "rounds", "accuracy", "events", "placement")}
    assert names == tables | {"config.yaml", "manifest.json", "summary.json", "report.html", "checkpoints"}


def test_progress_and_the_closing_table_go_to_standard_error_beside_json(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = finished
    assert len(done.stdout.splitlines()) == 1
    assert "task 2/2 done" in done.stderr
    assert "average accuracy" in done.stderr


def test_the_config_of_a_run_gives_the_same_run_again(
    finished: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    first = json.loads(finished[0].stdout.splitlines()[-1])
    again = program("run", finished[1] / "config.yaml", "--backend", "local", "--out", tmp_path / "again", "--json")
    assert json.loads(again.stdout)["parameters_sha256"] == first["parameters_sha256"]


def test_quiet_says_nothing_at_all(tiny: Path, tmp_path: Path) -> None:
    done = program("run", tiny, "--backend", "local", "--out", tmp_path / "run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_out_the_run_goes_to_a_folder_of_its_own_under_runs(tiny: Path, tmp_path: Path) -> None:
    done = program("run", tiny, "--backend", "local", "--json", "--quiet", cwd=tmp_path)
    run_dir = Path(json.loads(done.stdout)["run_dir"])
    assert run_dir.parent == Path("runs")
    assert run_dir.name.endswith("-tiny")
    assert (tmp_path / run_dir / "summary.json").is_file()


def test_report_writes_the_page_again(finished: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished[1], copy)
    (copy / "report.html").unlink()
    done = program("report", copy)
    assert done.returncode == 0, done.stderr
    assert (copy / "report.html").is_file()


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("methods", ["fedavg", "fedknow", "local"]),
        ("models", ["cnn6", "cnn6_half", "cnn6_quarter"]),
        ("datasets", ["cifar100", "digits"]),
        ("devices", ["jetson-nano", "raspberry-pi-4-2gb"]),
        ("policies", ["synchronous"]),
    ],
)
def test_list_prints_an_array_of_names(kind: str, some: list[str]) -> None:
    names = json.loads(program("list", kind, "--json").stdout)
    assert names == sorted(names)
    assert set(some) <= set(names)


def test_list_of_an_unknown_kind_suggests_the_nearest() -> None:
    assert "did you mean 'devices'" in fault(program("list", "devics"))


def test_version_is_that_of_the_package() -> None:
    assert fedknow_ray.__version__ in program("--version").stdout


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "x.yaml", "--sett", "a=1"], ["run", "x.yaml", "--backend", "spark"], ["runn"], ["report"]],
)
def test_a_wrong_command_line_is_told_with_status_2(here: Here, arguments: list[str]) -> None:
    assert fault(here(*arguments)).startswith("Usage: ")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["fleet.0.device=jetson-nan"], "unknown device 'jetson-nan'; did you mean 'jetson-nano'?"),
        (["method.name=fedknw"], "did you mean 'fedknow'?"),
        (["model.name=cnn7"], "did you mean 'cnn6'?"),
        (["method.strength=1"], "unknown key"),
        (["traning.batch_size=1"], "did you mean 'training'?"),
        (["network.uplink_bytes_per_s=0"], "greater than 0"),
        (["network.uplink_bytes_per_s=-1 MB/s"], "greater than 0"),
        (["fleet.0.count=3"], "3"),
        (["scenario.tasks=6"], "digits has 10"),
        (["scenario.dataset=cifar100"], "data_root"),
    ],
)
def test_a_faulty_config_is_refused_and_nothing_is_written(
    here: Here, tiny: Path, tmp_path: Path, overrides: list[str], expected: str
) -> None:
    sets = [word for override in overrides for word in ("--set", override)]
    out = tmp_path / "run"
    assert expected in fault(here("run", tiny, *sets, "--backend", "local", "--out", out))
    assert not out.exists()


def test_all_faults_are_told_at_once_each_with_its_place(here: Here, tiny: Path) -> None:
    tiny.write_text(TINY.replace("seed: 3", "sed: 3").replace("jetson-nano", "jetson-nan").replace("fedavg", "fedav"))
    message = fault(here("validate", tiny))
    assert "the config has 3 faults" in message
    assert [f"{tiny}:{line}:" in message for line in (1, 5, 7)] == [True, True, True]


@pytest.mark.parametrize(
    "override",
    ["task_arrival={trace: T}", "availability={name: trace, file: T}", "network.uplink_trace=T"],
)
def test_validate_reads_trace_files(here: Here, tiny: Path, tmp_path: Path, override: str) -> None:
    trace = tmp_path / "trace"
    trace.write_text("nonsense\n")
    assert str(trace) in fault(here("validate", tiny, "--set", override.replace("T", str(trace))))


def test_validate_opens_no_data_unless_asked(here: Here, tiny: Path, tmp_path: Path) -> None:
    sets = ["--set", "scenario.dataset=cifar100", "--set", f"scenario.data_root={tmp_path}"]
    assert here("validate", tiny, *sets).returncode == 0
    assert "cifar100-train.parquet" in fault(here("validate", tiny, *sets, "--data"))


def test_missing_data_names_the_files_that_were_looked_for(here: Here, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sets = ["--set", "scenario.dataset=cifar100", "--set", "scenario.data_root=/nowhere/at/all"]
    message = fault(here("run", tiny, *sets, "--backend", "local", "--out", out))
    assert "/nowhere/at/all/cifar100-train.parquet" in message
    assert not out.exists()


def test_a_truncated_data_file_is_named(here: Here, tiny: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"mine-{split}.parquet").write_bytes(b"PAR1 cut short")
    sets = ["--set", "scenario.dataset=mine", "--set", f"scenario.data_root={tmp_path}"]
    assert "mine-train.parquet" in fault(here("run", tiny, *sets, "--backend", "local", "--out", tmp_path / "run"))


def test_more_clients_than_data_is_told_with_the_numbers(here: Here, tiny: Path, tmp_path: Path) -> None:
    sets = ["--set", "scenario.clients=400", "--set", "fleet.0.count=400"]
    message = fault(here("run", tiny, *sets, "--backend", "local", "--out", tmp_path / "run"))
    assert "clients" in message
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_something_is_left_alone(here: Here, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    assert "is not empty" in fault(here("run", tiny, "--backend", "local", "--out", out))
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_folder_that_is_no_run_has_no_report(here: Here, tmp_path: Path) -> None:
    assert "is not a run directory" in fault(here("report", tmp_path))


def test_an_address_goes_with_ray_only(here: Here, tiny: Path, tmp_path: Path) -> None:
    arguments = ["--backend", "local", "--address", "auto", "--out", tmp_path / "run"]
    assert "--address goes with --backend ray" in fault(here("run", tiny, *arguments))
