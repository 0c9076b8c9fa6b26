"""Server actors that are lost as they start: made anew like any other, as often and as long as the config says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedknow_ray.errors import WorkerError, WorkerLost
from fedknow_ray.runtime import server_link
from fedknow_ray.runtime.losses import Loss, Losses
from fedknow_ray.runtime.server_link import ServerLink


class Cluster:
    """Actors that are there only on paper; the first *dying* are lost as they start, each after *takes_s*."""

    def __init__(self, dying: int, takes_s: float = 1.0) -> None:
        self.made, self.killed, self.now_s = 0, list[int](), 0.0
        self._dying, self._takes_s = dying, takes_s

    def create(self) -> Any:
        self.made += 1
        return SimpleNamespace(number=self.made, ready=SimpleNamespace(remote=lambda number=self.made: number))

    def get(self, number: int, timeout_s: float, what: str) -> None:
        self.now_s += min(self._takes_s, timeout_s)
        if number <= self._dying:
            raise WorkerLost(f"{what}: server {number} died")


def link(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, told: list[Loss], wait_s: float = 60.0) -> ServerLink:
    monkeypatch.setattr(ServerLink, "_create", lambda link: cluster.create())
    monkeypatch.setattr(server_link, "get", cluster.get)
    monkeypatch.setattr(server_link, "is_there", lambda number, timeout_s: number > cluster._dying)
    monkeypatch.setattr(server_link, "now_s", lambda: cluster.now_s)
    monkeypatch.setattr(server_link.ray, "kill", lambda actor: cluster.killed.append(actor.number))
    return ServerLink(None, None, Losses(3, told.append), replaces=True, wait_s=wait_s)


def test_one_that_is_lost_again_as_it_starts_is_made_anew_again(monkeypatch: pytest.MonkeyPatch):
    cluster, told = Cluster(dying=3), list[Loss]()
    link(monkeypatch, cluster, told).revive()
    assert (cluster.made, cluster.killed) == (4, [1, 2, 3])
    assert told == [Loss("server_actor", "the server's actor does not answer", wait_s=3.0)]


def test_one_that_never_starts_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    cluster = Cluster(dying=99)
    with pytest.raises(WorkerError, match="of the server was lost 4 times in a row"):
        link(monkeypatch, cluster, []).revive()
    assert cluster.made == 4


def test_all_of_them_together_are_waited_for_no_longer_than_the_config_says(monkeypatch: pytest.MonkeyPatch):
    """Each takes 40 of 60 s: the second is given up when 20 s are left."""
    cluster = Cluster(dying=99, takes_s=40.0)
    with pytest.raises(WorkerLost, match="server 3 died"):
        link(monkeypatch, cluster, [], wait_s=60.0).revive()
    assert cluster.now_s == 60.0
