"""The committed files of `cluster/` are what the program prints, and shells take the scripts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedknow_ray.cli.app import app
from fedknow_ray.cluster.render import FILES, KINDS, Kind

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_is_what_render_prints(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """To mend: fedknow-ray cluster render --fleet configs/quickstart.yaml --kind KIND --out cluster/FILE"""
    monkeypatch.chdir(ROOT)
    printed = CliRunner().invoke(
        app, ["cluster", "render", "--fleet", "configs/quickstart.yaml", "--kind", kind], catch_exceptions=False
    )
    assert printed.exit_code == 0
    assert printed.output == (ROOT / "cluster" / FILES[kind]).read_text(encoding="utf-8")


def test_there_is_an_example_of_each_kind_and_nothing_else() -> None:
    assert {path.name for path in (ROOT / "cluster").iterdir()} == {*FILES.values(), "README.md"}


@pytest.mark.parametrize("kind", ["slurm", "local"])
def test_a_shell_takes_the_script(kind: Kind) -> None:
    checked = subprocess.run(["bash", "-n", ROOT / "cluster" / FILES[kind]], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
