"""The page of a comparison: what beats what, by how much, and how sure that is."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from html import escape

from fedknow_ray.metrics.intervals import FEWEST_SEEDS_FOR_VERDICT, Verdict
from fedknow_ray.report.comparison_figures import MOST_BANDS, learning_against_forgetting, lines_over_tasks
from fedknow_ray.report.comparison_numbers import CHOICE, ComparisonNumbers, alternatives
from fedknow_ray.report.comparison_tables import (
    cost_table,
    forgetting_table,
    legend,
    pair_matrix,
    seed_table,
    summary_table,
    task_table,
    transfer_table,
)
from fedknow_ray.report.document import Plot, Section, banner, folded, render_document
from fedknow_ray.report.numbers import MODELS
from fedknow_ray.report.tables import html_table
from fedknow_ray.results.comparison import Case

_NO_RUN = "No run has finished yet."


def render_comparison(numbers: ComparisonNumbers) -> str:
    """Return the page as one HTML document (about 5 MB, nearly all of it plotly.js)."""
    plan = numbers.plan
    sections = [
        _summary(numbers),
        _curves(numbers),
        _forgetting(numbers),
        _tasks(numbers),
        _costs(numbers),
        _pairs(numbers),
        *_integration(numbers),
        *_transfer(numbers),
        *_missing(numbers),
    ]
    return render_document(
        kind="Comparison",
        title=plan.name,
        subtitle=f"{plan.config} · {_many(len(plan.cases), 'case')} · {_seeds(numbers)}",
        opening=_warnings(numbers),
        sections=sections,
        closing=_origin(numbers),
    )


def _seeds(numbers: ComparisonNumbers) -> str:
    plan = numbers.plan
    reported = _named(plan.reporting_seeds)
    return (
        f"settings chosen on {_named(plan.choosing_seeds)}, reported on {reported}" if plan.choosing_seeds else reported
    )


def _warnings(numbers: ComparisonNumbers) -> str:
    """Return what limits every figure on the page, as banners."""
    plan = numbers.plan
    groups = alternatives(plan)
    varied = [group[0].method for group in groups if len(group) > 1]
    said = []
    if numbers.missing:
        said.append(
            f"<strong>{len(numbers.missing)} of {numbers.planned_runs} runs are missing.</strong> "
            "The figures are of the others; the missing ones are listed below."
        )
    if len(plan.reporting_seeds) < FEWEST_SEEDS_FOR_VERDICT:
        said.append(
            f"<strong>{_many(len(plan.reporting_seeds), 'seed')}.</strong> A difference is called a win or a loss from "
            f"{FEWEST_SEEDS_FOR_VERDICT} seeds up."
        )
    if varied and not plan.choosing_seeds:
        said.append(
            "<strong>No seeds were set aside to choose settings on.</strong> Whoever picks the best of the "
            f"{max(map(len, groups))} settings of {escape(', '.join(dict.fromkeys(varied)))} picks it on the seeds "
            "that are reported here, where it looks better than it is."
        )
    unsettled = dict.fromkeys(group[0].method for group in groups if not _has_choice(numbers, group))
    if unsettled and plan.choosing_seeds:
        said.append(
            f"<strong>Not chosen yet</strong>, for want of runs: the setting of {escape(', '.join(unsettled))}. "
            "The runs are listed below."
        )
    return "".join(map(banner, said))


def _has_choice(numbers: ComparisonNumbers, group: Sequence[Case]) -> bool:
    return any(case.label in numbers.chosen for case in group)


def _summary(numbers: ComparisonNumbers) -> Section:
    verdicts = Counter(d.verdict for label in numbers.labels if (d := numbers.difference(label, CHOICE)))
    counts = ", ".join(f"{verdicts[v]} {name}" for v, name in _VERDICT_NAMES.items() if verdicts[v]) or "nothing yet"
    text = (
        f"In average accuracy of the own model {_against(numbers)}: {counts}. A difference is taken seed by seed; "
        f"from {FEWEST_SEEDS_FOR_VERDICT} seeds up it is a win or a loss if its 95 % interval (Student's t) excludes "
        "0. Differences are in points of accuracy."
    )
    if numbers.plan.choosing_seeds:
        text += (
            " <em>Chosen</em> marks the setting of each method that had the best average accuracy of the own model on "
            "the choosing seeds, which are in no figure of this page; one for each combination of other settings."
        )
    return Section("What beats what", text, below=summary_table(numbers))


def _against(numbers: ComparisonNumbers) -> str:
    if numbers.one_baseline is not None:
        return f"against <strong>{escape(numbers.one_baseline)}</strong>"
    return (
        "of each case against its baseline, which is the counterpart of "
        f"<strong>{escape(numbers.plan.baseline)}</strong> with the same settings beside the method's, or "
        "where there is none, and for a counterpart, that case itself"
    )


_VERDICT_NAMES: dict[Verdict | None, str] = {
    "win": "better",
    "loss": "worse",
    "no difference shown": "with no difference shown",
}


def _curves(numbers: ComparisonNumbers) -> Section:
    return Section(
        "Accuracy after each task",
        "Mean accuracy on all tasks learnt so far. The own model is the client's; the global model is the aggregated "
        "parameters under the client's head.",
        _line_plots(numbers, "accuracy_after_task", "average accuracy"),
        above=legend(numbers),
    )


def _line_plots(numbers: ComparisonNumbers, metric: str, y_title: str) -> tuple[Plot, ...]:
    plots = []
    for model in MODELS:
        known = bool(numbers.tasks(metric, model))
        figure = lines_over_tasks(
            numbers, metric, model, x_title="tasks learnt", y_title=y_title, share=True, from_zero=False
        )
        name = f"{metric.replace('_', '-')}-{model}"
        missing = f"No run has scores of the {model} model."
        plots.append(
            Plot(name, f"{model.capitalize()} model", _band_text(numbers), figure if known else None, missing, 400)
        )
    return tuple(plots)


def _band_text(numbers: ComparisonNumbers) -> str:
    where = "as bands" if len(numbers.labels) <= MOST_BANDS else "at the pointer"
    return f"Lines: mean over the seeds. The 95 % interval of the mean is shown {where}."


def _forgetting(numbers: ComparisonNumbers) -> Section:
    plots = tuple(
        Plot(
            f"learning-against-forgetting-{model}",
            f"{model.capitalize()} model",
            "To the right: learns each task better. Down: keeps it better. Bars are 95 % intervals.",
            learning_against_forgetting(numbers, model) if numbers.measures("forgetting") else None,
            "With a single task nothing can be forgotten.",
        )
        for model in MODELS
    )
    return Section(
        "Learning and forgetting",
        "Forgetting is the best earlier accuracy on a past task minus the final one, as in most of the literature; "
        "relative forgetting is the loss since the task was learnt, as a share of what was learnt, as in the paper. "
        "Backward transfer is the final accuracy minus that right after learning. Means over past tasks.",
        plots,
        forgetting_table(numbers),
        legend(numbers, repeated=True),
    )


def _tasks(numbers: ComparisonNumbers) -> Section:
    tables = [task_table(numbers, model) for model in MODELS if numbers.tasks("accuracy_on_task", model)]
    text = "What is left of each task when all have been learnt; tasks are numbered in the order of learning."
    return Section("Accuracy on each task at the end", text if tables else _NO_RUN, below="".join(tables))


def _costs(numbers: ComparisonNumbers) -> Section:
    known = bool(numbers.tasks("host_cpu_s_per_visit"))
    plot = Plot(
        "host-cpu-per-visit",
        "Host CPU seconds of one training visit, task by task",
        f"A rising line is a method that costs more with each past task. {_band_text(numbers)}",
        lines_over_tasks(
            numbers, "host_cpu_s_per_visit", None, x_title="task", y_title="CPU seconds a visit", share=False
        )
        if known
        else None,
        _NO_RUN,
    )
    return Section(
        "Costs",
        "Bytes are of all clients together, counted on the encoded payloads. Virtual time and energy are those of the "
        "emulated devices; host time is what the simulation took, added up over the visits.",
        (plot,),
        cost_table(numbers),
        legend(numbers, repeated=True),
    )


def _pairs(numbers: ComparisonNumbers) -> Section:
    tables = [pair_matrix(numbers, model) for model in MODELS if numbers.measures("average_accuracy")]
    text = (
        "Every case against every other, with its colour by the verdict: the row wins, loses, or no difference is "
        "shown. Intervals stand at the pointer. Each verdict stands alone: of twenty pairs that do not differ one is "
        "expected to look as if it did."
    )
    folded_seeds = f"<details><summary>Values of each seed</summary>{seed_table(numbers)}</details>"
    return Section("All pairs", text, below="".join(tables) + folded_seeds)


def _integration(numbers: ComparisonNumbers) -> list[Section]:
    metrics = {
        "violated_share_before": ("Before the change", "Steps whose gradient pointed against a past task's."),
        "violated_share_after": ("After the optimizer's step", "Steps whose update still did."),
    }
    plots = tuple(
        Plot(
            metric.replace("_", "-"),
            title,
            f"{caption} {_band_text(numbers)}",
            lines_over_tasks(numbers, metric, None, x_title="task", y_title="share of checked steps", share=True),
        )
        for metric, (title, caption) in metrics.items()
        if numbers.tasks(metric)
    )
    if not plots:
        return []
    text = "Of the training steps whose gradient was checked against those of past tasks, how many went against one."
    return [Section("Gradient integration", text, plots, above=legend(numbers, repeated=True))]


def _transfer(numbers: ComparisonNumbers) -> list[Section]:
    if not numbers.measures("negative_transfer_share"):
        return []
    text = (
        "Clients whose own model ends less accurate than with <code>local</code>, the same data and the same seed, "
        "where every client learns alone. Forward transfer is what later tasks gain over that, right after learning."
    )
    return [Section("Transfer", text, below=transfer_table(numbers))]


def _missing(numbers: ComparisonNumbers) -> list[Section]:
    text, tables = [], []
    if numbers.missing:
        text.append("The same command again makes these and no other. Until then the means above are of fewer seeds.")
        tables.append(_run_table("Runs that have not finished", numbers.missing))
    if numbers.never_planned:
        text.append(
            "Choosing seeds that a case was never run on: a command for the case with these seeds makes the runs, and "
            "until then no setting of its method is chosen."
        )
        tables.append(_run_table("Runs on choosing seeds that were never asked for", numbers.never_planned))
    return [Section("Missing runs", " ".join(text), below="".join(tables))] if tables else []


def _run_table(caption: str, runs: Sequence[tuple[str, int]]) -> str:
    seeds: dict[str, list[int]] = {}
    for label, seed in runs:
        seeds.setdefault(label, []).append(seed)
    rows = [[label, _listed(of_case)] for label, of_case in seeds.items()]
    return html_table(caption, ["case", "seeds"], rows, words=True)


def _origin(numbers: ComparisonNumbers) -> str:
    plan = numbers.plan
    rows = [[case.label, " ".join(_settings(case.overrides))] for case in plan.cases]
    table = html_table(
        f"Each case is fedknow-ray run {plan.config} with these, and --set seed=N",
        ["case", "options"],
        rows,
        words=True,
    )
    command = f"<p>Made by <code>{escape(plan.command)}</code></p>" if plan.command else ""
    text = json.dumps(plan.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return (
        f"<section aria-labelledby='origin'><h2 id='origin'>How it was made</h2>{command}{table}"
        f"{folded('The plan, comparison.json', text)}</section>"
    )


def _settings(overrides: tuple[str, ...]) -> list[str]:
    return [f"--set {shlex.quote(override)}" for override in overrides]


def _many(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _named(seeds: tuple[int, ...]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {_listed(seeds)}"


def _listed(seeds: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, seeds))
