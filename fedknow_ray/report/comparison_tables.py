"""The HTML tables of a comparison, with their verdicts coloured and their intervals drawn.

Colour never stands alone: a verdict is written out or has its sign beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from statistics import fmean

from fedknow_ray.metrics.intervals import Difference, Interval
from fedknow_ray.report.comparison_figures import SVG_DASHES, case_style
from fedknow_ray.report.comparison_measures import COSTS, Measure
from fedknow_ray.report.comparison_numbers import CHOICE, ComparisonNumbers
from fedknow_ray.report.numbers import MODELS
from fedknow_ray.report.tables import UNKNOWN, format_energy
from fedknow_ray.units import format_bytes, format_duration

_NO_FIGURE = "<td class='none'>–</td>"
_STRIP_PX = 132
# Above this the legend of every section would be longer than its plots.
MOST_LABELS_REPEATED = 8
_FORMATS: dict[str, Callable[[float], str]] = {
    "upload_bytes": format_bytes,
    "download_bytes": format_bytes,
    "virtual_time_s": format_duration,
    "energy_j": format_energy,
    "peak_memory_bytes": format_bytes,
    "kept_bytes": format_bytes,
    "host_cpu_s": format_duration,
    "wall_s": format_duration,
}
_COST_NAMES = (
    "uploaded",
    "downloaded",
    "virtual time",
    "energy",
    "most memory of a client",
    "kept a client of past tasks",
    "host CPU time",
    "host wall time",
)


def case_key(numbers: ComparisonNumbers, label: str) -> str:
    """Return a case's number, its line as the plots draw it, and its label, as HTML."""
    return f"{_line_key(numbers.labels.index(label))} {escape(label)}"


def _line_key(number: int) -> str:
    colour, dash = case_style(number)
    return (
        f"<svg class='key' viewBox='0 0 24 10' style='color:var(--{colour})' aria-hidden='true'>"
        f"<path d='M0 5H24' stroke-dasharray='{SVG_DASHES[dash]}'/></svg><span class='number'>{number + 1}</span>"
    )


def legend(numbers: ComparisonNumbers, *, repeated: bool = False) -> str:
    """Return the legend of the plots below it: a button for each case, which shows or hides it in all plots.

    *repeated*: the page has said the labels before, so that many cases have only their numbers here.
    """
    brief = repeated and len(numbers.labels) > MOST_LABELS_REPEATED
    buttons = "".join(
        f"<button type='button' data-case='{number}' aria-pressed='true' title='{escape(label)}'>"
        f"{_line_key(number) if brief else case_key(numbers, label)}</button>"
        for number, label in enumerate(numbers.labels)
    )
    return f"<div class='legend' role='group' aria-label='Cases shown in the plots'>{buttons}</div>"


def summary_table(numbers: ComparisonNumbers) -> str:
    """Return each case's accuracy and forgetting, and what its accuracy differs from the baseline's by."""
    several = numbers.one_baseline is None
    head = ["case", "seeds"]
    head += [f"{name}, {model}" for name in ("average accuracy", "forgetting") for model in MODELS]
    head += ["baseline"] if several else []
    head += [f"accuracy against the baseline, {model}" for model in MODELS]
    reaches = [_reach(numbers, Measure("average_accuracy", model)) for model in MODELS]
    widest = max([*reaches, 0.001])
    rows = []
    for label in numbers.labels:
        cells = [f"<td>{len(numbers.values(label, CHOICE))}</td>"]
        cells += [_share_cell(numbers.interval(label, Measure("average_accuracy", model))) for model in MODELS]
        cells += [_share_cell(numbers.interval(label, Measure("forgetting", model))) for model in MODELS]
        cells += [f"<td>{_line_key(numbers.labels.index(numbers.baselines[label]))}</td>"] if several else []
        cells += [_against_cell(numbers, label, Measure("average_accuracy", model), widest) for model in MODELS]
        rows.append((label, cells))
    return _table(numbers, "Each case, mean over the seeds with its 95 % interval", head, rows)


def forgetting_table(numbers: ComparisonNumbers) -> str:
    """Return what is learnt and lost by every definition, with the verdict on each."""
    metrics = {
        "learnt_accuracy": "right after learning",
        "forgetting": "forgetting",
        "forgetting_relative": "relative forgetting",
        "backward_transfer": "backward transfer",
    }
    columns = [(metric, model) for metric in metrics for model in MODELS]
    head = ["case", *(f"{metrics[metric]}, {model}" for metric, model in columns)]
    rows = [
        (label, [_judged_cell(numbers, label, Measure(metric, model)) for metric, model in columns])
        for label in numbers.labels
    ]
    return _table(numbers, "Learning and forgetting; below each figure the difference to the baseline", head, rows)


def task_table(numbers: ComparisonNumbers, model: str) -> str:
    """Return the final accuracy on each task as a table shaded by accuracy."""
    tasks = numbers.tasks("accuracy_on_task", model)
    known = [
        interval.mean
        for label in numbers.labels
        for task in tasks
        if (interval := numbers.interval(label, Measure("accuracy_on_task", model, task)))
    ]
    lowest, highest = min(known, default=0.0), max(known, default=1.0)
    rows = [
        (
            label,
            [
                _shaded_cell(numbers.interval(label, Measure("accuracy_on_task", model, t)), lowest, highest)
                for t in tasks
            ],
        )
        for label in numbers.labels
    ]
    head = ["case", *(f"task {task + 1}" for task in tasks)]
    return _table(numbers, f"Accuracy on each task at the end, {model} model", head, rows)


def cost_table(numbers: ComparisonNumbers) -> str:
    """Return what each case costs, and how many times the baseline's cost that is."""
    rows = [(label, [_cost_cell(numbers, label, cost) for cost in COSTS]) for label in numbers.labels]
    return _table(numbers, "Costs of a run, with the ratio to the baseline", ["case", *_COST_NAMES], rows)


def pair_matrix(numbers: ComparisonNumbers, model: str) -> str:
    """Return the paired difference of average accuracy of each case (row) over each other one (column), in points."""
    measure = Measure("average_accuracy", model)
    labels = [label for label in numbers.labels if numbers.values(label, measure)]
    rows = [
        (
            label,
            [
                _NO_FIGURE if label == other else _pair_cell(numbers.difference(label, measure, other))
                for other in labels
            ],
        )
        for label in labels
    ]
    head = ["case", *(str(numbers.labels.index(label) + 1) for label in labels)]
    return _table(numbers, f"Row minus column in points of average accuracy, {model} model", head, rows, "pairs")


def transfer_table(numbers: ComparisonNumbers) -> str:
    """Return whom federation hurts and what it gives, for the cases that can be compared with learning alone."""
    forward = Measure("forward_transfer", "own")
    share, loss = Measure("negative_transfer_share", "own"), Measure("negative_transfer_mean", "own")
    rows = [
        (
            label,
            [
                _judged_cell(numbers, label, share),
                _share_cell(numbers.interval(label, loss)),
                _judged_cell(numbers, label, forward),
            ],
        )
        for label in numbers.labels
        if numbers.values(label, share)
    ]
    head = [
        "case",
        "clients that federation hurts",
        "accuracy that they lose, mean over all clients",
        "forward transfer",
    ]
    return _table(numbers, "Against the same clients that learn alone", head, rows)


def seed_table(numbers: ComparisonNumbers) -> str:
    """Return average accuracy seed by seed: the values that the means are of."""
    seeds = numbers.plan.reporting_seeds
    rows = []
    for label in numbers.labels:
        by_model = [numbers.values(label, Measure("average_accuracy", model)) for model in MODELS]
        cells = [f"<td>{_percent(values[s])}</td>" if s in values else _NO_FIGURE for values in by_model for s in seeds]
        rows.append((label, cells))
    head = ["case", *(f"seed {seed}, {model}" for model in MODELS for seed in seeds)]
    return _table(numbers, "Average accuracy with each seed", head, rows)


def _table(
    numbers: ComparisonNumbers,
    caption: str,
    head: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    style: str = "",
) -> str:
    """Return a table of cases; *rows* are a label and its cells, which are HTML."""
    head_html = "".join(f"<th scope='col'>{escape(text)}</th>" for text in head)
    body_html = "".join(f"<tr>{_case_heading(numbers, label)}{''.join(cells)}</tr>" for label, cells in rows)
    return (
        f"<div class='scroll' tabindex='0'><table class='cases {style}'><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head_html}</tr></thead><tbody>{body_html}</tbody></table></div>"
    )


def _case_heading(numbers: ComparisonNumbers, label: str) -> str:
    tags = ["baseline"] if label == numbers.baselines[label] else []
    tags += ["chosen"] if label in numbers.chosen else []
    tag_html = "".join(f" <span class='tag'>{tag}</span>" for tag in tags)
    return f"<th scope='row'>{case_key(numbers, label)}{tag_html}</th>"


def _share_cell(interval: Interval | None) -> str:
    return _NO_FIGURE if interval is None else f"<td>{_percent(interval.mean)}{_plus_minus(interval)}</td>"


def _plus_minus(interval: Interval) -> str:
    return "" if interval.high is None else f"<small>±{100 * (interval.high - interval.mean):.1f}</small>"


def _shaded_cell(interval: Interval | None, lowest: float, highest: float) -> str:
    if interval is None:
        return _NO_FIGURE
    place = (interval.mean - lowest) / (highest - lowest) if highest > lowest else 0.5
    return (
        f"<td class='shaded' style='--place:{100 * place:.0f}%'>{_percent(interval.mean)}{_plus_minus(interval)}</td>"
    )


def _judged_cell(numbers: ComparisonNumbers, label: str, measure: Measure) -> str:
    """Return a share, and below it the difference to the baseline in the colour of the verdict."""
    interval, difference = numbers.interval(label, measure), numbers.difference(label, measure)
    if interval is None:
        return _NO_FIGURE
    below = "" if difference is None else f"<br>{_verdict(difference, _judged(difference))}"
    return f"<td title='{escape(_told(difference))}'>{_percent(interval.mean)}{_plus_minus(interval)}{below}</td>"


def _judged(difference: Difference) -> str:
    points, kind = _points(difference.interval.mean), _kind(difference)
    return points if kind == "open" else f"{points} {kind}"


def _against_cell(numbers: ComparisonNumbers, label: str, measure: Measure, widest: float) -> str:
    if label == numbers.baselines[label]:
        return "<td class='none'>baseline</td>"
    difference = numbers.difference(label, measure)
    if difference is None:
        return _NO_FIGURE
    interval = difference.interval
    ends = "" if interval.low is None or interval.high is None else f" ({_ends(interval.low, interval.high)})"
    return (
        f"<td class='against'>{_strip(difference, widest)}{_points(interval.mean)}<small>{ends}</small><br>"
        f"{_verdict(difference, str(difference.verdict))}</td>"
    )


def _pair_cell(difference: Difference | None) -> str:
    if difference is None:
        return _NO_FIGURE
    return (
        f"<td class='pair {_kind(difference)}' title='{escape(_told(difference))}'>"
        f"{_points(difference.interval.mean)}</td>"
    )


def _cost_cell(numbers: ComparisonNumbers, label: str, cost: str) -> str:
    values, baseline = (numbers.values(which, Measure(cost)) for which in (label, numbers.baselines[label]))
    if not values:
        return f"<td class='none'>{UNKNOWN}</td>"
    shared = values.keys() & baseline.keys()
    whole = fmean(baseline[seed] for seed in shared) if shared else 0.0
    ratio = f"<small>{fmean(values[seed] for seed in shared) / whole:.2f}×</small>" if whole else ""
    return f"<td>{escape(_FORMATS[cost](fmean(values.values())))}{ratio}</td>"


def _reach(numbers: ComparisonNumbers, measure: Measure) -> float:
    """Return how far from 0 the differences to the baseline reach, with their intervals."""
    intervals = [d.interval for label in numbers.labels if (d := numbers.difference(label, measure))]
    ends = [end for one in intervals for end in (one.mean, one.low, one.high) if end is not None]
    return max(map(abs, ends), default=0.0)


def _strip(difference: Difference, widest: float) -> str:
    """Return the interval drawn beside zero, all strips of a table to the same scale."""
    interval = difference.interval
    low, mean, high = (
        _STRIP_PX / 2 * (1 + 0.92 * (interval.mean if end is None else end) / widest)
        for end in (interval.low, interval.mean, interval.high)
    )
    return (
        f"<svg class='strip {_kind(difference)}' viewBox='0 0 {_STRIP_PX} 16' aria-hidden='true'>"
        f"<path class='zero' d='M{_STRIP_PX / 2:g} 0V16'/><path d='M{low:.1f} 8H{high:.1f}'/>"
        f"<circle cx='{mean:.1f}' cy='8' r='3.5'/></svg>"
    )


def _verdict(difference: Difference, text: str) -> str:
    return f"<span class='verdict {_kind(difference)}'>{escape(text)}</span>"


def _kind(difference: Difference) -> str:
    return difference.verdict if difference.verdict in ("win", "loss") else "open"


def _told(difference: Difference | None) -> str:
    if difference is None:
        return ""
    interval, seeds = difference.interval, len(difference.seeds)
    if interval.low is None or interval.high is None:
        return f"{_points(interval.mean)} with one seed: {difference.verdict}"
    return f"{_points(interval.mean)} ({_ends(interval.low, interval.high)}), {seeds} seeds: {difference.verdict}"


def _ends(low: float, high: float) -> str:
    return f"{_points(low)} to {_points(high)}"


def _points(share: float) -> str:
    """Return a difference in points, one digit after the point; without a sign where it rounds to 0.

    >>> _points(0.0123), _points(-0.0123), _points(-0.0001)
    ('+1.2', '−1.2', '0.0')
    """
    points = round(100 * share, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("-", "−")
