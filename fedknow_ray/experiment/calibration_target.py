"""The device file that a calibration writes: checked before anything is measured, and never in place of another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.catalogue import DEVICES
from fedknow_ray.results.store import temporary_path

_ENDING = ".yaml"


@dataclass(frozen=True, slots=True)
class Target:
    """The device file to write, and the device's name, which is that of the file."""

    path: Path
    name: str


def find_target(out: Path, name: str | None) -> Target:
    """Return the file that a calibration writes: *out*, or `NAME.yaml` in it where it is a folder.

    Raises:
        UserError: if the file is there already, has no folder, or its name will not do; before anything is measured.
    """
    if name is not None and (Path(name).name != name or name == ".." or "\0" in name):
        raise UserError(f"--name {name!r} must be a plain name: it is that of a file in the folder")
    if out.is_dir():
        if name is None:
            raise UserError(f"--out {out} is a folder; say with --name what the device is called, or name a file in it")
        out = out / f"{name}{_ENDING}"
    if out.suffix != _ENDING:
        raise UserError(f"--out {out} is no device file; its name must end in {_ENDING}")
    if name is not None and name != out.stem:
        raise UserError(f"--name {name} must be the file's name, {out.stem}, as in every device file")
    if out.stem in DEVICES:
        raise UserError(f"there is a device {out.stem!r} already; call the file something else")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent}; make it first")
    if out.exists():
        raise _is_there(out)
    return Target(out, out.stem)


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet: whole, or not at all.

    Raises:
        UserError: if there is such a file by now.
        RunDirectoryError: if the operating system refuses.
    """
    temporary = temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)
        # "x" does not follow a link that somebody has put there
        with temporary.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        # unlike a rename, a link does not take the place of a file that has come in the meantime
        path.hardlink_to(temporary)
    except FileExistsError as error:
        raise _is_there(path) from error
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _is_there(path: Path) -> UserError:
    return UserError(f"{path} is there already and is not overwritten; name another file, or remove it first")
