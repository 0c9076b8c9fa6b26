"""The plots of a comparison are what Plotly accepts, and hold means and intervals."""

from __future__ import annotations

import json
import re

import plotly.graph_objects as go
import pytest
from fake_comparison import FakeRun

from fedknow_ray.report.comparison_figures import (
    COLOURS,
    DASHES,
    MOST_BANDS,
    SVG_DASHES,
    case_style,
    learning_against_forgetting,
    lines_over_tasks,
)
from fedknow_ray.report.comparison_numbers import compute
from fedknow_ray.report.document import asset

TWO = {
    "fedavg": {1: FakeRun(40, 60), 2: FakeRun(42, 62)},
    "local": {1: FakeRun(50, 60, models=("own",)), 2: FakeRun(54, 60, models=("own",))},
}


@pytest.fixture
def numbers_of(comparison_of):
    return lambda runs: compute(comparison_of(runs))


@pytest.fixture(scope="module")
def numbers(comparison_of):
    return compute(comparison_of(TWO))


def curves(numbers, model="own"):
    return lines_over_tasks(
        numbers, "accuracy_after_task", model, x_title="tasks", y_title="accuracy", share=True, from_zero=False
    )


def test_line_of_a_case_is_its_mean_after_each_task(numbers):
    line = curves(numbers)["data"][2]
    assert (line["name"], line["x"], line["y"]) == ("1 fedavg", [1, 2], [0.6, 0.51])


def test_band_of_a_case_is_its_interval(numbers):
    """50 and 52: 51 -/+ 12.706205 points."""
    low, high = curves(numbers)["data"][:2]
    assert (low["y"], high["y"]) == ([0.6, 0.382938], [0.6, 0.637062])


def test_case_without_the_model_has_no_line(numbers):
    assert {trace["legendgroup"] for trace in curves(numbers, "global")["data"]} == {"0"}


def test_one_seed_has_no_band(numbers_of):
    traces = curves(numbers_of({"fedavg": {1: FakeRun(40, 60)}}))["data"]
    assert [trace["mode"] for trace in traces] == ["lines+markers"]


def test_many_cases_have_lines_alone(numbers_of):
    many = {f"fedknow, k={k}": TWO["fedavg"] for k in range(MOST_BANDS + 1)}
    assert len(curves(numbers_of(many))["data"]) == MOST_BANDS + 1


def test_learning_and_forgetting_stand_at_their_means(numbers):
    """Learnt 60 and 60.5, 61 and 61.5...; forgotten 20 and 18."""
    trace = learning_against_forgetting(numbers, "own")["data"][0]
    assert (trace["x"], trace["y"], trace["text"]) == ([0.605], [0.19], ["1"])


def test_cases_differ_by_colour_or_dash():
    assert len({case_style(number) for number in range(COLOURS * len(DASHES))}) == COLOURS * len(DASHES)
    assert len(SVG_DASHES) == len(DASHES)


@pytest.mark.parametrize("figure_of", [curves, lambda numbers: learning_against_forgetting(numbers, "own")])
def test_plotly_and_the_page_know_everything_in_the_figure(numbers, figure_of):
    text = json.dumps(figure_of(numbers), allow_nan=False)
    go.Figure(json.loads(re.sub(r'"\$[\w-]+"', '"#123456"', text)))
    assert set(re.findall(r'"\$([\w-]+)"', text)) <= set(re.findall(r"--([\w-]+):", asset("page.css")))
