"""The file of a calibration is checked before anything is measured, and takes the place of no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.calibration_target import Target, find_target, write_new


def test_the_device_has_the_name_of_its_file(tmp_path: Path):
    file = tmp_path / "my-board.yaml"
    assert find_target(file, None) == find_target(file, "my-board") == Target(file, "my-board")
    assert find_target(tmp_path, "my-board") == Target(file, "my-board")


@pytest.mark.parametrize(
    ("out", "name", "message"),
    [
        ("board.txt", None, "its name must end in .yaml"),
        ("board.yaml", "other", "--name other must be the file's name, board"),
        ("", None, "is a folder; say with --name what the device is called"),
        ("none/board.yaml", None, "there is no folder .*none; make it first"),
        ("jetson-nano.yaml", None, "there is a device 'jetson-nano' already"),
        ("there.yaml", None, "is there already and is not overwritten"),
        ("", "there", "is there already and is not overwritten"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, out: str, name: str | None, message: str):
    (tmp_path / "there.yaml").write_text("mine")
    with pytest.raises(UserError, match=message):
        find_target(tmp_path / out, name)
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_a_new_file_is_whole_and_alone(tmp_path: Path):
    write_new(tmp_path / "board.yaml", "name: board ä\n")
    assert (tmp_path / "board.yaml").read_text(encoding="utf-8") == "name: board ä\n"
    assert [path.name for path in tmp_path.iterdir()] == ["board.yaml"]


def test_a_file_that_came_in_the_meantime_stays(tmp_path: Path):
    (tmp_path / "board.yaml").write_text("mine")
    with pytest.raises(UserError, match="is not overwritten"):
        write_new(tmp_path / "board.yaml", "new")
    assert (tmp_path / "board.yaml").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["board.yaml"]


def test_what_the_operating_system_refuses_is_told(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"cannot write .*: No such file or directory"):
        write_new(tmp_path / "none" / "board.yaml", "new")
