"""What travels with a job: the config as it is resolved, the files that it names, and the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small import TEXT

import fedknow_ray
from fedknow_ray.config.loading import dump_yaml
from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import UserError
from fedknow_ray.experiment import job_folder
from fedknow_ray.experiment.job_folder import fill_job_folder
from fedknow_ray.experiment.run import read_config

TRACE = "time_s,bytes_per_s\n0,1000\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config, a trace, and a folder for the job beside it."""
    here = tmp_path / "here"
    (here / "traces").mkdir(parents=True)
    (here / "traces" / "up.csv").write_text(TRACE)
    (here / "small.yaml").write_text(TEXT)
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(here)
    return here


def config(*overrides: str) -> RunConfig:
    return read_config("small.yaml", overrides)


def test_relative_files_keep_their_places_and_the_config_its_words(here: Path) -> None:
    job = here.parent / "job"
    resolved = config("network.uplink_trace=traces/up.csv")
    filled = fill_job_folder(job, "small", resolved)
    assert (filled.config, filled.expected) == ("small.yaml", {})
    assert (job / "traces" / "up.csv").read_text() == TRACE
    assert (job / "small.yaml").read_text() == dump_yaml(resolved)
    assert sorted(path.name for path in job.iterdir()) == [
        "fedknow_ray",
        f"fedknow_ray-{fedknow_ray.__version__}.dist-info",
        "small.yaml",
        "traces",
    ]


def test_a_path_from_the_root_stays_a_place_on_the_cluster(here: Path) -> None:
    filled = fill_job_folder(here.parent / "job", "small", config("network.uplink_trace=/data/up.csv"))
    assert filled.expected == {"network.uplink_trace": Path("/data/up.csv")}


def test_only_device_files_of_a_folder_of_devices_travel(here: Path) -> None:
    (here / "devices").mkdir()
    (here / "devices" / "mine.yaml").write_text("name: mine\ninherits: jetson-nano\n")
    (here / "devices" / "notes.txt").write_text("private")
    job = here.parent / "job"
    fill_job_folder(job, "small", config("devices_path=devices"))
    assert [path.name for path in (job / "devices").iterdir()] == ["mine.yaml"]


def test_the_code_that_travels_runs_there_and_knows_its_version(here: Path) -> None:
    """In a Python that finds no other copy: neither a path nor a folder of packages leads to one."""
    job = here.parent / "job"
    fill_job_folder(job, "small", config())
    code = "import fedknow_ray; print(fedknow_ray.__file__, fedknow_ray.__version__)"
    command = [sys.executable, "-S", "-E", "-c", code]
    done = subprocess.run(command, cwd=job, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(job / "fedknow_ray" / "__init__.py"), fedknow_ray.__version__]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("network.uplink_trace=traces/down.csv", r"network.uplink_trace: there is no traces/down.csv"),
        ("scenario.data_root=data", r"scenario.data_root is 'data', and data do not travel"),
        ("network.uplink_trace=fedknow_ray/__init__.py", "would take the place of a file of fedknow-ray"),
        ("network.uplink_trace=other.yaml", "the config other.yaml has the name of a file"),
    ],
)
def test_what_cannot_travel_is_refused(here: Path, override: str, told: str) -> None:
    (here / "fedknow_ray").mkdir()
    (here / "fedknow_ray" / "__init__.py").write_text("mine")
    (here / "other.yaml").write_text("mine")
    with pytest.raises(UserError, match=told):
        fill_job_folder(here.parent / "job", "other", config(override))


def test_too_many_bytes_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_folder, "MOST_BYTES", len(TRACE) - 1)
    with pytest.raises(UserError, match=r"network.uplink_trace: the files of the config take more than 25 B"):
        fill_job_folder(here.parent / "job", "small", config("network.uplink_trace=traces/up.csv"))
