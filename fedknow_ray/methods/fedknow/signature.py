"""The choice of FedKNOW's signature tasks: the k past tasks whose gradients are least like the current one.

    wasserstein         p = |g| / ||g||_1, mean_j |cumsum(p_g)_j - cumsum(p_gi)_j|; depends on the order of weights
    wasserstein_sorted  mean_j |sort(g)_j - sort(g_i)_j|: 1-Wasserstein of the two sets of coordinates; not scaled
    cosine              1 - <g, g_i> / (||g|| ||g_i||)
    oldest              the first k tasks
    random              k tasks drawn without replacement

g (P,) is the current gradient, g_i (P,) the restored gradient of one of t past tasks. Distances are taken one pair at a
time, so that t gradients need not be held at once. A zero g_i asks for nothing and is chosen last; where g is zero, p_g
is zero and every cosine distance is 1.

Luopan et al., "FedKNOW: Federated Continual Learning with Signature Task Knowledge Integration at Edge", ICDE 2023,
arXiv:2212.01738: the largest Wasserstein distance. Of what histograms was not to be found out; `wasserstein` is how a
third-party re-implementation reads it. The authors' code takes the oldest tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fedknow_ray.errors import DivergenceError, UnknownNameError

# float64 blocks of 256 KiB: the few that are alive at once stay in a second-level cache
_BLOCK = 32_768


def measures_gradients(name: str, t: int, k: int) -> bool:
    """Return whether choosing k of t tasks by this rule needs their gradients: a distance, and more tasks than wanted.

    Raises:
        UnknownNameError: if there is no rule of that name.
        ValueError: if k is negative.
    """
    if name not in RULES:
        raise UnknownNameError("rule for signature tasks", name, RULES)
    if k < 0:
        raise ValueError(f"the number of signature tasks must be at least 0, got {k}")
    return name in _DISTANCES and t > k > 0


def choose_without_gradients(name: str, t: int, k: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return the k tasks, ascending, where `measures_gradients` is false: all, none, the oldest, or random ones.

    Only `random` draws from rng, and only if t > k.
    """
    if name == "random" and t > k:
        return tuple(sorted(int(index) for index in rng.choice(t, size=k, replace=False)))
    return tuple(range(min(t, k)))


def distance(name: str, g_P: Tensor, past_P: Tensor) -> float:
    """Return how unlike the two gradients are, 0 (alike) and up; -1 for a past gradient of zero: chosen last."""
    return _DISTANCES[name](g_P, past_P) if bool(past_P.any()) else -1.0


def farthest(distances: Sequence[float], k: int) -> tuple[int, ...]:
    """Return the indices of the k largest distances, ascending; ties go to the lower index.

    Raises:
        DivergenceError: if a distance is not finite.
    """
    if not all(math.isfinite(value) for value in distances):
        raise DivergenceError("a gradient holds a NaN or an infinity")
    order = sorted(range(len(distances)), key=lambda index: (-distances[index], index))
    return tuple(sorted(order[:k]))


def wasserstein(g_P: Tensor, past_P: Tensor) -> float:
    """Return the mean distance between the cumulated normalised magnitudes; O(1) memory beyond the arguments."""
    g_total, past_total = _l1(g_P), _l1(past_P)
    total, level = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for g_B, past_B in _blocks(g_P, past_P):
        gap_B = (g_B.abs() / g_total - past_B.abs() / past_total).cumsum(dim=0) + level
        total += gap_B.abs().sum()
        level = gap_B[-1]
    return float(total) / g_P.numel()


def wasserstein_sorted(g_P: Tensor, past_P: Tensor) -> float:
    """Return the 1-Wasserstein distance of the distributions of the two gradients' coordinates; O(P) memory."""
    # numpy sorts 2.4 million floats in 9 ms where torch takes 200 ms
    gap_P = np.sort(g_P.numpy()).astype(np.float64) - np.sort(past_P.numpy())
    return float(np.abs(gap_P).mean())


def cosine(g_P: Tensor, past_P: Tensor) -> float:
    """Return 1 - cosine, from 0 (same direction) to 2 (opposite); 1 where a gradient is zero."""
    dot, g_square, past_square = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for g_B, past_B in _blocks(g_P, past_P):
        dot += g_B.dot(past_B)
        g_square += g_B.dot(g_B)
        past_square += past_B.dot(past_B)
    norms = math.sqrt(g_square) * math.sqrt(past_square)
    return 1.0 - float(dot) / (norms or 1.0)


_DISTANCES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "wasserstein": wasserstein,
    "wasserstein_sorted": wasserstein_sorted,
    "cosine": cosine,
}
RULES = (*_DISTANCES, "oldest", "random")
"""The names that the setting `selection` may have."""


def _blocks(g_P: Tensor, past_P: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both in float64, a block (B,) of each at a time."""
    for g_B, past_B in zip(torch.split(g_P, _BLOCK), torch.split(past_P, _BLOCK), strict=True):
        yield g_B.double(), past_B.double()


def _l1(x_P: Tensor) -> float:
    """Return the sum of magnitudes in float64; 1 for a zero vector, which stays zero when divided by it."""
    return sum(float(x_B.double().abs().sum()) for x_B in torch.split(x_P, _BLOCK)) or 1.0
