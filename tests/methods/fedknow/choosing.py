"""The choice of signature tasks from all gradients at once, which the package makes one gradient at a time."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedknow_ray.methods.fedknow.signature import choose_without_gradients, distance, farthest, measures_gradients


def choose(name: str, g_P: Tensor, G_tP: Tensor, k: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return the indices of the k signature tasks among t past ones, ascending; all t where t <= k."""
    t = G_tP.shape[0]
    if not measures_gradients(name, t, k):
        return choose_without_gradients(name, t, k, rng)
    return farthest([distance(name, g_P, past_P) for past_P in G_tP], k)
