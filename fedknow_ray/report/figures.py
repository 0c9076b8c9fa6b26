"""The plots, as Plotly figures in plain dicts: what the browser draws, without plotly's Python objects.

A colour is the name of a CSS variable of the page with `$` before it; the page's script puts the colour of the reader's
theme in its place, and again when the theme changes or the page is printed. None stands for a gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedknow_ray.report.numbers import PARTS, AccuracyCurve, DeviceUse, RoundBytes
from fedknow_ray.report.recorded import round_name

Figure = dict[str, Any]
Array = npt.NDArray[np.float64]

# Above this many tasks the numbers in the cells of a heat map would overlap.
MOST_TASKS_WITH_NUMBERS = 12
_LINES = ("$series-1", "$series-2", "$series-3", "$series-4", "$series-5", "$series-6", "$series-7", "$series-8")
_DASHES = ("solid", "dash", "dot", "dashdot")
_BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_ENERGY_UNITS = ((1e6, "MJ"), (1e3, "kJ"))
_TIME_UNITS = ((2 * 86400.0, 86400.0, "days"), (2 * 3600.0, 3600.0, "hours"), (180.0, 60.0, "minutes"))


def accuracy_over_tasks(curves: Mapping[str, AccuracyCurve]) -> Figure:
    """Return mean accuracy after each task, one line for each model with a band for the spread over clients."""
    traces: list[Figure] = []
    for model, curve in curves.items():
        learnt = list(range(1, len(curve.mean_T) + 1))
        edge = {"x": learnt, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        edge |= {"type": "scatter", "legendgroup": model}
        traces += [
            edge | {"y": _listed(curve.low_T)},
            edge | {"y": _listed(curve.high_T), "fill": "tonexty", "fillcolor": f"${model}-band"},
            _line(learnt, curve.mean_T, model)
            | {
                "customdata": [list(pair) for pair in zip(_listed(curve.low_T), _listed(curve.high_T), strict=True)],
                "hovertemplate": "%{y:.1%} (clients %{customdata[0]:.1%} to %{customdata[1]:.1%})",
            },
        ]
    layout = base_layout("tasks learnt", "average accuracy") | {"hovermode": "x unified"}
    layout["xaxis"] |= {"dtick": whole_steps(max(len(curve.mean_T) for curve in curves.values()))}
    layout["yaxis"] |= SHARE_AXIS
    return {"data": traces, "layout": layout}


def accuracy_against(x_T: Array, curves: Mapping[str, AccuracyCurve], *, unit: str, quantity: str) -> Figure:
    """Return mean accuracy against *quantity* at the end of each task; x_T is in the *unit* of the axis already."""
    traces = [
        _line(_listed(x_T[: len(curve.mean_T)]), curve.mean_T, model)
        | {
            "text": [f"task {task + 1}" for task in range(len(curve.mean_T))],
            "hovertemplate": f"after %{{text}}: %{{y:.1%}} at %{{x:.3~g}} {unit}",
        }
        for model, curve in curves.items()
    ]
    layout = base_layout(f"{quantity} ({unit})", "average accuracy")
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] |= SHARE_AXIS
    return {"data": traces, "layout": layout}


def accuracy_heat_map(matrix_TT: Array) -> Figure:
    """Return the accuracy matrix: a row for the last task learnt, a column for the task scored."""
    tasks = [str(task + 1) for task in range(len(matrix_TT))]
    trace = {
        "type": "heatmap",
        "showlegend": False,
        "x": tasks,
        "y": tasks,
        "z": [_listed(row) for row in matrix_TT],
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "$heat-low"], [1, "$heat-high"]],
        "colorbar": {"tickformat": ".0%", "thickness": 10, "outlinewidth": 0},
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "task %{x} after task %{y}: %{z:.1%}<extra></extra>",
    }
    if len(tasks) <= MOST_TASKS_WITH_NUMBERS:
        trace |= {"texttemplate": "%{z:.0%}", "textfont": {"color": "$text"}}
    layout = base_layout("accuracy on task", "after learning task")
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"type": "category", "showgrid": False, "autorange": "reversed"}
    return {"data": [trace], "layout": layout}


def time_per_device(uses: Sequence[DeviceUse]) -> Figure:
    """Return the mean virtual time of a client, a bar for each device kind, split into its parts."""
    longest_s = max(sum(use.seconds.values()) / use.clients for use in uses)
    scale_s, unit = time_unit(longest_s)
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": [use.device for use in uses],
            "x": [use.seconds[part] / use.clients / scale_s for use in uses],
            "marker": {"color": f"${part}"},
            "hovertemplate": f"%{{y}}, {part}: %{{x:.3~g}} {unit}<extra></extra>",
        }
        for part in PARTS
    ]
    layout = base_layout(f"{unit} of virtual time", "") | {"barmode": "stack", "bargap": 0.35}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False, "type": "category"}
    return {"data": traces, "layout": layout}


def compute_over_tasks(uses: Sequence[DeviceUse]) -> Figure:
    """Return the mean compute time of a training visit in each task, a line for each device kind."""
    longest_s = max((seconds for use in uses for seconds in use.compute_s_by_task.values()), default=0.0)
    scale_s, unit = time_unit(longest_s)
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": use.device,
            "x": [task + 1 for task in use.compute_s_by_task],
            "y": [seconds / scale_s for seconds in use.compute_s_by_task.values()],
            "line": _device_line(place),
            "hovertemplate": f"%{{y:.3~g}} {unit}",
        }
        for place, use in enumerate(uses)
    ]
    layout = base_layout("task", f"{unit} of computing") | {"hovermode": "x unified"}
    layout["xaxis"] |= {"dtick": whole_steps(max((len(use.compute_s_by_task) for use in uses), default=1))}
    layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": traces, "layout": layout}


def share_per_device(share_T_of: Mapping[str, Array], y_title: str, *, axis: Figure | None = None) -> Figure:
    """Return a share after each task, a line for each device kind; *axis* is what its axis has beside the title."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": device,
            "x": list(range(1, len(share_T) + 1)),
            "y": _listed(share_T),
            "line": _device_line(place),
            "hovertemplate": "%{y:.1%}",
        }
        for place, (device, share_T) in enumerate(share_T_of.items())
    ]
    layout = base_layout("tasks learnt", y_title) | {"hovermode": "x unified"}
    layout["xaxis"] |= {"dtick": whole_steps(max(map(len, share_T_of.values())))}
    layout["yaxis"] |= SHARE_AXIS if axis is None else axis
    return {"data": traces, "layout": layout}


def bytes_per_round(rounds: RoundBytes) -> Figure:
    """Return the bytes of each round, download on top of upload; a dotted line where a new task begins."""
    both = [up + down for up, down in zip(rounds.upload_bytes, rounds.download_bytes, strict=True)]
    scale, unit = byte_unit(max(both))
    numbers = list(range(1, len(both) + 1))
    names = [round_name(t, r, first=1) for t, r in zip(rounds.task_index, rounds.round_index, strict=True)]
    traces = [
        {
            "type": "bar",
            "name": part,
            "x": numbers,
            "y": [size / scale for size in sizes],
            "text": names,
            "textposition": "none",
            "marker": {"color": f"${part}"},
            "hovertemplate": f"%{{text}}: %{{y:.3~g}} {unit}",
        }
        for part, sizes in (("upload", rounds.upload_bytes), ("download", rounds.download_bytes))
    ]
    starts = [n for n in numbers[1:] if rounds.task_index[n - 1] != rounds.task_index[n - 2]]
    layout = base_layout("round, counted over the run", unit) | {"barmode": "stack", "bargap": 0.15}
    layout["shapes"] = [
        {"type": "line", "x0": n - 0.5, "x1": n - 0.5, "yref": "paper", "y0": 0, "y1": 1}
        | {"line": {"color": "$muted", "width": 1, "dash": "dot"}}
        for n in starts
    ]
    return {"data": traces, "layout": layout}


def time_unit(longest_s: float) -> tuple[float, str]:
    """Return (seconds in the unit, its name) for an axis that reaches *longest_s*."""
    return next(((size_s, name) for least_s, size_s, name in _TIME_UNITS if longest_s >= least_s), (1.0, "seconds"))


def byte_unit(largest_bytes: float) -> tuple[float, str]:
    """Return (bytes in the unit, its name) for an axis that reaches *largest_bytes*."""
    return next(((size, name) for size, name in _BYTE_UNITS if largest_bytes >= size), (1.0, "bytes"))


def energy_unit(largest_j: float) -> tuple[float, str]:
    """Return (joules in the unit, its name) for an axis that reaches *largest_j*."""
    return next(((size, name) for size, name in _ENERGY_UNITS if largest_j >= size), (1.0, "J"))


SHARE_AXIS: Figure = {"tickformat": ".0%", "range": [0, 1.02], "dtick": 0.2}


def _device_line(place: int) -> Figure:
    return {"color": _LINES[place % len(_LINES)], "dash": _DASHES[place // len(_LINES) % len(_DASHES)]}


def _line(x: Sequence[float | None], y: Array, model: str) -> Figure:
    marker = {"own": "circle", "global": "diamond"}[model]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{model} model",
        "legendgroup": model,
        "x": list(x),
        "y": _listed(y),
        "line": {"color": f"${model}", "width": 2.5, "dash": "solid" if model == "own" else "dash"},
        "marker": {"size": 7, "symbol": marker},
    }


def base_layout(x_title: str, y_title: str) -> Figure:
    """Return the layout that every plot starts from, with the titles of its axes."""
    axis = {"gridcolor": "$grid", "linecolor": "$grid", "zeroline": False, "automargin": True}
    return {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "$text"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 36, "b": 48},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "showlegend": True,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "$muted", "activecolor": "$text"},
        "hoverlabel": {"bgcolor": "$surface", "bordercolor": "$grid", "font": {"color": "$text"}},
        "xaxis": axis | {"title": {"text": x_title, "font": {"size": 13}}},
        "yaxis": axis | {"title": {"text": y_title, "font": {"size": 13}}},
    }


def whole_steps(longest: int) -> int:
    """Return a distance of ticks that gives at most ten of them."""
    return max(1, -(-longest // 10))


def _listed(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 6) for value in values]
