"""The plan of a comparison: how it grows, what it refuses, and what is on the disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import run_small, write_config

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.grid import RunId, read_grid
from fedknow_ray.experiment.planning import (
    Choices,
    earlier_plan,
    make_plan,
    refuse_other_configs,
    run_folders,
    write_plan,
)
from fedknow_ray.experiment.run import read_config
from fedknow_ray.results.comparison import Plan

CONFIG = Path("configs/small.yaml")


def plan(*methods: str, first: int = 1, earlier: Plan | None = None, vary: str = "", **choices: Any) -> Plan:
    grid = read_grid(CONFIG, methods, [vary] if vary else [])
    return make_plan(grid, first, Choices(**{"seeds": 2, **choices}), earlier)


def test_a_plan_names_every_run():
    made = plan("fedavg", "fedknow", vary="method.margin=0,0.5", command="fedknow-ray compare")
    assert made.model_dump() == {
        "schema_version": 1,
        "name": "small",
        "config": "configs/small.yaml",
        "seeds": (1, 2),
        "choosing_seeds": (),
        "baseline": "fedavg",
        "command": "fedknow-ray compare",
        "cases": (
            {
                "label": "fedavg",
                "method": "fedavg",
                "settings": {},
                "overrides": ("method.name=fedavg",),
                "runs": {1: "runs/fedavg/seed-1", 2: "runs/fedavg/seed-2"},
            },
            *(
                {
                    "label": f"fedknow, margin={margin}",
                    "method": "fedknow",
                    "settings": {"method.margin": margin},
                    "overrides": ("method.name=fedknow", f"method.margin={margin}"),
                    "runs": {seed: f"runs/fedknow,margin={margin}/seed-{seed}" for seed in (1, 2)},
                }
                for margin in (0, 0.5)
            ),
        ),
    }


def test_the_first_case_is_the_baseline_where_there_is_no_fedavg():
    assert plan("local", "fedknow").baseline == "local"


def test_a_baseline_is_a_case_or_the_first_of_a_method():
    vary = "method.margin=0,0.5"
    assert plan("fedavg", "fedknow", vary=vary, baseline="fedknow, margin=0.5").baseline == "fedknow, margin=0.5"
    assert plan("fedavg", "fedknow", vary=vary, baseline="fedknow").baseline == "fedknow, margin=0"


def test_an_unknown_baseline_is_refused_with_the_cases():
    with pytest.raises(UserError, match=r"'local' is no method and no case .*\n  fedavg\n  fedknow$"):
        plan("fedavg", "fedknow", baseline="local")


def test_the_first_seeds_choose():
    made = plan("fedavg", seeds=5, choose_on=2, first=11)
    assert (made.choosing_seeds, made.reporting_seeds) == ((11, 12), (13, 14, 15))


@pytest.mark.parametrize(
    ("choices", "told"), [({"seeds": 0}, "--seeds"), ({"seeds": 3, "choose_on": 3}, "0 to 2"), ({"choose_on": -1}, "0")]
)
def test_numbers_that_leave_nothing_to_report_are_refused(choices: dict[str, int], told: str):
    with pytest.raises(UserError, match=told):
        Choices(**{"seeds": 2, **choices})


def test_a_second_call_adds_methods_and_seeds_and_keeps_what_was_planned():
    first = plan("fedavg", "local", seeds=2, choose_on=1)
    grown = plan("fedavg", "fedknow", seeds=3, earlier=first)
    assert [case.label for case in grown.cases] == ["fedavg", "local", "fedknow"]
    assert [sorted(case.runs) for case in grown.cases] == [[1, 2, 3], [1, 2], [1, 2, 3]]
    assert grown.seeds == (1, 2, 3)
    assert (grown.choosing_seeds, grown.baseline) == ((1,), "fedavg")


def test_a_second_call_from_a_later_seed_up_plans_no_run_on_the_choosing_seeds():
    grown = plan("fedknow", first=2, seeds=2, earlier=plan("fedavg", seeds=3, choose_on=1))
    assert grown.choosing_seeds == (1,)
    assert [sorted(case.runs) for case in grown.cases] == [[1, 2, 3], [2, 3]]


def test_a_call_with_fewer_seeds_keeps_the_others():
    assert plan("fedavg", seeds=1, earlier=plan("fedavg", seeds=3)).cases[0].runs.keys() == {1, 2, 3}


def test_a_second_call_may_choose_on_other_seeds_and_name_another_baseline():
    grown = plan("local", seeds=3, choose_on=2, baseline="local", earlier=plan("fedavg", seeds=3, choose_on=1))
    assert (grown.choosing_seeds, grown.baseline) == ((1, 2), "local")


def test_a_written_plan_is_read_back(tmp_path: Path):
    made = plan("fedavg", "fedknow", vary="method.labels=soft,hard")
    copy = write_plan(tmp_path, made, b"seed: 1\n")
    assert copy == tmp_path / "small.yaml"
    assert copy.read_bytes() == b"seed: 1\n"
    assert earlier_plan(tmp_path, CONFIG) == made
    assert json.loads((tmp_path / "comparison.json").read_text())["cases"][0]["runs"]["1"] == "runs/fedavg/seed-1"


def test_a_new_or_empty_folder_has_no_plan(tmp_path: Path):
    assert earlier_plan(tmp_path, CONFIG) is None
    assert earlier_plan(tmp_path / "new", CONFIG) is None


def test_a_folder_with_something_else_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(RunDirectoryError, match="is no comparison"):
        earlier_plan(tmp_path, CONFIG)


def test_a_folder_that_holds_only_the_copy_of_the_config_counts_as_new(tmp_path: Path):
    config, out = write_config(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "small.yaml").write_bytes(config.read_bytes())
    assert earlier_plan(out, config) is None


@pytest.mark.parametrize("name", ["small.yaml", "other.yaml"])
def test_a_folder_that_holds_another_config_is_refused(tmp_path: Path, name: str):
    config, out = write_config(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / name).write_text("seed: 2\n")
    with pytest.raises(RunDirectoryError, match="is no comparison"):
        earlier_plan(out, config)


KILLED = """
import os, signal, sys
from pathlib import Path
from fedknow_ray.experiment.grid import read_grid
from fedknow_ray.experiment.planning import Choices, make_plan, write_plan

def kill_at_the_plan(source, target, replace=os.replace):
    if Path(target).name == "comparison.json":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

config, out = map(Path, sys.argv[1:])
os.replace = kill_at_the_plan
write_plan(out, make_plan(read_grid(config, ["fedavg"]), 1, Choices(seeds=1)), config.read_bytes())
"""


@pytest.mark.program
def test_a_comparison_killed_before_its_plan_is_there_starts_anew(tmp_path: Path):
    config, out = write_config(tmp_path), tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", KILLED, str(config), str(out)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    assert {path.name for path in out.iterdir()} == {"small.yaml", ".comparison.json.tmp"}
    assert earlier_plan(out, config) is None
    made = make_plan(read_grid(config, ["fedavg"]), 1, Choices(seeds=1))
    write_plan(out, made, config.read_bytes())
    assert earlier_plan(out, config) == made
    assert {path.name for path in out.iterdir()} == {"small.yaml", "comparison.json"}


def test_a_run_that_was_made_with_another_config_is_refused(tmp_path: Path):
    run_small(tmp_path, out="runs/fedavg/seed-1")
    config = write_config(tmp_path)
    grid = read_grid(config, ["fedavg"])
    folders = run_folders(tmp_path, make_plan(grid, 1, Choices(seeds=1)))
    run = RunId("fedavg", 1)
    refuse_other_configs(folders, {run: read_config(config)})
    with pytest.raises(RunDirectoryError, match=r"fedavg, seed 1: training.local_epochs is 1 there, 2 here"):
        refuse_other_configs(folders, {run: read_config(config, ["training.local_epochs=2"])})
