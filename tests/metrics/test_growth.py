"""The fitted growth: a known law comes back, intervals by hand, and what too few points do not say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.metrics.growth import Fit, Observation, Slope, fit_growth

GRID = [(clients, tasks) for clients in (8, 16, 32, 64) for tasks in (4, 8, 16)]
EXPONENTS = st.floats(-3, 3)


@settings(deadline=None)
@given(st.floats(1e-3, 1e9), EXPONENTS, EXPONENTS)
def test_a_power_law_comes_back(level: float, of_clients: float, of_tasks: float):
    fit = fit_growth([Observation(n, t, level * n**of_clients * t**of_tasks) for n, t in GRID], "power")
    assert fit.level == pytest.approx(level, rel=1e-6)
    assert fit.clients is not None and fit.tasks is not None
    assert (fit.clients.value, fit.tasks.value) == pytest.approx((of_clients, of_tasks), abs=1e-7)
    assert (fit.clients.low, fit.clients.high) == pytest.approx((of_clients, of_clients), abs=1e-6)
    assert fit.at(100, 20) == pytest.approx(level * 100**of_clients * 20**of_tasks, rel=1e-5)
    assert (fit.n, fit.note) == (12, "")


@settings(deadline=None)
@given(st.floats(-1, 1), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_a_gain_with_each_doubling_comes_back(level: float, of_clients: float, of_tasks: float):
    points = [Observation(n, t, level + of_clients * math.log2(n) + of_tasks * math.log2(t)) for n, t in GRID]
    fit = fit_growth(points, "doubling")
    assert fit.clients is not None and fit.tasks is not None
    assert (fit.level, fit.clients.value, fit.tasks.value) == pytest.approx((level, of_clients, of_tasks), abs=1e-9)
    assert fit.at(128, 32) == pytest.approx(level + 7 * of_clients + 5 * of_tasks, abs=1e-9)


def test_interval_and_r2_by_hand():
    """x = 0, 1, 2 and y = 0, 2, 1: slope 1/2, residuals -1/2, 1, -1/2, s^2 = 3/2, sum (x - 1)^2 = 2."""
    fit = fit_growth([Observation(1, 3, 0.0), Observation(2, 3, 2.0), Observation(4, 3, 1.0)], "doubling")
    reach = 12.706204736432095 * math.sqrt(1.5 / 2)  # t_{0.975, 1}
    assert fit.level == pytest.approx(0.5)
    assert fit.clients is not None
    assert (fit.clients.value, fit.clients.low, fit.clients.high) == pytest.approx((0.5, 0.5 - reach, 0.5 + reach))
    assert fit.r2 == pytest.approx(1 - 1.5 / 2)


def test_r2_of_a_power_law_is_of_the_logarithms():
    values = [math.exp(y) for y in (0.0, 2.0, 1.0)]
    fit = fit_growth([Observation(n, 1, v) for n, v in zip((1, 2, 4), values, strict=True)], "power")
    assert fit.clients is not None
    assert fit.clients.value == pytest.approx(0.5 / math.log(2))
    assert fit.r2 == pytest.approx(0.25)


def test_axis_with_one_value_has_no_exponent():
    fit = fit_growth([Observation(n, 4, 2.0 * n) for n in (1, 2, 4)], "power")
    assert fit.clients is not None and fit.clients.value == pytest.approx(1.0)
    assert fit.tasks is None
    assert fit.note == "one number of tasks"
    assert fit.at(8, 4) == pytest.approx(16.0)


def test_as_many_points_as_fitted_numbers_have_no_interval():
    fit = fit_growth([Observation(n, 4, 2.0 * n) for n in (1, 2)], "power")
    assert fit.clients == Slope(pytest.approx(1.0))
    assert fit.r2 is None
    assert fit.note == ("one number of tasks; 2 points for 2 fitted numbers: no interval, no R²")


@pytest.mark.parametrize(
    ("points", "form", "note"),
    [
        ([], "power", "no point has this figure"),
        ([Observation(2, 2, 1.0)], "power", "one point has no growth"),
        ([Observation(2, 2, 0.0), Observation(4, 2, 0.0)], "power", "0 at every point"),
        ([Observation(2, 2, -0.5), Observation(4, 2, 1.0)], "power", "as low as -0.5, which no power law reaches"),
        (
            [Observation(n, n, float(n)) for n in (1, 2, 4, 8)],
            "doubling",
            "clients and tasks change together at these points, so neither can be told apart",
        ),
    ],
)
def test_what_cannot_be_fitted_says_why(points, form, note):
    fit = fit_growth(points, form)
    assert fit == Fit(form, len(points), note=note)
    assert fit.at(2, 2) is None


@pytest.mark.parametrize(("form", "value"), [("power", 10e6), ("power", 0.1), ("doubling", 0.7)])
def test_equal_values_do_not_grow_and_leave_nothing_to_explain(form, value):
    fit = fit_growth([Observation(n, t, value) for n, t in GRID], form)
    assert fit.clients is not None and fit.tasks is not None
    assert (fit.clients.value, fit.tasks.value) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert fit.r2 is None
