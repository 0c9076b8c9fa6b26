"""Gradient integration of FedKNOW: the step closest to the current gradient that no signature task objects to.

Given the current gradient g and the k gradients G (k, P) of signature tasks, returns the g' closest to g with
<g', G_i> >= 0 for all i ("acute angles"), by way of the dual:

    min_g' 1/2 ||g - g'||^2  s.t.  G g' >= 0
    min_v  1/2 v' (G G') v + (G g)' v  s.t.  v >= 0,        g' = g + G' v

g and G are the R = k + 1 rows of one buffer, g first. Where nothing is violated, g' is g, bit for bit.

Luopan et al., "FedKNOW: Federated Continual Learning with Signature Task Knowledge Integration at Edge", ICDE 2023,
arXiv:2212.01738. Differs from the authors' code: the violation test looks at g (theirs at a past gradient), v >= 0
(theirs v >= 0.5: `margin`), and the dual is solved as follows. Gradients are scaled to norm 1 and a ridge of 1e-12
makes the k x k matrix positive definite; with L its Cholesky factor and c the linear term, scipy solves the
non-negative least squares problem min ||L' v + inv(L) c||, v >= 0. Should it not converge, coordinate descent takes
over. A past gradient of norm zero constrains nothing and has the multiplier 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from fedknow_ray.errors import DivergenceError

VIOLATION_COSINE = 1e-6
"""An angle counts as obtuse below minus this cosine: float32 rounding of g' alone moves it by about 1e-7."""

# Over 1920 random and nearly collinear problems (k up to 20) the worst KKT residual was 4e-8 with this ridge, 1e-6
# with 1e-10, 1e-4 with 1e-6: nearly opposite gradients need large multipliers, which a ridge shrinks.
_RIDGE = 1e-12
_KKT_TOLERANCE = 1e-7
_SWEEPS = 2_000
# float64 scratch of (R, 16384) stays in a second-level cache for R up to about 15
_BLOCK = 16_384
# `quick_gram`: columns whose products are added up in float32, and how many such blocks go into one call
_QUICK_BLOCK, _QUICK_BLOCKS = 512, 64
# Its error in a cosine (mostly 5e-9, 1e-7 at most from 65,536 columns on) moves g' by that over the root of the least
# eigenvalue. On the digits with 1 to 4 past tasks that eigenvalue lies between 0.02 and 0.7.
_QUICK_LEAST_COLUMNS, _QUICK_LEAST_EIGENVALUE = 65_536, 1e-2
_QUICK_SQUARES = (1e-20, 1e30)


@dataclass(frozen=True, slots=True, eq=False)
class IntegrationResult:
    """The integrated gradient and how it came about."""

    g_P: Tensor
    """float32 (P,): the tensor that was given as `out`, or row 0 of the buffer."""
    multipliers: NDArray[np.float64]
    """(k,): how much of each past gradient was added; all 0 where nothing was violated."""
    violations: int
    """How many past gradients the current one was at an obtuse angle to, before integration."""
    norm_k: NDArray[np.float64]
    """(k,): norms of the past gradients."""

    @property
    def violated(self) -> bool:
        """Whether the current gradient had to be changed."""
        return self.violations > 0


def integrate(G_RP: Tensor, margin: float = 0.0, out: Tensor | None = None) -> IntegrationResult:
    """Integrate row 0 of G_RP (k + 1, P) float32 with the past gradients in rows 1 to k; writes row 0, or `out` (P,).

    With a margin, every multiplier is at least that as soon as one past gradient is violated (authors' code: 0.5).

    Raises:
        DivergenceError: if a gradient holds a NaN or an infinity.
    """
    gram_RR = _gram_for_dual(G_RP)
    if not np.isfinite(gram_RR).all():
        raise DivergenceError("a gradient holds a NaN or an infinity")
    norm_R = np.sqrt(gram_RR.diagonal())
    violations = _count_obtuse(gram_RR[0, 1:], norm_R[0], norm_R[1:])
    if violations == 0:
        g_P = G_RP[0] if out is None else out.copy_(G_RP[0])
        return IntegrationResult(g_P, np.zeros(len(norm_R) - 1), 0, norm_R[1:])
    multipliers = solve_dual(gram_RR, margin)
    return IntegrationResult(combine(G_RP, multipliers, out), multipliers, violations, norm_R[1:])


def gram(G_RP: Tensor) -> NDArray[np.float64]:
    """Return the products of all rows, (R, R) float64, accumulated in float64 over blocks of columns."""
    gram_RR = torch.zeros(G_RP.shape[0], G_RP.shape[0], dtype=torch.float64)
    scratch_RB = torch.empty(G_RP.shape[0], min(_BLOCK, G_RP.shape[1]), dtype=torch.float64)
    for G_RB in torch.split(G_RP, _BLOCK, dim=1):
        x_RB = scratch_RB[:, : G_RB.shape[1]].copy_(G_RB)
        gram_RR.addmm_(x_RB, x_RB.T)
    return gram_RR.numpy()


def quick_gram(G_RP: Tensor) -> NDArray[np.float64]:
    """Return what `gram` does with an error below 1e-7 of the two norms, in a third of the time.

    Products are added up in float32 within blocks of 512 columns, and the blocks in float64: 11 against 33 ms for 10
    gradients of 2.4 million weights.
    """
    R = G_RP.shape[0]
    gram_RR = torch.zeros(R, R, dtype=torch.float64)
    for G_RB in torch.split(G_RP, _QUICK_BLOCK * _QUICK_BLOCKS, dim=1):
        whole = G_RB.shape[1] // _QUICK_BLOCK * _QUICK_BLOCK
        x_bRB = G_RB[:, :whole].view(R, whole // _QUICK_BLOCK, _QUICK_BLOCK).transpose(0, 1)
        gram_RR += torch.bmm(x_bRB, x_bRB.transpose(1, 2)).sum(0, dtype=torch.float64)
        gram_RR += G_RB[:, whole:] @ G_RB[:, whole:].T
    return gram_RR.numpy()


def _gram_for_dual(G_RP: Tensor) -> NDArray[np.float64]:
    """Return `quick_gram` where its error moves g' by no more than float32 rounding does, else `gram`.

    It moves it further where gradients are nearly dependent, or where squares leave the range of float32.
    """
    if G_RP.shape[1] < _QUICK_LEAST_COLUMNS:
        return gram(G_RP)
    gram_RR = quick_gram(G_RP)
    square_R = gram_RR.diagonal()
    if not (_QUICK_SQUARES[0] < square_R.min() <= square_R.max() < _QUICK_SQUARES[1]):
        return gram(G_RP)
    cosine_RR = gram_RR / np.sqrt(square_R) / np.sqrt(square_R)[:, None]
    well_posed = np.linalg.eigvalsh(cosine_RR)[0] >= _QUICK_LEAST_EIGENVALUE
    return gram_RR if well_posed else gram(G_RP)


def solve_dual(gram_RR: NDArray[np.float64], margin: float = 0.0) -> NDArray[np.float64]:
    """Return the multipliers v (k,), v >= margin, that minimise 1/2 v' Q v + c' v; 0 for past gradients of norm zero.

    Q = gram[1:, 1:] and c = gram[1:, 0]: products of the past gradients with each other and with the current one.

    Raises:
        ValueError: if the margin is negative.
    """
    if margin < 0:
        raise ValueError(f"the margin must be at least 0, got {margin}")
    norm_R = np.sqrt(gram_RR.diagonal())
    live = np.flatnonzero(norm_R[1:] > 0)
    norm_k, norm_g = norm_R[1:][live], norm_R[0] or 1.0
    Q = gram_RR[1:, 1:][np.ix_(live, live)] / norm_k / norm_k[:, None]
    c = gram_RR[1:, 0][live] / norm_k / norm_g
    # v = margin + s, s >= 0: the margin moves the linear term, in units of the scaled problem
    excess = _minimise(Q, c + Q @ (margin * norm_k / norm_g))
    multipliers = np.zeros(len(norm_R) - 1)
    multipliers[live] = margin + excess * (norm_g / norm_k)
    return multipliers


def combine(G_RP: Tensor, multipliers: NDArray[np.float64], out: Tensor | None = None) -> Tensor:
    """Write g + sum_i v_i G_i into `out` (P,), or row 0 of G_RP, and return it; summed in float64, rounded once."""
    out_P = G_RP[0] if out is None else out
    adding = [(row, float(multipliers[row - 1])) for row in range(1, len(G_RP)) if multipliers[row - 1]]
    scratch_B = torch.empty(min(_BLOCK, out_P.numel()), dtype=torch.float64)
    for out_B, G_RB in zip(torch.split(out_P, _BLOCK), torch.split(G_RP, _BLOCK, dim=1), strict=True):
        sum_B = scratch_B[: out_B.numel()].copy_(G_RB[0])
        for row, multiplier in adding:
            sum_B.add_(G_RB[row], alpha=multiplier)
        out_B.copy_(sum_B)
    return out_P


def violations_after(update_P: Tensor, G_kP: Tensor, norm_k: NDArray[np.float64] | None = None) -> int:
    """Return how many past gradients an update (old - new weights, as a gradient points) is at an obtuse angle to.

    Counted after the step, because an adaptive optimizer can undo the integration: Adam's first step is the sign of g'.
    *norm_k* the gradients' norms, where they are known. float32 within a block does: it moves a cosine by 1e-8.
    """
    dot_k = torch.zeros(G_kP.shape[0], dtype=torch.float64)
    square = torch.zeros((), dtype=torch.float64)
    for update_B, G_kB in zip(torch.split(update_P, _BLOCK), torch.split(G_kP, _BLOCK, dim=1), strict=True):
        dot_k += G_kB @ update_B
        square += update_B @ update_B
    norms = np.sqrt(gram(G_kP).diagonal()) if norm_k is None else norm_k
    return _count_obtuse(dot_k.numpy(), float(square.sqrt()), norms)


def _count_obtuse(dot_k: NDArray[np.float64], norm: float, norm_k: NDArray[np.float64]) -> int:
    return int((dot_k < -VIOLATION_COSINE * norm * norm_k).sum())


def _minimise(Q: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return s >= 0 (n,) that minimises 1/2 s' Q s + c' s, for a Q (n, n) of unit diagonal that may be singular."""
    if (c >= 0).all():
        return np.zeros(len(c))
    H = Q + _RIDGE * np.eye(len(c))
    try:
        L = np.linalg.cholesky(H)
        s: NDArray[np.float64] = nnls(L.T, -np.linalg.solve(L, c))[0]
    except (np.linalg.LinAlgError, RuntimeError):  # rounding beyond the ridge; scipy's word for too many iterations
        return _coordinate_descent(H, c)
    return s if _kkt_residual(H, c, s) <= _KKT_TOLERANCE else _coordinate_descent(H, c)


def _coordinate_descent(H: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimise one multiplier at a time, clipped at 0, until the optimality conditions hold or sweeps run out.

    Each step lowers the objective, so what is returned is never worse than no integration at all.
    """
    s = np.zeros(len(c))
    for _ in range(_SWEEPS):
        for i in range(len(c)):
            s[i] = max(0.0, s[i] - (H[i] @ s + c[i]) / H[i, i])
        if _kkt_residual(H, c, s) <= _KKT_TOLERANCE:
            break
    return s


def _kkt_residual(Q: NDArray[np.float64], c: NDArray[np.float64], s: NDArray[np.float64]) -> float:
    """Return how far s is from optimal: the largest |min(s_i, slack_i)|, relative to c where that exceeds 1.

    With slack = Q s + c, s is optimal if and only if s >= 0, slack >= 0 and one of each pair is 0.
    """
    return float(np.abs(np.minimum(s, Q @ s + c)).max() / max(1.0, np.abs(c).max()))
