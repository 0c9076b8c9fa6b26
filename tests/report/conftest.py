"""Made-up runs for the report's tests, opened with the real loader."""

from __future__ import annotations

import pytest
from fake_comparison import write_fake_comparison
from fake_run import Shape, write_fake_run

from fedknow_ray.results import Run, load


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of four tasks."""
    return load(write_fake_run(tmp_path_factory.mktemp("runs") / "fake"))


@pytest.fixture
def run_of(tmp_path):
    """A function: the keyword arguments of `Shape` -> a run of that shape."""
    return lambda **shape: load(write_fake_run(tmp_path / "run", Shape(**shape)))


@pytest.fixture(scope="session")
def comparison_of(tmp_path_factory: pytest.TempPathFactory):
    """A function: the runs of each case (see `write_fake_comparison`) -> the comparison, in a folder of its own."""
    return lambda runs, **more: write_fake_comparison(tmp_path_factory.mktemp("comparison"), runs, **more)
