"""The plots of a comparison: one line for each case, in the colour and dash that its legend shows.

As in `figures`, a figure is a plain dict, and a colour the name of a CSS variable of the page. A trace's `legendgroup`
is the number of its case; the page's own legend shows and hides the traces of a case in all plots by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedknow_ray.metrics.intervals import Interval
from fedknow_ray.report.comparison_measures import Measure
from fedknow_ray.report.comparison_numbers import ComparisonNumbers
from fedknow_ray.report.figures import Figure, base_layout, whole_steps

# More bands than this over each other are a smear.
MOST_BANDS = 6
# More cases than this in one label at the pointer would cover the plot.
MOST_IN_ONE_LABEL = 8
COLOURS = 8
DASHES = ("solid", "dash", "dot", "dashdot")
SVG_DASHES = ("", "6 3", "2 3", "6 3 2 3")


def case_style(number: int) -> tuple[str, int]:
    """Return (the name of the CSS variable of a case's colour, the index of its dash); cases count from 0."""
    return f"series-{number % COLOURS + 1}", number // COLOURS % len(DASHES)


def lines_over_tasks(
    numbers: ComparisonNumbers,
    metric: str,
    model: str | None,
    *,
    x_title: str,
    y_title: str,
    share: bool,
    from_zero: bool = True,
) -> Figure:
    """Return a metric task by task, a line for each case that has it, with the interval of each mean as a band.

    *share*: the metric is a share, shown in %. *from_zero*: the axis starts at 0.
    """
    bands = len(numbers.labels) <= MOST_BANDS
    traces: list[Figure] = []
    for number, label in enumerate(numbers.labels):
        known = {
            task + 1: interval
            for task in numbers.tasks(metric, model)
            if (interval := numbers.interval(label, Measure(metric, model, task))) is not None
        }
        if known:
            traces += [*(_band(number, known) if bands else ()), _line(number, label, known, share)]
    layout = base_layout(x_title, y_title) | {"showlegend": False}
    layout["hovermode"] = "x unified" if len(numbers.labels) <= MOST_IN_ONE_LABEL else "closest"
    layout["xaxis"] |= {"dtick": whole_steps(max(numbers.tasks(metric, model), default=0) + 1)}
    layout["yaxis"] |= {"rangemode": "tozero" if from_zero else "nonnegative"} | (
        {"tickformat": ".1~%"} if share else {}
    )
    return {"data": traces, "layout": layout}


def _line(number: int, label: str, known: dict[int, Interval], share: bool) -> Figure:
    colour, dash = case_style(number)
    form = ".1%" if share else ".3~g"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{number + 1} {label}",
        "legendgroup": str(number),
        "x": list(known),
        "y": [_rounded(interval.mean) for interval in known.values()],
        "line": {"color": f"${colour}", "width": 2.25, "dash": DASHES[dash]},
        "marker": {"size": 6},
        "text": [_ends(interval, form) for interval in known.values()],
        "hovertemplate": f"%{{y:{form}}}%{{text}}",
    }


def _ends(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    low, high = (f"{end:.1%}" if form == ".1%" else f"{end:.3g}" for end in (interval.low, interval.high))
    return f" ({low} to {high}, {interval.n} seeds)"


def _band(number: int, known: dict[int, Interval]) -> list[Figure]:
    colour, _ = case_style(number)
    ends = {place: (one.low, one.high) for place, one in known.items() if one.low is not None and one.high is not None}
    edge: Figure = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "x": list(ends)}
    edge |= {"legendgroup": str(number)}
    low, high = ([_rounded(pair[side]) for pair in ends.values()] for side in (0, 1))
    return [edge | {"y": low}, edge | {"y": high, "fill": "tonexty", "fillcolor": f"${colour}-band"}] if ends else []


def learning_against_forgetting(numbers: ComparisonNumbers, model: str) -> Figure:
    """Return what each case learns (accuracy right after each task) against what it forgets, with both intervals."""
    traces = []
    for number, label in enumerate(numbers.labels):
        learnt = numbers.interval(label, Measure("learnt_accuracy", model))
        lost = numbers.interval(label, Measure("forgetting", model))
        if learnt is None or lost is None:
            continue
        colour, dash = case_style(number)
        bars = {"color": f"${colour}", "thickness": 1.25, "width": 3}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": f"{number + 1} {label}",
                "legendgroup": str(number),
                "x": [_rounded(learnt.mean)],
                "y": [_rounded(lost.mean)],
                "error_x": _error_bar(learnt) | bars,
                "error_y": _error_bar(lost) | bars,
                "text": [str(number + 1)],
                "textposition": "top right",
                "marker": {"size": 10, "color": f"${colour}", "symbol": _SYMBOLS[dash]},
                "hovertemplate": "learnt %{x:.1%}, forgotten %{y:.1%}",
            }
        )
    layout = base_layout("accuracy right after learning", "forgetting") | {"showlegend": False, "hovermode": "closest"}
    layout["xaxis"] |= {"tickformat": ".1~%"}
    layout["yaxis"] |= {"tickformat": ".1~%", "zeroline": True, "zerolinecolor": "$grid"}
    return {"data": traces, "layout": layout}


_SYMBOLS: Sequence[str] = ("circle", "diamond", "square", "triangle-up")


def _error_bar(interval: Interval) -> dict[str, Any]:
    reach = 0.0 if interval.high is None else interval.high - interval.mean
    return {"type": "data", "array": [_rounded(reach)], "visible": interval.high is not None}


def _rounded(value: float) -> float:
    return round(float(value), 6)
