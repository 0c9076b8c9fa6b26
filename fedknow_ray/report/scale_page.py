"""The page of a scaling grid: how each figure grows, its points with the fitted lines, and all of the numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape

from fedknow_ray.metrics.growth import Fit, Slope
from fedknow_ray.report.document import Plot, Section, banner, folded, render_document
from fedknow_ray.report.scale_figures import growth_figure
from fedknow_ray.report.scale_measures import MEASURES, PointFigures, ScaleFigures, Unit
from fedknow_ray.report.tables import format_energy, html_table
from fedknow_ray.units import format_bytes, format_duration

_SECTIONS = {
    "Time": (
        ("virtual_time_s", "round_s"),
        "Virtual seconds, on the emulated devices. A round's are the mean of the rounds of a task, in the longest run "
        "of each number of clients: how the rounds of later tasks get longer.",
    ),
    "Bytes, memory and energy": (
        ("sent_bytes", "peak_memory_bytes", "kept_bytes", "energy_j"),
        "Bytes sent are of all clients together; memory is the most that any visit took; what a client keeps is of all "
        "tasks, once the last is learnt, and planned from the config.",
    ),
    "What the simulation took": (
        ("host_cpu_s",),
        "Processor seconds of this host, added up over all visits; they depend on what else it did.",
    ),
    "Accuracy": (
        ("average_accuracy", "average_accuracy_global"),
        "Mean over clients and tasks when all tasks are learnt, of one seed.",
    ),
    "Forgetting": (
        ("forgetting", "forgetting_global"),
        "Best earlier accuracy on a past task minus the final one, mean over past tasks and clients, of one seed.",
    ),
}
_LINES = "Markers: the runs. Lines: the fit. A colour for each method; where methods agree, one covers the other."


def render_scale(figures: ScaleFigures, command: str | None = None) -> str:
    """Return the page as one HTML document (about 5 MB, nearly all of it plotly.js)."""
    clients, tasks = (", ".join(map(str, axis)) for axis in figures.axes)
    return render_document(
        kind="Scaling",
        title=figures.name,
        subtitle=f"{', '.join(figures.methods)} · {clients} clients · {tasks} tasks",
        opening=_warning(figures),
        sections=[
            _growth(figures),
            *(_plots(figures, title, *content) for title, content in _SECTIONS.items()),
            _points(figures),
        ],
        closing=_origin(figures, command),
    )


def slope_text(slope: Slope | None, form: str) -> str:
    """Return an exponent, or points of accuracy, with the interval where there is one.

    >>> slope_text(Slope(1.0, 0.98, 1.02), "power"), slope_text(Slope(-0.0312), "doubling"), slope_text(None, "power")
    ('1.00 [0.98, 1.02]', '-3.1', '-')
    """
    if slope is None:
        return "-"
    scale, digits = (1, 2) if form == "power" else (100, 1)
    # -0.00 would say more than is known
    value, low, high = (
        None if end is None else f"{round(end * scale, digits) + 0.0:.{digits}f}"
        for end in (slope.value, slope.low, slope.high)
    )
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


def figure_text(value: float | None, unit: Unit) -> str:
    """Return a figure in a unit that suits it."""
    if value is None:
        return "-"
    forms: dict[Unit, Callable[[float], str]] = {
        "s": format_duration,
        "bytes": lambda size: format_bytes(int(size)),
        "J": format_energy,
        "share": lambda share: f"{share:.3f}",
    }
    return forms[unit](value)


def _warning(figures: ScaleFigures) -> str:
    missing = figures.missing
    if not missing:
        return ""
    return banner(
        f"<strong>{len(missing)} of {len(figures.points)} points are missing.</strong> The fits are over the others; "
        "the same command makes what is missing."
    )


def _growth(figures: ScaleFigures) -> Section:
    tables = [
        html_table(caption, ["figure", "method", *head, "R²", "points", ""], rows)
        for caption, head, form in (
            (
                "Exponents: the figure is in proportion to clients^a × tasks^b",
                ("a, of clients", "b, of tasks"),
                "power",
            ),
            (
                "Points of accuracy gained with each doubling",
                ("clients doubled", "tasks doubled"),
                "doubling",
            ),
        )
        if (rows := _growth_rows(figures, form))
    ]
    text = (
        "Least squares over the points, with 95 % intervals. With an exponent of 1 a figure doubles when the clients, "
        "or the tasks, double; with 0 it stays. An interval says how well a straight line on these scales describes "
        "the points of one seed; it does not say what another seed would give."
    )
    return Section("How it grows", text, below="".join(tables))


def _growth_rows(figures: ScaleFigures, form: str) -> list[list[str]]:
    return [
        [MEASURES[measure].title, method, *fit_cells(figures.fits[method, measure])]
        for measure, of in MEASURES.items()
        if of.form == form
        for method in figures.methods
    ]


def fit_cells(fit: Fit) -> list[str]:
    """Return both slopes, R², the number of points and what could not be said."""
    r2 = "-" if fit.r2 is None else f"{fit.r2:.3f}"
    return [slope_text(fit.clients, fit.form), slope_text(fit.tasks, fit.form), r2, str(fit.n), fit.note]


def _plots(figures: ScaleFigures, title: str, measures: Sequence[str], text: str) -> Section:
    plots = []
    for measure in measures:
        of = MEASURES[measure]
        zero = [method for method in figures.methods if figures.fits[method, measure].note == "0 at every point"]
        caption = _LINES + "".join(f" {escape(method)}: 0 at every point." for method in zero)
        for axis in ("tasks", "clients"):
            plots.append(
                Plot(
                    f"{measure.replace('_', '-')}-{axis}",
                    f"{of.title}, against {axis}",
                    caption,
                    growth_figure(figures, measure, "tasks" if axis == "tasks" else "clients"),
                    "No run has this figure yet." if not zero else "0 at every point.",
                    400,
                )
            )
    return Section(title, text, tuple(plots))


def _points(figures: ScaleFigures) -> Section:
    head = ["method", "clients", "tasks", *(of.title.lower() for of in MEASURES.values()), "run"]
    rows = [_point_cells(point) for point in figures.points]
    return Section("All points", "Every run of the grid.", below=html_table("The points", head, rows))


def _point_cells(point: PointFigures) -> list[str]:
    values = [figure_text(point.values.get(measure), of.unit) for measure, of in MEASURES.items()]
    return [point.id.method, str(point.id.clients), str(point.id.tasks), *values, point.run if point.is_made else "-"]


def _origin(figures: ScaleFigures, command: str | None) -> str:
    said = f"<p>Made by <code>{escape(command)}</code></p>" if command else ""
    text = json.dumps(figures.plain(), indent=2, ensure_ascii=False)
    return (
        f"<section aria-labelledby='origin'><h2 id='origin'>How it was made</h2>{said}"
        f"{folded('All numbers, scale.json', text)}</section>"
    )
