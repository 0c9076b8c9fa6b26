"""The report as a page: headline, sections, config; style, script and plotly.js all inside the one file.

The page asks nothing of any other machine: a content security policy in its head forbids it, so that it stays true
whatever a script or a config holds. Figures travel as JSON, text from the run is escaped.
"""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml

from fedknow_ray.report.numbers import key_numbers
from fedknow_ray.report.sections import Plot, Section, build_sections
from fedknow_ray.report.tables import UNKNOWN, format_energy
from fedknow_ray.results import Run, write_atomically
from fedknow_ray.units import format_bytes, format_duration

REPORT_FILE = "report.html"


def write_report(run: Run) -> Path:
    """Write `report.html` into the run's directory, in place of an older one, and return its path.

    Raises:
        RunDirectoryError: if a table cannot be read or the file cannot be written.
    """
    path = run.path / REPORT_FILE
    write_atomically(path, render_report(run).encode())
    return path


def render_report(run: Run) -> str:
    """Return the report as one HTML document (about 5 MB, nearly all of it plotly.js)."""
    from plotly.offline import get_plotlyjs  # 0.2 s to import, and only the report needs it

    sections = build_sections(run)
    plots = [plot for section in sections for plot in section.plots if plot.figure is not None]
    return Template(_asset("page.html")).substitute(
        title=escape(_title(run)),
        subtitle=escape(_subtitle(run.config)),
        style=_asset("page.css"),
        unfinished="" if run.summary is not None else _UNFINISHED,
        headline=_headline(run),
        sections="\n".join(_section(section, number) for number, section in enumerate(sections, start=1)),
        config=escape(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)),
        manifest=escape(json.dumps(run.manifest, indent=2, ensure_ascii=False)),
        figures=_script_json({plot.name: plot.figure for plot in plots}),
        plotly=str(get_plotlyjs()),
        script=_asset("page.js"),
    )


_UNFINISHED = (
    "<p class='banner' role='status'><strong>This run did not finish.</strong> "
    "What follows is computed from what had been written when it stopped.</p>"
)


def _asset(name: str) -> str:
    return files("fedknow_ray.report").joinpath("assets", name).read_text(encoding="utf-8")


def _script_json(value: object) -> str:
    # "<" could end the script element or open a comment in it; JSON reads \u003c as the same character.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _title(run: Run) -> str:
    return str(run.manifest.get("name") or run.path.resolve().name)


def _subtitle(config: dict[str, Any]) -> str:
    """Return what was run in one line, as far as the config says it."""
    scenario = _entry(config, "scenario")
    said = [
        (_entry(config, "method").get("name"), "{}"),
        (scenario.get("dataset"), "on {}"),
        (_entry(config, "model").get("name"), "with {}"),
        (scenario.get("clients"), "{} clients"),
        (scenario.get("tasks"), "{} tasks"),
        (config.get("seed"), "seed {}"),
    ]
    return " · ".join(form.format(value) for value, form in said if value is not None)


def _entry(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _headline(run: Run) -> str:
    numbers = key_numbers(run)
    relative, transfer = numbers["forgetting_relative"], numbers["backward_transfer"]
    wall_s, energy_j = numbers["wall_s"], numbers["energy_j"]
    one_task = numbers["average_accuracy"] is not None and numbers["forgetting"] is None
    tiles = [
        ("Average accuracy", _share(numbers["average_accuracy"]), "own model, mean over clients and learnt tasks"),
        ("… of the global model", _share(numbers["average_accuracy_global"]), "under each client's own head"),
        (
            "Forgetting",
            "none yet" if one_task else _points(numbers["forgetting"]),
            "with a single task nothing can be forgotten"
            if one_task
            else f"best earlier minus final; relative {_share(relative)}; backward transfer {_points(transfer, '+')}",
        ),
        (
            "Virtual time",
            _known(numbers["virtual_time_s"], format_duration),
            "on the emulated devices" if wall_s is None else f"simulated in {format_duration(wall_s)}",
        ),
        ("Uploaded", _known(numbers["upload_bytes"], format_bytes), "by all clients together"),
        ("Downloaded", _known(numbers["download_bytes"], format_bytes), "by all clients together"),
        (
            "Energy",
            _known(energy_j, format_energy),
            "of all visits" if energy_j is not None else _why_no_energy(run),
        ),
    ]
    return "".join(
        f"<div class='tile'><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )


def _why_no_energy(run: Run) -> str:
    return "a profile gives no power" if run.visits.num_rows else "no visit was finished"


def _known(value: float | None, form: Any) -> str:
    return UNKNOWN if value is None else str(form(value))


def _share(value: float | None) -> str:
    return "no score" if value is None else f"{value:.1%}"


def _points(value: float | None, sign: str = "-") -> str:
    return "no score" if value is None else f"{100 * value:{sign}.1f} points".replace("-", "−")


def _section(section: Section, number: int) -> str:
    plots = f"<div class='plots'>{''.join(map(_plot, section.plots))}</div>" if section.plots else ""
    return (
        f"<section aria-labelledby='section-{number}'><h2 id='section-{number}'>{escape(section.title)}</h2>"
        f"<p>{section.text}</p>{plots}{section.below}</section>"
    )


def _plot(plot: Plot) -> str:
    if plot.figure is None:
        drawing, caption = f"<p class='missing'>{plot.missing}</p>", ""
    else:
        drawing = (
            f"<div class='plot' id='{plot.name}' style='height:{plot.height_px}px' role='img' "
            f"aria-label='{escape(plot.title)}' aria-describedby='{plot.name}-caption'></div>"
        )
        caption = f"<figcaption id='{plot.name}-caption'>{plot.caption}</figcaption>"
    return f"<figure><h3>{escape(plot.title)}</h3>{drawing}{caption}</figure>"
