"""The wheel: everything that the program reads ships with it, and the quick start runs from it without a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.program

ROOT = Path(__file__).parents[1]
BUILD = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_package(unpacked: Path) -> None:
    def names(package: Path) -> set[str]:
        files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {str(path.relative_to(package)) for path in files}

    assert names(unpacked / "fedknow_ray") == names(ROOT / "fedknow_ray")


def test_the_quick_start_runs_from_the_wheel_in_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    sets = ["scenario.tasks=1", "training.rounds_per_task=1", "training.local_epochs=1"]
    options = [word for override in sets for word in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "fedknow_ray", "quickstart", "--backend", "local", "--json", "--quiet", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / json.loads(done.stdout)["run_dir"]
    assert (run_dir / "report.html").is_file()
