"""Prints comparisons as the tables of docs/results/fedknow.md: a row a case, read from `comparison.parquet`.

python benchmarks/comparison_rows.py comparisons/mini [--figures own_gradient_norm,own_gradient_cosine]

Accuracy as mean and half of the 95 % interval; the difference to the case's baseline, paired over seeds, in points
with its interval, and in bold where it is a win or a loss. With --figures also the mean of figures that the method
notes of each visit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from fedknow_ray.results.comparison import Case, Comparison, load_comparison
from fedknow_ray.results.run import Run

Row = dict[str, Any]
MODELS = ("own", "global")


class Figures:
    """The rows of a comparison's table, by case, metric, model and task."""

    def __init__(self, path: Path) -> None:
        rows = pq.read_table(path).to_pylist()
        self._rows = {(row["case"], row["metric"], row["model"], row["task_index"]): row for row in rows}
        self.cases = list(dict.fromkeys(row["case"] for row in rows))
        self.baselines = {row["case"]: row["baseline"] for row in rows}
        self.tasks = 1 + max((row["task_index"] or 0 for row in rows), default=0)

    def row(self, case: str, metric: str, model: str | None = None, task: int | None = None) -> Row | None:
        """Return one row of the table, None if there is none."""
        return self._rows.get((case, metric, model, task))

    def mean(self, case: str, metric: str, model: str | None = None, task: int | None = None) -> float | None:
        """Return the mean over seeds."""
        row = self.row(case, metric, model, task)
        return None if row is None else float(row["mean"])


def interval(row: Row | None) -> str:
    """Return mean and half interval, .652 ± .010."""
    if row is None:
        return "-"
    half = "" if row["ci_low"] is None else f" ± {_share((row['ci_high'] - row['ci_low']) / 2)}"
    return f"{_share(row['mean'])}{half}"


def points(row: Row | None) -> str:
    """Return the difference to the case's baseline in points, bold where it is a win or a loss."""
    if row is None or row["difference"] is None:
        return "-"
    text = f"{100 * row['difference']:+.1f}"
    if row["difference_ci_low"] is not None:
        text += f" [{100 * row['difference_ci_low']:+.1f}, {100 * row['difference_ci_high']:+.1f}]"
    return f"**{text}**" if row["verdict"] in ("win", "loss") else text


def _share(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def accuracy_rows(figures: Figures) -> Iterator[list[str]]:
    """Yield the table of accuracy, forgetting and differences; a column names the baselines where they are several."""
    baselines = set(figures.baselines.values())
    several = len(baselines) > 1
    baseline = "the baseline" if several else "".join(baselines)
    yield [
        "case",
        "seeds",
        *(["baseline"] if several else []),
        *(f"{model}, after each task" for model in MODELS),
        *(f"{model}, at the end" for model in MODELS),
        *(f"{model}: points to {baseline}" for model in MODELS),
        *(f"forgetting, {model}" for model in MODELS),
    ]
    for case in figures.cases:
        ends = [figures.row(case, "average_accuracy", model) for model in MODELS]
        seeds = next((end["n"] for end in ends if end), 0)
        yield [
            case,
            str(seeds),
            *([figures.baselines[case]] if several else []),
            *(" ".join(_course(figures, case, model)) or "-" for model in MODELS),
            *map(interval, ends),
            *map(points, ends),
            *(interval(figures.row(case, "forgetting", model)) for model in MODELS),
        ]


def _course(figures: Figures, case: str, model: str) -> Iterator[str]:
    for task in range(figures.tasks):
        mean = figures.mean(case, "accuracy_after_task", model, task)
        if mean is not None:
            yield _share(mean)


def cost_rows(figures: Figures) -> Iterator[list[str]]:
    """Yield the table of costs; shares of violated steps and of clients that federation hurts where they are known."""
    yield [
        "case",
        "host CPU s a visit, by task",
        "host CPU s",
        "virtual s",
        "up + down, GB",
        "energy, kJ",
        "steps against a past task before, after, by task",
        "clients hurt",
    ]
    for case in figures.cases:
        transferred = [figures.mean(case, f"{way}_bytes") for way in ("upload", "download")]
        yield [
            case,
            " ".join(_by_task(figures, case, "host_cpu_s_per_visit", "{:.2f}")) or "-",
            *(_number(figures.mean(case, metric), "{:.0f}") for metric in ("host_cpu_s", "virtual_time_s")),
            _number(sum(value or 0.0 for value in transferred) / 1e9, "{:.2f}"),
            _number(figures.mean(case, "energy_j"), "{:.1f}", 1e-3),
            _violations(figures, case) or "-",
            _number(figures.mean(case, "negative_transfer_share", "own"), "{:.2f}"),
        ]


def _violations(figures: Figures, case: str) -> str:
    before, after = (list(_by_task(figures, case, f"violated_share_{when}", "{:.2f}")) for when in ("before", "after"))
    return f"{' '.join(before)}, {' '.join(after) or '-'}" if before else ""


def _by_task(figures: Figures, case: str, metric: str, form: str) -> Iterator[str]:
    for task in range(figures.tasks):
        mean = figures.mean(case, metric, None, task)
        if mean is not None:
            yield form.format(mean)


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def noted_rows(comparison: Comparison, names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the table of figures that the method notes of its visits: means over visits, then over seeds, by task."""
    yield ["case", *(f"{name}, by task" for name in names)]
    for case in comparison.plan.cases:
        yield [case.label, *(" ".join(_noted(comparison, case, name)) or "-" for name in names)]


def _noted(comparison: Comparison, case: Case, name: str) -> Iterator[str]:
    runs = [comparison.run(case, seed) for seed in comparison.plan.reporting_seeds]
    by_seed = [_noted_by_task(run, name) for run in runs if run is not None]
    for task in sorted({task for figures in by_seed for task in figures}):
        yield f"{fmean(figures[task] for figures in by_seed if task in figures):.3g}"


def _noted_by_task(run: Run, name: str) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for event in run.events.to_pylist():
        detail = json.loads(event["detail"]) if event["kind"] == "method_figures" else {}
        if name in detail:
            found.setdefault(detail["task_index"], []).append(detail[name])
    return {task: fmean(values) for task, values in found.items()}


def show(rows: Iterator[list[str]]) -> None:
    """Print rows as a Markdown table, the first as its head."""
    head, *body = rows
    for cells in (head, ["---"] * len(head), *body):
        print("| " + " | ".join(cells) + " |")
    print()


def main() -> None:
    """Print the tables of the folders on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--figures", default="", help="figures that the method notes, separated by commas")
    options = parser.parse_args()
    for folder in options.folders:
        figures = Figures(folder / "comparison.parquet")
        show(accuracy_rows(figures))
        show(cost_rows(figures))
        if options.figures:
            show(noted_rows(load_comparison(folder), options.figures.split(",")))


if __name__ == "__main__":
    main()
