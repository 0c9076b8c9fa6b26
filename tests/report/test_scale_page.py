"""A grid as files: one object and one page, drawn by a real browser."""

from __future__ import annotations

import json
import re

import pytest
from fake_scale import write_fake_scale
from html_page import Page, open_in_browser

from fedknow_ray.experiment.scale_config import PointId
from fedknow_ray.metrics.growth import Slope
from fedknow_ray.report.scale import scale_object, write_scale
from fedknow_ray.report.scale_page import figure_text, slope_text


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory):
    return write_fake_scale(tmp_path_factory.mktemp("scale"))


@pytest.fixture(scope="module")
def figures(grid):
    return write_scale(grid, "fedknow-ray scale 'a <b>'")


@pytest.fixture(scope="module")
def html(grid, figures):
    return (grid.out / "scale.html").read_text(encoding="utf-8")


def test_files_lie_in_the_folder_and_the_object_names_them(grid, figures):
    assert json.loads((grid.out / "scale.json").read_text()) == figures.plain()
    told = scale_object(grid, figures)
    assert (told["out"], told["page"]) == (str(grid.out), str(grid.out / "scale.html"))
    assert told["points"] == figures.plain()["points"]


def test_same_runs_give_the_same_files(grid, figures):
    before = [(grid.out / name).read_bytes() for name in ("scale.json", "scale.html")]
    write_scale(grid, "fedknow-ray scale 'a <b>'")
    assert [(grid.out / name).read_bytes() for name in ("scale.json", "scale.html")] == before


def test_page_is_self_contained_with_every_reference_in_place(html):
    page = Page(html)
    assert page.addresses() == ["data:,"]
    assert page.faults_of_ids() == []


def test_page_escapes_names_and_command(html):
    assert "<h1>small&lt;1&gt;</h1>" in html
    assert "<code>fedknow-ray scale &#x27;a &lt;b&gt;&#x27;</code>" in html
    assert "fedavg, fedknow · 2, 4 clients · 1, 2, 4 tasks" in html


def test_page_has_the_growth_and_the_points(html):
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    assert ["Processor time of this host", "fedavg", "1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]", "1.000", "6", ""] in rows
    assert ["Bytes that a client keeps", "fedavg", "-", "-", "-", "6", "0 at every point"] in rows
    assert ["Forgetting, own model", "fedknow", "0.0 [0.0, 0.0]", "0.0 [0.0, 0.0]", "-", "6", ""] in rows
    point = next(row for row in rows if row[:3] == ["fedknow", "4", "2"])
    assert (point[3], point[-1]) == ("26.0 s", "runs/fedknow-4-clients-2-tasks")
    assert "class='banner' role" not in html


def test_page_warns_of_missing_points(tmp_path):
    grid = write_fake_scale(tmp_path, missing=[PointId("fedavg", 2, 1)])
    write_scale(grid)
    assert "<strong>1 of 12 points are missing.</strong>" in (tmp_path / "scale.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("slope", "form", "text"),
    [
        (None, "power", "-"),
        (Slope(1.0), "power", "1.00"),
        (Slope(-0.0312, -0.05, 0.001), "doubling", "-3.1 [-5.0, 0.1]"),
        (Slope(-1e-9, -2e-9, 1e-9), "power", "0.00 [0.00, 0.00]"),
    ],
)
def test_slopes_are_written_with_their_intervals(slope, form, text):
    assert slope_text(slope, form) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "-"),
        (90.0, "s", "1 min 30 s"),
        (2.5e6, "bytes", "2.50 MB"),
        (950.0, "J", "950 J"),
        (0.5, "share", "0.500"),
    ],
)
def test_figures_are_written_in_a_unit_that_suits_them(value, unit, text):
    assert figure_text(value, unit) == text


@pytest.mark.browser
def test_browser_draws_every_plot(grid, html, tmp_path):
    """Of 11 measures two are known of no run: memory and energy."""
    document, console = open_in_browser(grid.out / "scale.html", tmp_path / "profile")
    assert console == []
    assert 'data-plots="drawn"' in document
    assert len(re.findall(r'class="plot js-plotly-plot"', document)) == 2 * 9
