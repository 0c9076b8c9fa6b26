"""Intervals and paired differences: cases worked out by hand with Student's table, and the laws that hold for any."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from fedknow_ray.metrics.intervals import mean_interval, paired_difference

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)
BY_SEED = st.dictionaries(st.integers(1, 6), st.floats(-100, 100), max_size=6)


def close(value):
    return pytest.approx(value, abs=1e-6)


def test_interval_of_five_values():
    """3 -/+ 2.776445 * 1.581139 / sqrt(5), with t(0.975, 4) = 2.776445."""
    interval = mean_interval([1, 2, 3, 4, 5])
    assert (interval.n, interval.mean) == (5, 3)
    assert (interval.low, interval.high) == (close(3 - 2.776445 * 0.707107), close(3 + 2.776445 * 0.707107))


def test_interval_of_two_values():
    """t(0.975, 1) = 12.706205: two seeds 2 points apart leave 12.7 points of doubt either way."""
    interval = mean_interval([-1, 1])
    assert (interval.low, interval.high) == (close(-12.706205), close(12.706205))


def test_one_value_has_a_mean_and_no_interval():
    interval = mean_interval([0.5])
    assert (interval.n, interval.mean, interval.low, interval.high) == (1, 0.5, None, None)
    assert not interval.excludes_zero


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_value_and_no_number_are_refused(values):
    with pytest.raises(ValueError, match="at least one value, all of them finite"):
        mean_interval(values)


@pytest.mark.parametrize(("value", "excludes"), [(0.0, False), (0.1, True), (-0.1, True)])
def test_equal_values_have_an_interval_of_width_0_which_excludes_all_but_themselves(value, excludes):
    interval = mean_interval([value] * 3)
    assert interval.low == interval.high == value
    assert interval.excludes_zero is excludes


def test_difference_is_of_the_seeds_that_both_have():
    """Seeds 1 and 2 are shared: differences 0.2 and 0.4."""
    difference = paired_difference({1: 0.5, 2: 0.6, 3: 0.9}, {2: 0.2, 1: 0.3, 7: 0.0}, higher_is_better=True)
    assert difference.seeds == (1, 2)
    assert difference.interval.mean == close(0.3)


def test_no_common_seed_gives_no_difference():
    assert paired_difference({1: 0.5}, {2: 0.5}, higher_is_better=True) is None


def test_small_but_steady_difference_is_a_win_though_the_means_overlap():
    """Differences 5, 4, 6: 5 -/+ 4.302653 / sqrt(3) = 2.515863 to 7.484137."""
    baseline, values = {1: 10.0, 2: 50.0, 3: 90.0}, {1: 15.0, 2: 54.0, 3: 96.0}
    difference = paired_difference(values, baseline, higher_is_better=True)
    assert (difference.interval.low, difference.interval.high) == (close(2.515863), close(7.484137))
    assert difference.verdict == "win"
    assert mean_interval(list(values.values())).low < mean_interval(list(baseline.values())).high


def test_large_but_unsteady_difference_is_none_shown():
    """Differences 1, 5 and 9: 5 -/+ 4.302653 * 4 / sqrt(3) = -4.9 to 14.9."""
    assert (
        paired_difference({1: 1, 2: 5, 3: 9}, {1: 0, 2: 0, 3: 0}, higher_is_better=True).verdict
        == "no difference shown"
    )


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "no difference shown"), (2, "no difference shown"), (3, "win")])
def test_equal_differences_are_a_win_from_three_seeds_up(seeds, verdict):
    """Two differences that are equal to the bit have an interval of width 0, which excludes 0."""
    values, baseline = (dict.fromkeys(range(seeds), value) for value in (0.75, 0.5))
    assert paired_difference(values, baseline, higher_is_better=True).verdict == verdict


@pytest.mark.parametrize(("higher_is_better", "verdict"), [(True, "loss"), (False, "win"), (None, None)])
def test_verdict_depends_on_which_direction_is_better(higher_is_better, verdict):
    less = paired_difference(
        dict.fromkeys([1, 2, 3], 1.0), dict.fromkeys([1, 2, 3], 2.0), higher_is_better=higher_is_better
    )
    assert less.verdict == verdict


def test_last_bit_of_a_sum_is_no_win():
    assert 0.1 + 0.2 != 0.3
    same = paired_difference(dict.fromkeys([1, 2, 3], 0.1 + 0.2), dict.fromkeys([1, 2, 3], 0.3), higher_is_better=True)
    assert same.interval.mean == 0
    assert same.verdict == "no difference shown"


@given(VALUES)
def test_interval_is_that_of_scipys_t_distribution(values):
    interval = mean_interval(values)
    spread = math.sqrt(sum((value - interval.mean) ** 2 for value in values) / (len(values) - 1))
    low, high = student.interval(0.95, len(values) - 1)
    assert interval.low == close(interval.mean + low * spread / math.sqrt(len(values)))
    assert interval.high == close(interval.mean + high * spread / math.sqrt(len(values)))


@given(VALUES, st.floats(-100, 100))
def test_shifting_the_values_shifts_the_interval(values, shift):
    interval, shifted = mean_interval(values), mean_interval([value + shift for value in values])
    assert (shifted.low, shifted.high) == (close(interval.low + shift), close(interval.high + shift))


@given(VALUES, st.floats(-10, 10))
def test_scaling_the_values_scales_the_interval(values, factor):
    interval, scaled = mean_interval(values), mean_interval([value * factor for value in values])
    assert scaled.high - scaled.low == pytest.approx(abs(factor) * (interval.high - interval.low), abs=1e-5)


@given(BY_SEED, BY_SEED)
def test_a_win_is_the_others_loss(mine, theirs):
    forth = paired_difference(mine, theirs, higher_is_better=True)
    back = paired_difference(theirs, mine, higher_is_better=True)
    if forth is None:
        assert back is None
        return
    assert forth.interval.mean == -back.interval.mean
    assert back.verdict == {"win": "loss", "loss": "win"}.get(forth.verdict, forth.verdict)


@given(BY_SEED.filter(bool))
def test_nothing_differs_from_itself(values):
    assert paired_difference(values, values, higher_is_better=True).verdict == "no difference shown"
