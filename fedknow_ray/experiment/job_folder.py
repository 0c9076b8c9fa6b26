"""What travels with a job: the config, the files that it names, and this code.

The folder becomes the working directory of the run and of every actor. A relative path of the config means the same
file there as here. A path from the root is a place on the cluster and is left as it is; so is the place of the data,
which are too large to travel with a job.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fedknow_ray.config.loading import dump_yaml
from fedknow_ray.config.model import RunConfig
from fedknow_ray.config.paths import named_paths
from fedknow_ray.errors import UserError
from fedknow_ray.units import format_bytes

#: Of the files that a config names. Ray keeps what travels in the memory of the head.
MOST_BYTES = 64 * 2**20
#: Python looks the version up there.
_METADATA = "Metadata-Version: 2.1\nName: fedknow-ray\nVersion: {}\n"


@dataclass(frozen=True, slots=True)
class JobFolder:
    """A folder for a job: the config's file in it, and by their keys the paths that the cluster must have itself."""

    config: str
    expected: dict[str, Path]


def fill_job_folder(folder: Path, name: str, config: RunConfig) -> JobFolder:
    """Write what the run called *name* needs into an empty folder.

    Raises:
        UserError: if a file that the config names is not there, or they are too many to travel.
    """
    _write_code(folder)
    expected, total_bytes = {}, 0
    for key, path in named_paths(config.model_dump()):
        if path.is_absolute():
            expected[key] = path
        elif key == "scenario.data_root":
            raise UserError(
                f"{key} is {str(path)!r}, and data do not travel with a job; put them on the head of the cluster and "
                f"give the path from the root: --set {key}=/..."
            )
        else:
            total_bytes += _copy(key, path, folder)
            if total_bytes > MOST_BYTES:
                raise UserError(
                    f"{key}: the files of the config take more than {format_bytes(MOST_BYTES)}, too much to travel "
                    "with a job; put them on the head of the cluster and give the paths from the root"
                )
    file = folder / f"{name}.yaml"
    if file.exists():
        raise UserError(f"the config {file.name} has the name of a file that it names; call one of them something else")
    file.write_text(dump_yaml(config), encoding="utf-8")
    return JobFolder(file.name, expected)


def _write_code(folder: Path) -> None:
    """Copy this package: what runs there is to the byte what would have run here, and need not be installed there."""
    own = Path(__file__).parents[1]
    shutil.copytree(own, folder / own.name, ignore=shutil.ignore_patterns("__pycache__"))
    number = version("fedknow-ray")
    about = folder / f"fedknow_ray-{number}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(_METADATA.format(number), encoding="utf-8")


def _copy(key: str, path: Path, folder: Path) -> int:
    """Copy a file, or the device files of a folder, to the same relative place; return their bytes."""
    if not path.exists():
        raise UserError(f"{key}: there is no {path}; a relative path is taken from the working directory")
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    for file in files:
        target = folder / file
        if target.exists() and target.read_bytes() != file.read_bytes():
            raise UserError(f"{key}: {file} would take the place of a file of fedknow-ray; put it somewhere else")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return sum(file.stat().st_size for file in files)
