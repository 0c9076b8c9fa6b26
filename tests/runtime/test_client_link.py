"""Client actors that are lost as they start: made anew like any other, as often as the config lets them be lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fedknow_ray.config.model import RecoveryConfig
from fedknow_ray.errors import WorkerError, WorkerLost
from fedknow_ray.runtime.care import Care
from fedknow_ray.runtime.client_link import ClientLink
from fedknow_ray.runtime.losses import Loss, Losses
from fedknow_ray.runtime.placement import ActorSpec


class Pool:
    """Two actors that are there only on paper: the first is lost as it starts, and so often again."""

    def __init__(self, lost_again: int) -> None:
        self.specs = (ActorSpec("jetson-nano", (0, 1), 1), ActorSpec("jetson-nano", (2,), 1))
        self.made_anew: list[int] = []
        self._lost_again = lost_again

    def start(self, dataset: object, start: object) -> dict[int, WorkerLost]:
        return {0: WorkerLost("it died")}

    def replace(self, number: int, wait_s: float) -> None:
        self.made_anew.append(number)
        if len(self.made_anew) <= self._lost_again:
            raise WorkerLost("it was lost again as it started")

    def node_of(self, number: int) -> str:
        return "node"

    def slots_of(self, number: int) -> int:
        return 1


def start(pool: Pool, losses_in_a_row: int) -> Sequence[Loss]:
    told: list[Loss] = []
    care = Care(lambda clients: {}, told.append, lambda text: None)
    recovery = RecoveryConfig(losses_in_a_row=losses_in_a_row)
    ClientLink(pool, recovery, Losses(losses_in_a_row, care.lost), care).start(None, None)
    return told


def test_an_actor_that_is_lost_again_as_it_starts_is_made_anew_again():
    pool = Pool(lost_again=2)
    told = start(pool, losses_in_a_row=3)
    assert pool.made_anew == [0, 0, 0]
    assert [(loss.what, loss.cause, loss.clients) for loss in told] == [("client_actor", "it died", (0, 1))]


def test_one_that_never_starts_ends_the_run():
    pool = Pool(lost_again=99)
    with pytest.raises(WorkerError, match=r"clients \[0, 1\] was lost 4 times in a row .*as it started"):
        start(pool, losses_in_a_row=3)
    assert pool.made_anew == [0, 0, 0]
