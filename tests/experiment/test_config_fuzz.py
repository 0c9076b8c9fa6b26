"""Mutated configs: read, or refused with their faults; never another exception, never without an end."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import mutated, texts, watched

from fedknow_ray.errors import UserError
from fedknow_ray.experiment.conditions import build_arrivals, build_conditions
from fedknow_ray.experiment.run import read_config

#: Processor seconds of one config, and memory beyond what the process has.
MOST_S, MOST_BYTES = 10.0, 2**30
QUICK, ALL = 300, 10_000


def test_the_texts_that_are_mutated_are_in_order(tmp_path: Path) -> None:
    for text in [*texts(0), *texts(1)]:
        (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
        read_config(tmp_path / "x.yaml")


def try_configs(folder: Path, seeds: range) -> int:
    """Read so many mutated configs, and return how many were in order."""
    path, read = folder / "x.yaml", 0
    for seed in seeds:
        content, overrides = mutated(seed)
        path.write_bytes(content)
        try:
            with watched(MOST_S, MOST_BYTES):
                config = read_config(path, overrides)
                build_conditions(config)
                build_arrivals(config)
        except UserError as error:
            assert str(error)
            continue
        except BaseException as error:
            error.add_note(f"seed {seed} of tests/experiment/fuzzing.py")
            raise
        read += 1
    return read


def test_some_hundred_mutated_configs_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert 0 < try_configs(tmp_path, range(QUICK)) < QUICK


@pytest.mark.slow
def test_ten_thousand_mutated_configs_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert 0 < try_configs(tmp_path, range(QUICK, QUICK + ALL)) < ALL
