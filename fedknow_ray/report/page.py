"""The report of a run as a page: headline, sections, config."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import yaml

from fedknow_ray.report.document import banner, folded, render_document
from fedknow_ray.report.numbers import key_numbers
from fedknow_ray.report.sections import build_sections
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
    return render_document(
        kind="Run report",
        title=_title(run),
        subtitle=_subtitle(run.config),
        opening=("" if run.summary is not None else _UNFINISHED) + _headline(run),
        sections=build_sections(run),
        closing=_origin(run),
    )


_UNFINISHED = banner(
    "<strong>This run did not finish.</strong> What follows is computed from what had been written when it stopped."
)


def _origin(run: Run) -> str:
    config = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    manifest = json.dumps(run.manifest, indent=2, ensure_ascii=False)
    return (
        "<section aria-labelledby='config'><h2 id='config'>Config and origin</h2>"
        "<p>The config as it was run, every default filled in; then what the run was made with.</p>"
        f"{folded('Resolved config', config, is_open=True)}{folded('Manifest', manifest)}</section>"
    )


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
    listed = "".join(
        f"<div class='tile'><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return (
        "<section aria-labelledby='headline'><h2 id='headline' class='quiet'>Key numbers</h2>"
        f"<dl class='tiles'>{listed}</dl></section>"
    )


def _why_no_energy(run: Run) -> str:
    return "a profile gives no power" if run.visits.num_rows else "no visit was finished"


def _known(value: float | None, form: Any) -> str:
    return UNKNOWN if value is None else str(form(value))


def _share(value: float | None) -> str:
    return "no score" if value is None else f"{value:.1%}"


def _points(value: float | None, sign: str = "-") -> str:
    return "no score" if value is None else f"{100 * value:{sign}.1f} points".replace("-", "−")
