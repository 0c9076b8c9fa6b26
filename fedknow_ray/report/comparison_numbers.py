"""A comparison as plain numbers: what each case measured with each seed, its mean and interval, and what it beats.

Settings are chosen on the choosing seeds, and every figure is from the others: the best of many noisy settings looks
better on the seeds that made it the best than on any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa

from fedknow_ray.metrics.intervals import Difference, Interval, mean_interval, paired_difference
from fedknow_ray.report.comparison_measures import METRICS, Measure, measures_of, transfer_measures
from fedknow_ray.results.comparison import Case, Comparison, Plan

Values = Mapping[int, float]
"""A figure by seed, the seeds ascending."""

CHOICE = Measure("average_accuracy", "own")
"""The figure that decides which setting of a method is chosen."""


@dataclass(frozen=True)
class ComparisonNumbers:
    """Every figure of a comparison, on the reporting seeds."""

    comparison: Comparison
    measured: Mapping[str, Mapping[Measure, Values]]
    """By label of the case, in the plan's order; a figure without any value is not in it."""
    baselines: Mapping[str, str]
    """By label of the case, that of the one which it is compared with: see `baselines`."""
    chosen: frozenset[str]
    """Labels of the chosen settings, one of each of the plan's `alternatives`; none where a choosing run is missing,
    and none at all without choosing seeds."""
    missing: tuple[tuple[str, int], ...]
    """(label, seed) of each run that is planned and has not finished, choosing seeds too."""

    @property
    def plan(self) -> Plan:
        """The comparison's plan."""
        return self.comparison.plan

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the cases, in the plan's order."""
        return tuple(self.measured)

    @property
    def planned_runs(self) -> int:
        """How many runs the plan has, of all seeds."""
        return sum(len(case.runs) for case in self.plan.cases)

    @property
    def never_planned(self) -> tuple[tuple[str, int], ...]:
        """(label, seed) of each run on a choosing seed that was never asked for, as by a call from a later seed up."""
        plan = self.plan
        return tuple((case.label, seed) for case in plan.cases for seed in plan.choosing_seeds if seed not in case.runs)

    def values(self, label: str, measure: Measure) -> Values:
        """Return a figure of a case by seed; empty where none is known."""
        return self.measured[label].get(measure, {})

    def interval(self, label: str, measure: Measure) -> Interval | None:
        """Return a figure's mean over the seeds with its interval; None where none is known."""
        values = self.values(label, measure)
        return mean_interval(list(values.values())) if values else None

    @property
    def one_baseline(self) -> str | None:
        """The baseline of every case; None where they have several."""
        found = set(self.baselines.values())
        return found.pop() if len(found) == 1 else None

    def difference(self, label: str, measure: Measure, baseline: str | None = None) -> Difference | None:
        """Return what a case has more than *baseline* (its own, if None); None against itself, or with no pair."""
        other = self.baselines[label] if baseline is None else baseline
        if label == other:
            return None
        better = METRICS[measure.metric].higher_is_better
        return paired_difference(self.values(label, measure), self.values(other, measure), higher_is_better=better)

    def measures(self, metric: str) -> list[Measure]:
        """Return the figures of a metric that any case has, in order of model (own first) and task."""
        found = {measure for of_case in self.measured.values() for measure in of_case if measure.metric == metric}
        return sorted(found, key=_place)

    def tasks(self, metric: str, model: str | None = None) -> list[int]:
        """Return the tasks for which any case has a figure of this metric and model, ascending."""
        return [m.task_index for m in self.measures(metric) if m.model == model and m.task_index is not None]


def compute(comparison: Comparison) -> ComparisonNumbers:
    """Read every finished run and return the comparison's numbers.

    Raises:
        RunDirectoryError: if a run that says that it finished cannot be read.
    """
    plan = comparison.plan
    everything = {case.label: _measure(comparison, case) for case in plan.cases}
    missing = [
        (case.label, seed)
        for case in plan.cases
        for seed in sorted(case.runs)
        if not comparison.is_finished(case, seed)
    ]
    return ComparisonNumbers(
        comparison=comparison,
        measured={label: _by_measure(of_case, plan.reporting_seeds) for label, of_case in everything.items()},
        baselines=baselines(plan),
        chosen=_chosen(plan, everything),
        missing=tuple(missing),
    )


def baselines(plan: Plan) -> dict[str, str]:
    """Return which case each one is compared with, by label.

    That is the counterpart of the plan's baseline: its method with its `method.*` settings, and all other settings as
    the case has them, so that the difference of two methods is never the work of another precision or model. Where the
    plan has no such case, it is the plan's baseline itself, as it is for the counterparts: what another precision or
    model does to the baseline's method is their difference.
    """
    chief = next(case for case in plan.cases if case.label == plan.baseline)
    alike = [case for case in plan.cases if case.method == chief.method and _of_method(case) == _of_method(chief)]

    def counterpart(case: Case) -> Case:
        return next((other for other in alike if _beside_method(other) == _beside_method(case)), chief)

    return {case.label: (chief if case in alike else counterpart(case)).label for case in plan.cases}


def _measure(comparison: Comparison, case: Case) -> dict[int, dict[Measure, float]]:
    """Return what each finished run of a case measured, by seed."""
    alone = _case_without_federation(comparison.plan, case)
    found = {}
    for seed in comparison.plan.seeds:
        run = comparison.run(case, seed)
        if run is None:
            continue
        found[seed] = measures_of(run)
        run_alone = comparison.run(alone, seed) if alone else None
        if run_alone is not None:
            found[seed] |= transfer_measures(run.accuracy, run_alone.accuracy)
    return found


def _case_without_federation(plan: Plan, case: Case) -> Case | None:
    """Return the `local` case that differs from this one in its method alone; None for `local` itself."""
    if case.method == "local":
        return None
    others = (other for other in plan.cases if other.method == "local")
    return next((other for other in others if _beside_method(other) == _beside_method(case)), None)


def alternatives(plan: Plan) -> list[list[Case]]:
    """Return the cases in groups, in the plan's order: of one method, with equal settings beside the method's.

    One setting of each group can be chosen. Another precision or model is no setting to choose, but another question.
    """
    groups: list[list[Case]] = []
    for case in plan.cases:
        alike = (
            group
            for group in groups
            if group[0].method == case.method and _beside_method(group[0]) == _beside_method(case)
        )
        if group := next(alike, None):
            group.append(case)
        else:
            groups.append([case])
    return groups


def _of_method(case: Case) -> dict[str, Any]:
    return {key: value for key, value in case.settings.items() if key.partition(".")[0] == "method"}


def _beside_method(case: Case) -> dict[str, Any]:
    return {key: value for key, value in case.settings.items() if key.partition(".")[0] != "method"}


def _by_measure(of_case: Mapping[int, Mapping[Measure, float]], seeds: tuple[int, ...]) -> dict[Measure, Values]:
    """Turn {seed: {measure: value}} round, for the given seeds, in the order of the table."""
    known = {measure for seed in seeds for measure in of_case.get(seed, {})}
    return {
        measure: {seed: of_case[seed][measure] for seed in sorted(seeds) if measure in of_case.get(seed, {})}
        for measure in sorted(known, key=_place)
    }


def _place(measure: Measure) -> tuple[int, str, int]:
    model = {"own": "0", "global": "1"}.get(measure.model or "", measure.model or "")
    return list(METRICS).index(measure.metric), model, -1 if measure.task_index is None else measure.task_index


def _chosen(plan: Plan, everything: Mapping[str, Mapping[int, Mapping[Measure, float]]]) -> frozenset[str]:
    """Return the best of each of the plan's alternatives on the choosing seeds; the first of equals.

    Where a choosing run is missing there is none yet: settings are compared on the same seeds or not at all.
    """
    chosen = []
    for group in alternatives(plan) if plan.choosing_seeds else ():
        scores = {
            case.label: [everything[case.label].get(seed, {}).get(CHOICE) for seed in plan.choosing_seeds]
            for case in group
        }
        known = {label: [score for score in of_case if score is not None] for label, of_case in scores.items()}
        if all(len(known[label]) == len(scores[label]) for label in scores):
            chosen.append(max(known, key=lambda label: fmean(known[label])))
    return frozenset(chosen)


_REAL = pa.float64()
TABLE = pa.schema(
    [
        pa.field("case", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("task_index", pa.int32()),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("n", pa.int32(), nullable=False),
        pa.field("mean", _REAL, nullable=False),
        pa.field("ci_low", _REAL),
        pa.field("ci_high", _REAL),
        pa.field("values", pa.list_(pa.field("element", _REAL, nullable=False)), nullable=False),
        pa.field("seeds", pa.list_(pa.field("element", pa.int64(), nullable=False)), nullable=False),
        pa.field("baseline", pa.string(), nullable=False),
        pa.field("difference", _REAL),
        pa.field("difference_ci_low", _REAL),
        pa.field("difference_ci_high", _REAL),
        pa.field("verdict", pa.string()),
        pa.field("chosen", pa.bool_(), nullable=False),
    ],
    metadata={b"fedknow_ray.table": b"comparison", b"fedknow_ray.schema_version": b"1"},
)
"""One row for each case and figure that any seed has; `difference` is null for a baseline and without a pair."""


def comparison_table(numbers: ComparisonNumbers) -> pa.Table:
    """Return the one table of a comparison, with the columns of `TABLE`, in the order of cases and metrics."""
    rows = [_row(numbers, case, measure) for case in numbers.plan.cases for measure in numbers.measured[case.label]]
    return pa.Table.from_pylist(rows, schema=TABLE)


def _row(numbers: ComparisonNumbers, case: Case, measure: Measure) -> dict[str, Any]:
    values = numbers.values(case.label, measure)
    return {
        "case": case.label,
        "method": case.method,
        **measure._asdict(),
        "unit": METRICS[measure.metric].unit,
        **figures(numbers, case.label, measure),
        "values": list(values.values()),
        "seeds": list(values),
        "baseline": numbers.baselines[case.label],
        "chosen": case.label in numbers.chosen,
    }


def figures(numbers: ComparisonNumbers, label: str, measure: Measure) -> dict[str, Any]:
    """Return a figure that is known as plain values: n, mean, interval, and the difference to the baseline."""
    interval = mean_interval(list(numbers.values(label, measure).values()))
    difference = numbers.difference(label, measure)
    against = difference.interval if difference else None
    return {
        "n": interval.n,
        "mean": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "difference": against.mean if against else None,
        "difference_ci_low": against.low if against else None,
        "difference_ci_high": against.high if against else None,
        "verdict": difference.verdict if difference else None,
    }


def summary(numbers: ComparisonNumbers) -> dict[str, Any]:
    """Return what `fedknow-ray compare --json` prints: the cases with every figure that is of a whole run.

    JSON values only; figures as in `figures`, by metric and then model, with "run" for what is of no model.
    """
    plan = numbers.plan
    planned, missing = numbers.planned_runs, len(numbers.missing)
    return {
        "name": plan.name,
        "config": plan.config,
        "directory": str(numbers.comparison.path),
        "seeds": list(plan.seeds),
        "choosing_seeds": list(plan.choosing_seeds),
        "reporting_seeds": list(plan.reporting_seeds),
        "baseline": plan.baseline,
        "runs": {"planned": planned, "finished": planned - missing, "missing": missing},
        "cases": [_case_summary(numbers, case) for case in plan.cases],
    }


def _case_summary(numbers: ComparisonNumbers, case: Case) -> dict[str, Any]:
    metrics: dict[str, dict[str, Any]] = {}
    for measure in numbers.measured[case.label]:
        if measure.task_index is None:
            metrics.setdefault(measure.metric, {})[measure.model or "run"] = figures(numbers, case.label, measure)
    return {
        "label": case.label,
        "method": case.method,
        "settings": case.settings,
        "baseline": numbers.baselines[case.label],
        "chosen": case.label in numbers.chosen,
        "missing_seeds": [seed for label, seed in numbers.missing if label == case.label],
        "metrics": metrics,
    }
