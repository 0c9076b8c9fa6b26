"""One HTML file that holds its plots, its tables and all that is needed to show them: what every page is made of.

A page asks nothing of any other machine: a content security policy in its head forbids it, so that it stays true
whatever a script or a config holds. Figures travel as JSON, text from a run is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from fedknow_ray.report.figures import Figure


@dataclass(frozen=True)
class Plot:
    """A plot with its caption, or the reason why there is none.

    *name* is the HTML id; *caption* and *missing* are HTML text, escaped already.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    missing: str = ""
    height_px: int = 360


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, HTML above the plots, plots side by side where there is room, and HTML below them."""

    title: str
    text: str
    plots: tuple[Plot, ...] = ()
    below: str = ""
    above: str = ""


def render_document(
    *, kind: str, title: str, subtitle: str, opening: str, sections: Sequence[Section], closing: str
) -> str:
    """Return the page (about 5 MB, nearly all of it plotly.js).

    *kind*, *title* and *subtitle* are text; *opening* and *closing* are HTML before and after the sections.
    """
    from plotly.offline import get_plotlyjs  # 0.2 s to import, and only a page needs it

    drawn = {plot.name: plot.figure for section in sections for plot in section.plots if plot.figure is not None}
    return Template(asset("page.html")).substitute(
        kind=escape(kind),
        title=escape(title),
        subtitle=escape(subtitle),
        style=asset("page.css"),
        opening=opening,
        sections="\n".join(_section(section, number) for number, section in enumerate(sections, start=1)),
        closing=closing,
        figures=_script_json(drawn),
        plotly=str(get_plotlyjs()),
        script=asset("page.js"),
    )


def asset(name: str) -> str:
    """Return the text of a file that every page is made with."""
    return files("fedknow_ray.report").joinpath("assets", name).read_text(encoding="utf-8")


def folded(summary: str, text: str, *, is_open: bool = False) -> str:
    """Return a block of text, such as a config, that opens and closes; both are escaped here."""
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>"
        f"<pre tabindex='0'>{escape(text)}</pre></details>"
    )


def banner(html: str) -> str:
    """Return what a reader must know before anything else, in HTML."""
    return f"<p class='banner' role='status'>{html}</p>"


def _script_json(value: object) -> str:
    # "<" could end the script element or open a comment in it; JSON reads \u003c as the same character.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _section(section: Section, number: int) -> str:
    plots = f"<div class='plots'>{''.join(map(_plot, section.plots))}</div>" if section.plots else ""
    return (
        f"<section aria-labelledby='section-{number}'><h2 id='section-{number}'>{escape(section.title)}</h2>"
        f"<p>{section.text}</p>{section.above}{plots}{section.below}</section>"
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
