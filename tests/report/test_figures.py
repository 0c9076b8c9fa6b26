"""The figures are what Plotly accepts, and hold the numbers that they should."""

from __future__ import annotations

import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from fake_run import Shape, write_fake_run

from fedknow_ray.report import figures
from fedknow_ray.report.document import asset
from fedknow_ray.report.numbers import AccuracyCurve, RoundBytes, accuracy_curve, device_use
from fedknow_ray.report.sections import build_sections
from fedknow_ray.results import load

NAN = float("nan")
ROUNDS = RoundBytes([0, 0, 1], [0, 1, 0], [1_000_000, 0, 2_000_000], [500_000, 0, 0])


@pytest.fixture(scope="module")
def plots(tmp_path_factory):
    """Those of a run whose devices all know their power."""
    run = load(write_fake_run(tmp_path_factory.mktemp("runs") / "power", Shape(power=True)))
    return {plot.name: plot.figure for section in build_sections(run) for plot in section.plots}


NAMES = (
    "accuracy-over-tasks",
    "accuracy-matrix-own",
    "accuracy-matrix-global",
    "accuracy-against-time",
    "accuracy-against-energy",
    "accuracy-against-bytes",
    "accuracy-per-device",
    "forgetting-per-device",
    "time-per-device",
    "compute-over-tasks",
    "blame-per-client",
    "blame-per-round",
    "bytes-per-round",
)


def test_report_has_its_plots(plots):
    assert tuple(plots) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_plotly_knows_every_property_of_the_figure(plots, name):
    """plotly's Python objects raise on a property that plotly.js does not have; the page itself does without them."""
    coloured = json.loads(re.sub(r'"\$[\w-]+"', '"#123456"', json.dumps(plots[name])))
    assert len(go.Figure(coloured).data) == len(plots[name]["data"])


@pytest.mark.parametrize("name", NAMES)
def test_every_colour_of_the_figure_is_a_variable_of_the_page(plots, name):
    defined = set(re.findall(r"--([\w-]+):", asset("page.css")))
    assert set(re.findall(r'"\$([\w-]+)"', json.dumps(plots[name]))) <= defined


def test_both_themes_define_the_same_colours():
    light, dark = asset("page.css").split("@media (prefers-color-scheme: dark)")
    dark = dark.split("* {")[0]
    assert set(re.findall(r"--([\w-]+):", light)) == set(re.findall(r"--([\w-]+):", dark))


def test_heat_map_has_a_gap_where_a_task_is_not_learnt_yet():
    trace = figures.accuracy_heat_map(np.array([[0.5, NAN], [0.25, 1.0]]))["data"][0]
    assert trace["z"] == [[0.5, None], [0.25, 1.0]]
    assert (trace["x"], trace["y"]) == (["1", "2"], ["1", "2"])


def test_heat_map_of_many_tasks_leaves_the_numbers_out():
    assert "texttemplate" not in figures.accuracy_heat_map(np.eye(13))["data"][0]


def test_one_task_gives_a_plot_of_one_mark():
    one = np.array([0.5])
    figure = figures.accuracy_over_tasks({"own": AccuracyCurve(one, one, one)})
    assert figure["data"][2]["y"] == [0.5]


def test_accuracy_against_time_stands_at_the_given_places(fake_run):
    curve = accuracy_curve(fake_run, "own")
    figure = figures.accuracy_against(np.array([1.0, 2.0, 3.0, NAN]), {"own": curve}, unit="hours", quantity="time")
    assert figure["data"][0]["x"] == [1.0, 2.0, 3.0, None]


def test_bars_of_the_devices_add_up_to_a_clients_time(fake_run):
    figure = figures.time_per_device(device_use(fake_run))
    hours = np.sum([trace["x"] for trace in figure["data"]], axis=0)
    expected = [sum(use.seconds.values()) / use.clients / 3600 for use in device_use(fake_run)]
    np.testing.assert_allclose(hours, expected)


def test_bytes_of_a_round_are_in_the_unit_of_the_axis():
    figure = figures.bytes_per_round(ROUNDS)
    assert figure["layout"]["yaxis"]["title"]["text"] == "MB"
    assert figure["data"][0]["y"] == [1.0, 0.0, 2.0]


def test_a_line_marks_where_a_new_task_begins():
    assert [shape["x0"] for shape in figures.bytes_per_round(ROUNDS)["layout"]["shapes"]] == [2.5]


def test_more_devices_than_colours_differ_by_dashes(fake_run):
    use = device_use(fake_run)[0]
    lines = [tuple(trace["line"].values()) for trace in figures.compute_over_tasks([use] * 20)["data"]]
    assert len(set(lines)) == 20


@pytest.mark.parametrize(
    ("seconds", "unit"), [(0, "seconds"), (179, "seconds"), (180, "minutes"), (7200, "hours"), (200_000, "days")]
)
def test_time_axis_has_a_unit_that_suits_its_length(seconds, unit):
    assert figures.time_unit(seconds)[1] == unit


@pytest.mark.parametrize(("joules", "unit"), [(0, "J"), (999, "J"), (1000, "kJ"), (2.5e6, "MJ"), (3e9, "MJ")])
def test_energy_axis_has_a_unit_that_suits_its_length(joules, unit):
    assert figures.energy_unit(joules)[1] == unit


def test_a_share_has_a_line_for_each_device_and_a_gap_where_it_is_not_known():
    figure = figures.share_per_device({"slow": np.array([NAN, 0.25]), "fast": np.array([0.5, 0.125])}, "forgetting")
    assert [(trace["name"], trace["x"], trace["y"]) for trace in figure["data"]] == [
        ("slow", [1, 2], [None, 0.25]),
        ("fast", [1, 2], [0.5, 0.125]),
    ]


@pytest.mark.parametrize(("size", "unit"), [(0, "bytes"), (999, "bytes"), (1000, "kB"), (2.5e9, "GB"), (3e15, "TB")])
def test_byte_axis_has_a_unit_that_suits_its_length(size, unit):
    assert figures.byte_unit(size)[1] == unit
