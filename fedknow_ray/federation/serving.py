"""The server's part in a method: what it sends beside each merged model, from images of its own.

A function of (merged model, tasks seen, proxy images) and of nothing else, so it is the same wherever it is computed,
and a server that is lost or resumed has nothing to remember. The *proxy set* is a seeded share of each client's
training images of each task seen so far; what it holds of a task stays the same while others come. A network is needed
for it, and so torch: only a method that `serves` has this imported where the server is.

Its computing is not on the virtual clock, as the merge is not: the server is taken to be as fast as it has to be.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.federation.visit import SharedModel
from fedknow_ray.federation.worker import Assembly
from fedknow_ray.scenario.scenario import Scenario
from fedknow_ray.seeding import stream
from fedknow_ray.transport.payload import Buffer, decode

if TYPE_CHECKING:
    from fedknow_ray.scenario.datasets import Dataset


def proxy_indices(scenario: Scenario, tasks_seen: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """Return the training images that the server has: sorted indices, each once.

    They are of the first *tasks_seen* places of all clients' sequences; of each client's images of a task a share,
    rounded up.
    """
    chosen = []
    for client_id, sequence in enumerate(scenario.sequences):
        # a task that recurs is of the same images again
        for task_index, task_id in enumerate(sequence[:tasks_seen]):
            indices = scenario.train_indices(client_id, task_index)
            order = stream(seed, "server proxy", client=client_id, task=task_id).permutation(len(indices))
            chosen.append(indices[order[: math.ceil(fraction * len(indices))]])
    return np.unique(np.concatenate(chosen))


class ServerPart:
    """The server part of one run, with a network to compute in."""

    def __init__(self, assembly: Assembly, dataset: Dataset) -> None:
        self._scenario, self._seed = assembly.scenario, assembly.config.seed
        self._images = dataset.train.images
        self._method = assembly.make_method()
        self._learner = assembly.make_learner(dataset)

    def extend(self, merged: Buffer, tasks_seen: int) -> Buffer:
        """Return a merged model as the broadcast that clients get: with what the method serves."""
        model = SharedModel.of(decode(merged))
        indices = proxy_indices(self._scenario, tasks_seen, self._method.proxy_fraction, self._seed)
        self._learner.network.load(model.features_S)
        served = self._method.serve(self._learner, self._images[indices])
        return SharedModel(model.features_S, model.head_CF, served).payload()
