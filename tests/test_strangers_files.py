"""Files that came from somebody else: names that would lead out of their place, and files without an end.

`tests/experiment/test_config_fuzz.py` has configs at random, `tests/federation/test_door.py` what clients send.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedknow_ray.config.loading import resolve_run_name
from fedknow_ray.errors import ConfigError, DataError, RunDirectoryError, UserError
from fedknow_ray.experiment.calibration_target import find_target, write_new
from fedknow_ray.experiment.grid import run_folder
from fedknow_ray.experiment.run import _default_path, read_config
from fedknow_ray.results.comparison import PLAN_FILE, load_comparison
from fedknow_ray.results.run import load
from fedknow_ray.results.schema import SCHEMA_VERSION
from fedknow_ray.results.store import ResultStore, RunDirectory, write_atomically
from fedknow_ray.scenario.arrivals import read_arrivals
from fedknow_ray.scenario.datasets import load_dataset
from fedknow_ray.simulation.availability_trace import read_trace as read_availability
from fedknow_ray.simulation.device_library import DeviceLibrary
from fedknow_ray.simulation.trace import read_trace as read_bandwidth

SMALL = "scenario: {dataset: digits, tasks: 2, classes_per_task: 2, clients: 20}\n"
#: Every key of a config that names a file or a folder.
PATH_KEYS = (
    *("devices_path", "scenario.data_root", "network.uplink_trace", "network.downlink_trace"),
    *("fleet.0.uplink_trace", "fleet.0.downlink_trace", "availability.file", "task_arrival.trace"),
)
NO_PATHS = {
    "../secret": "must not climb with ..",
    "traces/../../secret": "must not climb with ..",
    '"a\\0b"': "a path cannot have a NUL character",
    "x" * 256: "is longer than the name of a file can be",
    "x/" * 2048 + "x": "is longer than the name of a file can be",
}


def refused(tmp_path: Path, key: str, value: str) -> str:
    config = tmp_path / "x.yaml"
    config.write_text(SMALL)
    named = ["availability.name=trace"] if key == "availability.file" else []
    with pytest.raises(ConfigError) as caught:
        read_config(config, [*named, f"{key}={value}"])
    return next(fault.message for fault in caught.value.faults if fault.key == key)


@pytest.mark.parametrize("value", NO_PATHS, ids=lambda value: value[:12])
@pytest.mark.parametrize("key", PATH_KEYS)
def test_a_path_of_a_config_does_not_climb_and_can_be_a_path(tmp_path: Path, key: str, value: str) -> None:
    assert NO_PATHS[value] in refused(tmp_path, key, value)


def test_a_path_of_a_config_may_be_given_from_the_root_or_below_the_working_directory(tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(SMALL)
    for path in ("/srv/traces/up.csv", "traces/up.csv", "./up..csv"):
        assert read_config(config, [f"network.uplink_trace={path}"]).network.uplink_trace == Path(path)


@pytest.mark.parametrize(
    "read", [lambda path: read_availability(path, 1), read_bandwidth, lambda path: read_arrivals(path, 1, 1)]
)
def test_a_trace_is_a_file_with_an_end(tmp_path: Path, read) -> None:
    """A pipe would be waited for, and /dev/zero read for ever; a file that says it is far too large is not begun."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(2**40)
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="it is no regular file"):
            read(path)
    with pytest.raises(UserError, match="it is larger than"):
        read(tmp_path / "large")


def test_a_config_and_a_device_file_are_files_with_an_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is larger than 1048576 bytes, and no config is"):
        read_config("/dev/zero")
    os.mkfifo(tmp_path / "board.yaml")
    with pytest.raises(ConfigError, match="is no file that can be read"):
        DeviceLibrary().with_own(tmp_path)


def test_a_config_whose_name_cannot_be_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="it has a NUL character"):
        read_config("a\0b.yaml")
    with pytest.raises(ConfigError, match="File name too long"):
        read_config("x" * 300)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "a\0b"])
def test_a_device_or_data_set_is_looked_up_by_name_and_never_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.yaml").write_text("name: secret")
    inner = tmp_path / "inner"
    inner.mkdir()
    assert name not in DeviceLibrary(inner)
    with pytest.raises(DataError, match="holds no data set"):
        load_dataset(name, source="parquet", data_root=inner)


def test_a_device_file_that_stands_for_billions_of_values_is_refused(tmp_path: Path) -> None:
    lines = (f"{b}: &{b} [*{a}, *{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    bomb = ["a: &a [x, x, x, x, x, x, x, x]", *lines]
    (tmp_path / "bomb.yaml").write_text("\n".join([*bomb, "name: *i"]))
    with pytest.raises(ConfigError, match=r"an alias \(\*name\) is not supported"):
        DeviceLibrary().with_own(tmp_path)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("configs/quickstart.yaml", "quickstart"),
        ("../../etc/passwd", "passwd"),
        ("..yaml", "."),
        ("my run é.yaml", "my run é"),
        ("a\x1b[31m\nb.yaml", "a-[31m-b"),
        ("x" * 250 + ".yaml", "x" * 100),
        ("é" * 125 + ".yaml", "é" * 50),
        ("\udcff.yaml", "-"),
    ],
)
def test_a_run_name_is_one_plain_part_of_a_path(config: str, name: str) -> None:
    assert resolve_run_name(config) == name
    path = _default_path(name)
    assert path.parent == Path("runs")
    assert path.name.endswith(f"-{name}")
    assert len(os.fsencode(path.name)) <= 255


@pytest.mark.parametrize("label", ["../../x", "/x", "..", "a/b", "a\0b", "x" * 300, "\x1b[31m", ""])
def test_the_folder_of_a_case_stays_below_runs(label: str) -> None:
    first, folder, seed = Path(run_folder(label, 1)).parts
    assert (first, seed) == ("runs", "seed-1")
    assert folder not in ("", ".", "..")
    assert len(folder) <= 80


@pytest.mark.parametrize("run", ["../../x", "/x", "runs/../../x", "", ".", "a\0b"])
def test_a_plan_names_runs_below_its_folder(tmp_path: Path, run: str) -> None:
    """What a run that did not finish has left there is deleted when a comparison is continued."""
    case = {"label": "a", "method": "fedavg", "settings": {}, "overrides": [], "runs": {"1": run}}
    plan = {"schema_version": 1, "name": "x", "config": "x.yaml", "seeds": [1], "baseline": "a", "cases": [case]}
    (tmp_path / PLAN_FILE).write_text(json.dumps(plan))
    with pytest.raises(RunDirectoryError, match="is not below the comparison's folder"):
        load_comparison(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "a\0b"])
def test_a_calibrated_device_is_written_where_it_was_asked_for(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(UserError, match="must be a plain name"):
        find_target(inner, name)


def test_nothing_is_written_through_a_link_that_a_folder_came_with(tmp_path: Path) -> None:
    """Whoever gives away a run directory knows the names that a report of it will be written under."""
    mine = tmp_path / "mine"
    mine.write_text("untouched")
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("report.html", ".report.html.tmp", ".board.yaml.tmp"):
        (folder / name).symlink_to(mine)
    write_atomically(folder / "report.html", b"a report")
    write_new(folder / "board.yaml", "a board")
    assert mine.read_text() == "untouched"
    assert not (folder / "report.html").is_symlink()
    assert (folder / "report.html").read_bytes() == b"a report"


@pytest.mark.parametrize(
    "config", ["a: &a [x]\nb: *a\n", "[" * 5000, "!!python/object/apply:os.system [id]\n", "x: 2001-99-99\n", "- 1\n"]
)
def test_a_run_with_a_hostile_config_is_refused(tmp_path: Path, config: str) -> None:
    write_run(tmp_path)
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(RunDirectoryError, match=r"cannot read .*config\.yaml"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "9" * 5000, "\x00"], ids=lambda text: text[:3])
def test_a_run_with_a_hostile_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write_run(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"cannot read .*manifest\.json"):
        load(tmp_path)


def write_run(folder: Path) -> None:
    """A run without rows."""
    directory = RunDirectory.create(folder)
    directory.write_config("seed: 1\n")
    directory.write_manifest({"schema_version": SCHEMA_VERSION})
    ResultStore(directory).flush()
