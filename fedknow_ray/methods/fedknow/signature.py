"""The choice of FedKNOW's signature tasks: the k past tasks whose gradients are least like the current one.

    wasserstein         p = |g| / ||g||_1, mean_j |cumsum(p_g)_j - cumsum(p_gi)_j|; depends on the order of weights
    wasserstein_sorted  mean_j |sort(g)_j - sort(g_i)_j|: 1-Wasserstein of the two sets of coordinates; not scaled
    cosine              1 - <g, g_i> / (||g|| ||g_i||)
    oldest              the first k tasks
    random              k tasks drawn without replacement

g (P,) is the current gradient, G (t, P) the restored gradients of the t past tasks. A zero gradient in G asks for
nothing and is chosen last by the three distances; where g itself is zero, p_g is zero and every cosine distance is 1.

Luopan et al., "FedKNOW: Federated Continual Learning with Signature Task Knowledge Integration at Edge", ICDE 2023,
arXiv:2212.01738: the largest Wasserstein distance. Of what histograms was not to be found out; `wasserstein` is how a
third-party re-implementation reads it. The authors' code takes the oldest tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fedknow_ray.errors import UnknownNameError

# float64 scratch of (t, 16384) stays in a second-level cache for t up to about 15
_BLOCK = 16_384


def choose(name: str, g_P: Tensor, G_tP: Tensor, k: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return the indices of the k signature tasks among t past ones, ascending; all t where t <= k.

    Equal distances go to the lower index. Only `random` draws from rng, and only if t > k.

    Raises:
        UnknownNameError: if there is no rule of that name.
        ValueError: if k is negative, or a distance is not finite because a gradient is not.
    """
    if name not in RULES:
        raise UnknownNameError("rule for signature tasks", name, RULES)
    if k < 0:
        raise ValueError(f"the number of signature tasks must be at least 0, got {k}")
    t = G_tP.shape[0]
    if t <= k or name == "oldest":
        return tuple(range(min(t, k)))
    if name == "random":
        return tuple(sorted(int(index) for index in rng.choice(t, size=k, replace=False)))
    return _farthest(_DISTANCES[name](g_P, G_tP), G_tP, k)


def wasserstein_t(g_P: Tensor, G_tP: Tensor) -> Tensor:
    """Return the distances (t,) float64 between cumulated normalised magnitudes; O(t) memory beyond the arguments."""
    g_total, G_total_t = _l1(g_P[None]), _l1(G_tP)
    level_t = torch.zeros(G_tP.shape[0], dtype=torch.float64)
    sum_t = torch.zeros_like(level_t)
    for g_B, G_tB in _blocks(g_P, G_tP):
        gap_tB = g_B.abs() / g_total - G_tB.abs() / G_total_t[:, None]
        gap_tB = gap_tB.cumsum(dim=1) + level_t[:, None]
        sum_t += gap_tB.abs().sum(dim=1)
        level_t = gap_tB[:, -1]
    return sum_t / g_P.numel()


def wasserstein_sorted_t(g_P: Tensor, G_tP: Tensor) -> Tensor:
    """Return the 1-Wasserstein distances (t,) float64 of the coordinates' distributions; O(P) memory."""
    sorted_P = g_P.sort().values.double()
    return torch.stack([(sorted_P - row_P.sort().values).abs().mean() for row_P in G_tP])


def cosine_t(g_P: Tensor, G_tP: Tensor) -> Tensor:
    """Return 1 - cosine (t,) float64, from 0 (same direction) to 2 (opposite); 1 where a gradient is zero."""
    dot_t = torch.zeros(G_tP.shape[0], dtype=torch.float64)
    squares_t, square = torch.zeros_like(dot_t), torch.zeros((), dtype=torch.float64)
    for g_B, G_tB in _blocks(g_P, G_tP):
        # products and row sums, not a matrix product: equal rows must give equal bits, or ties would not be ties
        dot_t += (G_tB * g_B).sum(dim=1)
        squares_t += G_tB.square().sum(dim=1)
        square += g_B.square().sum()
    return 1.0 - dot_t / _one_where_zero(squares_t.sqrt() * square.sqrt())


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "wasserstein": wasserstein_t,
    "wasserstein_sorted": wasserstein_sorted_t,
    "cosine": cosine_t,
}
RULES = (*_DISTANCES, "oldest", "random")
"""The names that `choose` knows."""


def _farthest(distance_t: Tensor, G_tP: Tensor, k: int) -> tuple[int, ...]:
    """Return the indices of the k largest distances, ascending; zero gradients last, ties to the lower index."""
    if not bool(distance_t.isfinite().all()):
        raise ValueError("a gradient holds a NaN or an infinity: training has diverged; try a lower learning rate")
    distance_t = distance_t.masked_fill(~G_tP.any(dim=1), -1.0)
    order_t = torch.sort(distance_t, descending=True, stable=True).indices
    return tuple(sorted(int(index) for index in order_t[:k]))


def _blocks(g_P: Tensor, G_tP: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float64 copies of both, a block of columns at a time: (B,) and (t, B)."""
    for g_B, G_tB in zip(torch.split(g_P, _BLOCK), torch.split(G_tP, _BLOCK, dim=1), strict=True):
        yield g_B.double(), G_tB.double()


def _l1(X_RP: Tensor) -> Tensor:
    """Return the sum of magnitudes of each row in float64; 1 for a zero row, which stays zero when divided by it."""
    sum_R = torch.zeros(X_RP.shape[0], dtype=torch.float64)
    for X_RB in torch.split(X_RP, _BLOCK, dim=1):
        sum_R += X_RB.double().abs().sum(dim=1)
    return _one_where_zero(sum_R)


def _one_where_zero(x: Tensor) -> Tensor:
    return torch.where(x == 0, torch.ones_like(x), x)
