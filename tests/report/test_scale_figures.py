"""The plots of a grid are what Plotly accepts: markers where the runs are, lines where the fit is."""

from __future__ import annotations

import json
import math
import re

import plotly.graph_objects as go
import pytest
from fake_scale import write_fake_scale

from fedknow_ray.report.scale_figures import growth_figure
from fedknow_ray.report.scale_measures import MEASURES, ScaleFigures, figures_of


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> ScaleFigures:
    return figures_of(write_fake_scale(tmp_path_factory.mktemp("scale")))


def marked(figure):
    return {trace["name"]: (trace["x"], trace["y"]) for trace in figure["data"] if trace["mode"] == "markers"}


def drawn(figure):
    return {trace["name"]: (trace["x"], trace["y"]) for trace in figure["data"] if trace["mode"] == "lines"}


def test_points_and_fit_against_tasks(figures):
    figure = growth_figure(figures, "host_cpu_s", "tasks")
    assert marked(figure)["fedavg, 4 clients"] == ([1, 2, 4], [24.0, 48.0, 96.0])
    assert drawn(figure)["fedavg, 4 clients"] == ([1, 4], [24.0, 96.0])
    assert list(marked(figure)) == [f"{m}, {n} clients" for m in ("fedavg", "fedknow") for n in (2, 4)]
    assert figure["layout"]["xaxis"]["tickvals"] == [1, 2, 4]


def test_points_and_fit_against_clients(figures):
    figure = growth_figure(figures, "kept_bytes", "clients")
    assert marked(figure) == {f"fedknow, {t} tasks": ([2, 4], [100.0 * t] * 2) for t in (1, 2, 4)}
    assert drawn(figure)["fedknow, 4 tasks"] == ([2, 4], [400.0, 400.0])


def test_methods_differ_in_colour_and_lines_of_one_in_dash_and_marker(figures):
    looks = {
        (trace["name"], trace["mode"]): trace.get("line", {}) | trace.get("marker", {})
        for trace in growth_figure(figures, "host_cpu_s", "tasks")["data"]
    }
    assert looks["fedavg, 2 clients", "lines"]["color"] == looks["fedavg, 4 clients", "markers"]["color"] == "$series-1"
    assert looks["fedknow, 2 clients", "lines"]["color"] == "$series-2"
    assert [looks[f"fedavg, {n} clients", "lines"]["dash"] for n in (2, 4)] == ["solid", "dash"]
    assert [looks[f"fedavg, {n} clients", "markers"]["symbol"] for n in (2, 4)] == ["circle", "diamond"]


def test_round_against_clients_has_lines_of_the_first_task_and_of_the_numbers_asked_for(figures):
    assert list(marked(growth_figure(figures, "round_s", "clients"))) == [
        f"{method}, task {task}" for method in ("fedavg", "fedknow") for task in (1, 2)
    ]
    assert growth_figure(figures, "round_s", "tasks")["layout"]["xaxis"]["title"]["text"] == "number of the task"


def test_axis_of_equal_figures_spans_a_factor_of_two(figures):
    """26 s everywhere: from 26 / sqrt 2 to 26 x sqrt 2."""
    low, high = growth_figure(figures, "virtual_time_s", "tasks")["layout"]["yaxis"]["range"]
    assert (10**low, 10**high) == pytest.approx((26 / math.sqrt(2), 26 * math.sqrt(2)), rel=1e-4)


def test_figure_that_no_run_has_is_none(figures):
    assert growth_figure(figures, "energy_j", "tasks") is None


def test_number_that_stands_alone_has_markers_and_no_line(tmp_path):
    figures = figures_of(write_fake_scale(tmp_path, clients=[2], methods=["fedavg"]))
    assert drawn(growth_figure(figures, "host_cpu_s", "clients")) == {}
    assert list(drawn(growth_figure(figures, "host_cpu_s", "tasks"))) == ["fedavg, 2 clients"]


@pytest.mark.parametrize("axis", ["tasks", "clients"])
@pytest.mark.parametrize("measure", MEASURES)
def test_plotly_accepts_every_figure(figures, measure, axis):
    figure = growth_figure(figures, measure, axis)
    if figure is not None:
        # Plotly itself knows no names of CSS variables
        plain = re.sub(r'"\$[\w-]+"', '"#123456"', json.dumps(figure, allow_nan=False))
        go.Figure(json.loads(plain))
