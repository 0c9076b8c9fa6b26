"""Lost actors: each is told of, and one that is lost in a row ends the run."""

from __future__ import annotations

import json

import pytest

from fedknow_ray.errors import WorkerError, WorkerLost
from fedknow_ray.runtime.losses import Loss, Losses


def test_an_actor_may_be_lost_so_often_in_a_row_and_no_more():
    losses, cause = Losses(2, lambda loss: None), WorkerLost("train of client 3: it died")
    losses.refuse_too_many(0, [3], cause)
    losses.refuse_too_many(0, [3], cause)
    with pytest.raises(WorkerError, match=r"clients \[3\] was lost 3 times in a row .*losses_in_a_row: 2.*it died"):
        losses.refuse_too_many(0, [3], cause)


def test_one_that_has_done_something_begins_to_count_anew():
    losses, cause = Losses(1, lambda loss: None), WorkerLost("it died")
    for _ in range(5):
        losses.refuse_too_many(0, [3], cause)
        losses.survived(0)


def test_actors_are_counted_apart():
    losses, cause = Losses(1, lambda loss: None), WorkerLost("it died")
    losses.refuse_too_many(0, [3], cause)
    losses.refuse_too_many("server", (), cause)
    with pytest.raises(WorkerError, match="actor of the server was lost 2 times"):
        losses.refuse_too_many("server", (), cause)


def test_a_loss_is_told_with_what_it_cost():
    told: list[Loss] = []
    Losses(1, told.append).tell(Loss("client_actor", "it died", (3, 4), visits_again=2, wait_s=1.5))
    assert json.loads(told[0].detail()) == {
        "what": "client_actor",
        "cause": "it died",
        "clients": [3, 4],
        "visits_again": 2,
        "wait_s": 1.5,
    }
