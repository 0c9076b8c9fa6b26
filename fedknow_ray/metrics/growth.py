"""How a figure grows with the number of clients and of tasks: a least-squares fit over the points of a grid.

    power      ln y = ln c + a ln clients + b ln tasks + e            y = c clients^a tasks^b
    doubling      y =    c + a log2 clients + b log2 tasks + e        a is what y gains when the clients double

`power` is for figures that are greater than 0 (seconds, bytes, joules), `doubling` for those that may be 0 or less
(accuracy, forgetting). With n points, p fitted numbers, the matrix X (n, p) of 1 and the logarithms, and the residuals
e:

    slopes     (c, a, b) = argmin |e|^2
    interval   a -/+ t_{0.975, n-p} sqrt(s^2 (X'X)^-1_aa),   s^2 = |e|^2 / (n - p)
    R^2        1 - |e|^2 / |y - mean y|^2, of ln y for `power`

The interval says how well a straight line (on these scales) describes the points. It holds as one of confidence if the
residuals are independent and normal; those of figures that no chance enters, such as bytes, are not: there a wide
interval says that the growth is no power law.

Shape legend: n observations, p fitted numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from fedknow_ray.metrics.intervals import CONFIDENCE

Form = Literal["power", "doubling"]
AXES = ("clients", "tasks")
# Of values that are equal but for rounding there is no variance to explain.
_ROUNDING = 1e-12

Array = npt.NDArray[np.float64]


class Observation(NamedTuple):
    """A figure at one point of the grid; clients and tasks are at least 1."""

    clients: int
    tasks: int
    value: float


@dataclass(frozen=True, slots=True)
class Slope:
    """An exponent, or a gain with each doubling, and its 95 % interval: None where no point is left over for one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """The fitted growth of one figure. What cannot be fitted is None, and *note* says why.

    *level* is c, the figure at one client and one task; of an axis without a slope, at that axis's one value.
    """

    form: Form
    n: int
    level: float | None = None
    clients: Slope | None = None
    tasks: Slope | None = None
    r2: float | None = None
    note: str = ""

    def at(self, clients: float, tasks: float) -> float | None:
        """Return the fitted figure at a point, on the grid or beyond it; None where nothing was fitted."""
        if self.level is None:
            return None
        pairs = ((self.clients, clients), (self.tasks, tasks))
        gained = math.fsum(slope.value * math.log2(number) for slope, number in pairs if slope is not None)
        return self.level * math.exp2(gained) if self.form == "power" else self.level + gained


def fit_growth(observations: Sequence[Observation], form: Form) -> Fit:
    """Return the growth with the axes that have at least two values.

    >>> fit = fit_growth([Observation(n, t, 3.0 * n**2 * t) for n in (1, 2) for t in (1, 4)], "power")
    >>> round(fit.level, 6), round(fit.clients.value, 6), round(fit.tasks.value, 6)
    (3.0, 2.0, 1.0)
    """
    n = len(observations)
    axes = [axis for axis in AXES if len({getattr(one, axis) for one in observations}) > 1]
    if not axes:
        return Fit(form, n, note="one point has no growth" if n else "no point has this figure")
    lowest = min(one.value for one in observations)
    if form == "power" and lowest <= 0:
        is_zero = all(one.value == 0 for one in observations)
        return Fit(form, n, note="0 at every point" if is_zero else f"as low as {lowest:g}, which no power law reaches")
    X_np = _columns(observations, axes, form)
    y_n = np.array([one.value for one in observations])
    if form == "power":
        y_n = np.log(y_n)
    if np.linalg.matrix_rank(X_np) < X_np.shape[1]:
        return Fit(form, n, note="clients and tasks change together at these points, so neither can be told apart")
    return _fitted(X_np, y_n, axes, form)


def _columns(observations: Sequence[Observation], axes: Sequence[str], form: Form) -> Array:
    logarithm = np.log if form == "power" else np.log2
    return np.column_stack(
        [np.ones(len(observations)), *(logarithm([getattr(one, axis) for one in observations]) for axis in axes)]
    )


def _fitted(X_np: Array, y_n: Array, axes: Sequence[str], form: Form) -> Fit:
    n, p = X_np.shape
    found_p = np.linalg.lstsq(X_np, y_n, rcond=None)[0]
    squares, spread = float(np.sum((y_n - X_np @ found_p) ** 2)), float(np.sum((y_n - y_n.mean()) ** 2))
    slopes = {axis: Slope(float(found_p[place])) for place, axis in enumerate(axes, 1)}
    notes = [f"one number of {axis}" for axis in AXES if axis not in axes]
    r2 = None
    if n > p:
        reach_p = _reach(X_np, squares / (n - p), n - p)
        slopes = {
            axis: Slope(slopes[axis].value, *(float(found_p[place] + sign * reach_p[place]) for sign in (-1, 1)))
            for place, axis in enumerate(axes, 1)
        }
        if spread > n * (_ROUNDING * max(1.0, float(np.abs(y_n).max()))) ** 2:
            r2 = 1 - squares / spread
    else:
        notes.append(f"{n} points for {p} fitted numbers: no interval, no R²")
    level = float(np.exp(found_p[0]) if form == "power" else found_p[0])
    return Fit(form, n, level, slopes.get("clients"), slopes.get("tasks"), r2, "; ".join(notes))


def _reach(X_np: Array, variance: float, freedom: int) -> Array:
    """Return half the width of the interval of each fitted number, (p,)."""
    inverse_pp = np.linalg.inv(X_np.T @ X_np)
    reach_p: Array = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * np.sqrt(variance * np.diagonal(inverse_pp))
    return reach_p
