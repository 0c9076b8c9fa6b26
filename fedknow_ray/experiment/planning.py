"""The plan of a comparison: from its options, and from the plan that its folder has already.

A plan only grows. Cases and seeds of an earlier call stay, and their configs are resolved again under the options of
this call: a run that has been made and does not have that config is refused, so that one table never mixes two configs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.differences import differences
from fedknow_ray.experiment.grid import Grid, RunId, run_folder
from fedknow_ray.results import load, write_atomically
from fedknow_ray.results.comparison import PLAN_FILE, PLAN_VERSION, Case, Plan, load_comparison
from fedknow_ray.results.store import SUMMARY_FILE, temporary_path

_MOST_SHOWN = 3

RunT = TypeVar("RunT")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a comparison does with its grid.

    *seeds* how many; *choose_on* so many of them choose the settings; *baseline* the label of a case or the name of a
    method; *command* what the plan notes as the command line. None stands for what the folder's plan says, or else for
    the default: no choosing, and fedavg if it is among the methods, else the first case.
    """

    seeds: int
    choose_on: int | None = None
    baseline: str | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that leave nothing to report.

        Raises:
            UserError: if a number is out of its bounds.
        """
        if self.seeds < 1:
            raise UserError(f"--seeds must be 1 or more, got {self.seeds}")
        if not 0 <= (self.choose_on or 0) < self.seeds:
            raise UserError(
                f"--choose-on must leave a seed to report on: 0 to {self.seeds - 1} with --seeds {self.seeds}, "
                f"got {self.choose_on}"
            )


def make_plan(grid: Grid, first_seed: int, choices: Choices, earlier: Plan | None = None) -> Plan:
    """Return what was planned before, under the sets of this grid, and what is asked for now behind it.

    Raises:
        UserError: if there is no such baseline.
    """
    asked = range(first_seed, first_seed + choices.seeds)
    old = {case.label: case for case in earlier.cases} if earlier else {}
    kept = {label: grid.case(label, case.method, case.settings, case.runs) for label, case in old.items()}
    cases = dict(kept)
    for case in grid.cases():
        runs = {seed: run_folder(case.label, seed) for seed in asked}
        before = old[case.label].runs if case.label in old else {}
        cases[case.label] = case.model_copy(update={"runs": {**before, **runs}})
    seeds = tuple(dict.fromkeys([*(earlier.seeds if earlier else ()), *asked]))
    keep_choosing = earlier is not None and choices.choose_on is None
    return Plan(
        schema_version=PLAN_VERSION,
        name=grid.config.stem,
        config=str(grid.config),
        seeds=seeds,
        choosing_seeds=earlier.choosing_seeds if earlier and keep_choosing else seeds[: choices.choose_on or 0],
        baseline=_baseline(list(cases.values()), choices.baseline, earlier),
        command=choices.command,
        cases=tuple(cases.values()),
    )


def earlier_plan(out: Path, config: Path) -> Plan | None:
    """Return the plan that a folder has; None if the folder is new or empty.

    So is one that has no more than what `write_plan` leaves of this config file when it is killed before the plan.

    Raises:
        RunDirectoryError: if something is there that is no comparison, or its plan cannot be read.
    """
    if (out / PLAN_FILE).exists():
        return load_comparison(out).plan
    if out.exists() and not (out.is_dir() and _is_empty(out, config)):
        raise RunDirectoryError(f"{out} is there and is no comparison; name a folder that is new or empty, or has one")
    return None


def _is_empty(out: Path, config: Path) -> bool:
    """Return whether nothing is in a folder but what was begun of the first plan in it."""
    copy = _copy_path(out, config.stem)
    begun = {copy, temporary_path(copy), temporary_path(out / PLAN_FILE)}
    # another file of that name is somebody's own
    return set(out.iterdir()) <= begun and (not copy.exists() or copy.read_bytes() == config.read_bytes())


def write_plan(out: Path, plan: Plan, config: bytes) -> Path:
    """Write the plan, and before it the config file's text, from which all runs are made; return the latter's path.

    So a run that starts in an hour has the config of now, whatever becomes of the file until then.

    Raises:
        RunDirectoryError: if a file cannot be written.
    """
    path = _copy_path(out, plan.name)
    write_atomically(path, config)
    text = json.dumps(plan.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_atomically(out / PLAN_FILE, f"{text}\n".encode())
    return path


def _copy_path(out: Path, name: str) -> Path:
    return out / f"{name}.yaml"


def run_folders(out: Path, plan: Plan) -> dict[RunId, Path]:
    """Return the directory of each planned run."""
    return {RunId(case.label, seed): out / folder for case in plan.cases for seed, folder in sorted(case.runs.items())}


def is_made(folder: Path) -> bool:
    """Return whether a run directory holds a finished run."""
    return (folder / SUMMARY_FILE).is_file()


def refuse_other_configs(folders: Mapping[RunT, Path], configs: Mapping[RunT, RunConfig]) -> None:
    """Refuse to mix runs of this plan with runs that were made with another config.

    Raises:
        RunDirectoryError: with the runs that differ, and in which keys.
    """
    differing = {
        run: [
            f"{key} is {there} there, {here} here"
            for key, there, here in differences(load(folders[run]).config, config.to_dict(), absent="absent")
        ]
        for run, config in configs.items()
        if is_made(folders[run])
    }
    lines = [f"  {run}: {'; '.join(found[:_MOST_SHOWN])}" for run, found in differing.items() if found]
    if lines:
        more = [f"  and {len(lines) - _MOST_SHOWN} more"] if len(lines) > _MOST_SHOWN else []
        told = "\n".join(["runs that are there were made with another config:", *lines[:_MOST_SHOWN], *more])
        raise RunDirectoryError(f"{told}\ngive the config and the --set of the first call, or another --out")


def _baseline(cases: Sequence[Case], asked: str | None, earlier: Plan | None) -> str:
    if asked is None and earlier is not None:
        return earlier.baseline
    name = "fedavg" if asked is None else asked
    named = [case.label for case in cases if case.label == name] + [case.label for case in cases if case.method == name]
    if not named and asked is not None:
        labels = "\n".join(f"  {case.label}" for case in cases)
        raise UserError(f"the baseline {asked!r} is no method and no case of this comparison; its cases are\n{labels}")
    return named[0] if named else cases[0].label
