"""The plots of a scaling grid: points as markers, the fitted growth as lines; a colour for each method.

As in `figures`, a figure is a plain dict, and a colour the name of a CSS variable of the page. What stays the same
along a line (clients in a plot against tasks, tasks in one against clients) is told by marker and dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from fedknow_ray.metrics.growth import Fit, Observation
from fedknow_ray.report.comparison_figures import DASHES, case_style
from fedknow_ray.report.figures import Figure, base_layout, byte_unit, energy_unit, time_unit
from fedknow_ray.report.scale_measures import MEASURES, ROUND, ScaleFigures, Unit

Axis = Literal["clients", "tasks"]
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star", "hexagon", "triangle-down")


def growth_figure(figures: ScaleFigures, measure: str, axis: Axis) -> Figure | None:
    """Return a measure against clients or tasks, with logarithmic axes but for shares; None where nothing is known.

    Figures of 0 or below are not on a logarithmic axis, and left out.
    """
    of = MEASURES[measure]
    known = {method: _on_plot(figures, method, measure, axis) for method in figures.methods}
    values = [one.value for observations in known.values() for one in observations]
    if not values:
        return None
    scale, unit = axis_unit(of.unit, max(values))
    fixed = sorted({_fixed(one, axis) for observations in known.values() for one in observations})
    traces = [
        trace
        for number, (method, observations) in enumerate(known.items())
        for place, other in enumerate(fixed)
        if (line := [one for one in observations if _fixed(one, axis) == other])
        for trace in _traces(
            line, figures.fits[method, measure], axis, f"{method}, {fixed_name(other, axis, measure)}", scale, unit
        )
        for trace in [trace | {"legendgroup": f"{number}-{place}"} | _look(trace, number, place)]
    ]
    ticks = sorted({getattr(one, axis) for observations in known.values() for one in observations})
    layout = _layout(axis_title(axis, measure), unit or of.title.partition(",")[0].lower(), ticks)
    layout["yaxis"] |= {"tickformat": ".0%"} if of.unit == "share" else _log_axis([value / scale for value in values])
    return {"data": traces, "layout": layout}


def axis_unit(unit: Unit, largest: float) -> tuple[float, str]:
    """Return (size, name) of the unit that an axis up to *largest* is labelled in."""
    if unit == "s":
        return time_unit(largest)
    if unit == "bytes":
        return byte_unit(largest)
    return energy_unit(largest) if unit == "J" else (1.0, "")


def axis_title(axis: Axis, measure: str) -> str:
    """Return what stands at an axis: the tasks of a round's seconds are numbers of tasks."""
    return "number of the task" if axis == "tasks" and measure == ROUND else axis


def fixed_name(value: int, axis: Axis, measure: str) -> str:
    """Return what stays the same along a line of a plot against *axis*.

    >>> fixed_name(8, "tasks", "energy_j"), fixed_name(4, "clients", "energy_j"), fixed_name(4, "clients", "round_s")
    ('8 clients', '4 tasks', 'task 4')
    """
    if axis == "tasks":
        return f"{value} clients"
    return f"task {value}" if measure == ROUND else f"{value} tasks"


def _on_plot(figures: ScaleFigures, method: str, measure: str, axis: Axis) -> list[Observation]:
    found = figures.observations(method, measure)
    if MEASURES[measure].form == "power":
        found = [one for one in found if one.value > 0]
    if axis == "clients" and measure == ROUND:
        # a line for each task of a long run would be a thicket
        asked = {1, *figures.axes.tasks}
        found = [one for one in found if one.tasks in asked]
    return found


def _fixed(one: Observation, axis: Axis) -> int:
    return one.clients if axis == "tasks" else one.tasks


def _traces(line: Sequence[Observation], fit: Fit, axis: Axis, name: str, scale: float, unit: str) -> list[Figure]:
    """Return the fitted line, if there is one, and the points over it."""
    points: Figure = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [getattr(one, axis) for one in line],
        "y": [_rounded(one.value / scale) for one in line],
        "hovertemplate": f"%{{x}} {axis}: %{{y:.4~g}} {unit}" if unit else f"%{{x}} {axis}: %{{y:.1%}}",
    }
    # a straight line on these scales, so its ends are enough
    ends = [min(line, key=lambda one: getattr(one, axis)), max(line, key=lambda one: getattr(one, axis))]
    fitted = [fit.at(one.clients, one.tasks) for one in ends]
    known = [value for value in fitted if value is not None]
    if len(known) < len(ends) or getattr(ends[0], axis) == getattr(ends[1], axis):
        return [points]
    drawn: Figure = {"type": "scatter", "mode": "lines", "name": name, "showlegend": False, "hoverinfo": "skip"}
    drawn |= {"x": [getattr(one, axis) for one in ends], "y": [_rounded(value / scale) for value in known]}
    return [drawn, points]


def _look(trace: Figure, number: int, place: int) -> Figure:
    colour = f"${case_style(number)[0]}"
    if trace["mode"] == "lines":
        return {"line": {"color": colour, "width": 1.5, "dash": DASHES[place % len(DASHES)]}}
    return {"marker": {"color": colour, "size": 8, "symbol": SYMBOLS[place % len(SYMBOLS)]}}


def _layout(x_title: str, y_title: str, ticks: Sequence[int]) -> Figure:
    layout = base_layout(x_title, y_title) | {"hovermode": "closest"}
    layout["xaxis"] |= {"type": "log", "tickvals": list(ticks), "ticktext": list(map(str, ticks))}
    layout["yaxis"]["title"] |= {"standoff": 8}
    layout["margin"] |= {"t": 72}
    return layout


def _log_axis(values: Sequence[float]) -> Figure:
    """Return a logarithmic axis over values greater than 0, of a factor of 2 at least: less looks like growth."""
    low, high = min(values), max(values)
    axis: Figure = {"type": "log", "tickformat": "~g"}
    if high < 2 * low:
        middle = math.log10(low * high) / 2
        return axis | {"range": [_rounded(middle + sign * math.log10(2) / 2) for sign in (-1, 1)]}
    # 1, 2, 5, 10: of a tick for each digit the upper ones run into each other
    return axis | ({"dtick": "D2"} if high > 4 * low else {})


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
