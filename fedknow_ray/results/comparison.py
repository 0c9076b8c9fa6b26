"""Opening a comparison: `load_comparison(path)` gives its plan, and the run of each case and seed.

A comparison is a folder with a plan, `comparison.json`, and one ordinary run directory for each case and seed. The plan
is there first; a run is finished if it has a summary, whatever else its directory holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.store import SUMMARY_FILE

PLAN_FILE = "comparison.json"
PLAN_VERSION = 1


class Case(BaseModel):
    """One line of a comparison: a method with its settings, run once for each seed."""

    model_config = ConfigDict(frozen=True)

    label: str = Field(min_length=1)
    method: str
    settings: dict[str, Any]
    """What is varied, by config key."""
    overrides: tuple[str, ...]
    """The whole difference from the config file, as "KEY=VALUE"."""
    runs: dict[int, str]
    """Run directories by seed, relative to the comparison's."""


class Plan(BaseModel):
    """What a comparison consists of, whether it has been run or not."""

    model_config = ConfigDict(frozen=True)

    schema_version: int
    name: str
    config: str
    seeds: tuple[int, ...] = Field(min_length=1)
    choosing_seeds: tuple[int, ...] = ()
    """Seeds on which each method's setting is chosen; they are in no reported figure."""
    baseline: str
    """The label of the case that the others are compared with."""
    command: str | None = None
    """The command line that made the comparison."""
    cases: tuple[Case, ...] = Field(min_length=1)

    @property
    def reporting_seeds(self) -> tuple[int, ...]:
        """The seeds that the figures come from: all but the choosing ones."""
        return tuple(seed for seed in self.seeds if seed not in self.choosing_seeds)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Plan:
        labels = [case.label for case in self.cases]
        if len(set(labels)) < len(labels):
            raise ValueError("two cases have the same label")
        if self.baseline not in labels:
            raise ValueError(f"the baseline {self.baseline!r} is not among the cases")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed is named twice among {list(self.seeds)}")
        if not self.reporting_seeds or not set(self.choosing_seeds) <= set(self.seeds):
            raise ValueError("choosing_seeds must be some of the seeds, and leave one to report on")
        strangers = {seed for case in self.cases for seed in case.runs} - set(self.seeds)
        outside = [run for case in self.cases for run in case.runs.values() if not _is_below(run)]
        if outside:
            raise ValueError(f"the run {outside[0]!r} is not below the comparison's folder")
        if strangers:
            raise ValueError(f"there are runs of seeds {sorted(strangers)}, which are not among the seeds")
        return self


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder and its plan; a run is opened when it is first asked for, and kept."""

    path: Path
    plan: Plan
    _opened: dict[Path, Run] = field(default_factory=dict, init=False, repr=False, compare=False)

    def is_finished(self, case: Case, seed: int) -> bool:
        """Return whether the run of a case and seed is there and finished."""
        return seed in case.runs and (self.path / case.runs[seed] / SUMMARY_FILE).is_file()

    def run(self, case: Case, seed: int) -> Run | None:
        """Return the finished run of a case and seed; None where it has not been made, or did not finish.

        Raises:
            RunDirectoryError: if the run says that it finished, and a file of it is missing or broken.
        """
        if not self.is_finished(case, seed):
            return None
        folder = self.path / case.runs[seed]
        if folder not in self._opened:
            self._opened[folder] = load(folder)
        return self._opened[folder]


def load_comparison(path: str | Path) -> Comparison:
    """Open the comparison in the folder *path*, finished or not.

    Raises:
        RunDirectoryError: if the folder is no comparison, or its plan is broken or of a newer version.
    """
    folder = Path(path)
    plan_path = folder / PLAN_FILE
    if not folder.is_dir():
        raise RunDirectoryError(f"{folder} is not a folder; name the directory of a comparison")
    if not plan_path.is_file():
        raise RunDirectoryError(f"{folder} is not a comparison: it has no {PLAN_FILE}")
    return Comparison(folder, _read_plan(plan_path))


def _read_plan(path: Path) -> Plan:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"cannot read {path}: {error}") from error
    version = plan.get("schema_version") if isinstance(plan, dict) else None
    if isinstance(version, int) and version > PLAN_VERSION:
        raise RunDirectoryError(
            f"{path} has schema version {version}, this program knows up to {PLAN_VERSION}; update fedknow-ray"
        )
    try:
        return Plan.model_validate(plan)
    except ValidationError as error:
        raise RunDirectoryError(f"{path} is no plan of a comparison:\n{_faults(error)}") from error


def _is_below(folder: str) -> bool:
    """Return whether a relative path says by itself that it stays below: runs that did not finish are deleted there."""
    path = PurePosixPath(folder)
    return not path.is_absolute() and bool(path.parts) and ".." not in path.parts and "\0" not in folder


def _faults(error: ValidationError) -> str:
    return "\n".join(f"  {'.'.join(map(str, fault['loc'])) or 'plan'}: {fault['msg']}" for fault in error.errors())
