"""Who gets which share of each class: the partition rules, without looking at any image.

A rule deals `Share`s. Share (j, q, S) is the q-th of S equal parts of the class at position j of a task; of a class
with n images, in a seeded order, it covers [floor(n q / S), floor(n (q + 1) / S)). The same shares cut both splits, so
a client is tested on the classes that it learns, in the same proportion. N clients, C classes in a task:

    shards   s shards for each client: s N shards in all, S_j = floor(s N / C) of class j, and one more of the first
             s N mod C classes; the multiset is shuffled once and dealt, so a client may hold a class twice, never a
             shard twice. With s N < C the last classes go to nobody. At N = 20, s = 5, C = 10: 10 shards a class, 3 to
             5 classes a client (Luopan et al., "FedKNOW", ICDE 2023, experimental set-up).
    iid      S_j = N: every client gets an equal part of every class
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.registry import Registry
from fedknow_ray.seeding import stream


class Share(NamedTuple):
    """The part `shard` of `shards` equal parts of the class at `position` in a task."""

    position: int
    shard: int
    shards: int


Deal: TypeAlias = tuple[tuple[Share, ...], ...]
"""The shares of each client in one task, by client_id."""


class PartitionOptions(Protocol):
    """What every partition of a config has: the name of its rule."""

    @property
    def name(self) -> str:
        """Name in `PARTITIONS`."""


class ShardsOptions(PartitionOptions, Protocol):
    """The config of `shards`."""

    @property
    def shards_per_client(self) -> int:
        """Shards that a client holds in each task."""

    @property
    def reuse_across_tasks(self) -> bool:
        """True: one deal for all tasks, as in the authors' code; False: a deal for each task."""


PartitionRule: TypeAlias = Callable[[PartitionOptions, int, int, int, int], list[Deal]]
"""(options, clients, classes_per_task, tasks, seed) -> the deal of each task, by task id."""


def deal_shards(options: PartitionOptions, clients: int, classes: int, tasks: int, seed: int) -> list[Deal]:
    """Deal `shards_per_client` shards to each client in each task."""
    shards = cast(ShardsOptions, options)
    dealt = [
        _deal_once(shards.shards_per_client, clients, classes, stream(seed, "scenario.deal", task=task_id))
        for task_id in ([-1] if shards.reuse_across_tasks else range(tasks))
    ]
    return dealt * tasks if shards.reuse_across_tasks else dealt


def deal_iid(options: PartitionOptions, clients: int, classes: int, tasks: int, seed: int) -> list[Deal]:
    """Deal one of N equal parts of every class to each client."""
    deal = tuple(
        tuple(Share(position, client_id, clients) for position in range(classes)) for client_id in range(clients)
    )
    return [deal] * tasks


PARTITIONS: Registry[PartitionRule] = Registry("partition")
PARTITIONS.register("shards", deal_shards)
PARTITIONS.register("iid", deal_iid)


def cut(images_n: NDArray[np.int64], share: Share) -> NDArray[np.int64]:
    """Return the images of a share, from all images of its class in their seeded order.

    >>> cut(np.arange(10), Share(position=0, shard=1, shards=3)).tolist()
    [3, 4, 5]
    """
    count = len(images_n)
    return images_n[count * share.shard // share.shards : count * (share.shard + 1) // share.shards]


def _deal_once(shards_per_client: int, clients: int, classes: int, rng: np.random.Generator) -> Deal:
    base, extra = divmod(shards_per_client * clients, classes)
    deck = [
        Share(position, shard, shards)
        for position, shards in enumerate([base + 1] * extra + [base] * (classes - extra))
        for shard in range(shards)
    ]
    order = rng.permutation(len(deck)).tolist()
    hands = (order[start : start + shards_per_client] for start in range(0, len(deck), shards_per_client))
    return tuple(tuple(deck[card] for card in sorted(hand)) for hand in hands)
