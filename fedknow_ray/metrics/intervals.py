"""Means over seeds with their 95 % intervals, and paired differences with a verdict.

With n values of mean m and sample standard deviation s (n - 1 in the denominator):

    interval = m -/+ t_{0.975, n-1} s / sqrt(n)         Student, "The probable error of a mean", Biometrika 1908

A difference of two methods is taken seed by seed, for the seeds that both have: what a seed does to both (the data that
it deals, the start weights) cancels, so that the interval of the differences is narrower than that of either mean. It
is called a win or a loss only if its interval excludes 0 and it is of three seeds or more: two that agree to the last
bit have an interval of width 0, and show nothing.

Each interval stands alone. Of twenty comparisons between things that do not differ one is expected to exclude 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean as exact_mean
from statistics import stdev
from typing import Literal

from scipy.special import stdtrit

CONFIDENCE = 0.95
FEWEST_SEEDS_FOR_VERDICT = 3
# Two ways of adding up the same numbers may differ by so much; a difference of that size in every seed is no win.
_ROUNDING = 1e-12

Verdict = Literal["win", "loss", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean of n values, and the 95 % interval of the mean; `low` and `high` are None with fewer than two values."""

    n: int
    mean: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside; never with fewer than two values. An end that is 0 counts as inside."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True)
class Difference:
    """Paired differences, theirs minus the baseline's: the seeds that both have, their interval, and what it shows."""

    seeds: tuple[int, ...]
    interval: Interval
    verdict: Verdict | None
    """None where neither direction is the better one."""


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of the values with its interval; equal values give an interval of width 0.

    Raises:
        ValueError: if there is no value, or one is not finite.

    >>> interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # 3 -/+ 2.776445 * 1.581139 / sqrt(5)
    >>> interval.mean, round(interval.low, 6), round(interval.high, 6)
    (3.0, 1.036757, 4.963243)
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"a mean needs at least one value, all of them finite; got {list(values)}")
    n, mean = len(values), float(exact_mean(values))
    if n < 2:
        return Interval(n, mean, None, None)
    reach = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(n)
    return Interval(n, mean, mean - reach, mean + reach)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], *, higher_is_better: bool | None
) -> Difference | None:
    """Return the differences *values* minus *baseline*, both by seed; None where they have no seed in common.

    *higher_is_better* says which direction is a win; None gives no verdict. Fewer than three seeds show no difference.
    """
    seeds = tuple(sorted(values.keys() & baseline.keys()))
    if not seeds:
        return None
    interval = mean_interval([_minus(values[seed], baseline[seed]) for seed in seeds])
    return Difference(seeds, interval, None if higher_is_better is None else _verdict(interval, higher_is_better))


def _minus(value: float, baseline: float) -> float:
    return 0.0 if math.isclose(value, baseline, rel_tol=_ROUNDING) else value - baseline


def _verdict(interval: Interval, higher_is_better: bool) -> Verdict:
    if interval.n < FEWEST_SEEDS_FOR_VERDICT or not interval.excludes_zero:
        return "no difference shown"
    return "win" if (interval.mean > 0) == higher_is_better else "loss"
