"""The server part: which images it has, and that what it sends is a function of model and tasks alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from test_worker import DIGITS, make_assembly, start_model

from fedknow_ray.config.model import MethodConfig
from fedknow_ray.federation.aggregation import sum_block
from fedknow_ray.federation.door import Door
from fedknow_ray.federation.executor import MergeOrder
from fedknow_ray.federation.serving import ServerPart, proxy_indices
from fedknow_ray.federation.visit import SharedModel, VisitKind, VisitOrder, begun_anew, first_broadcast
from fedknow_ray.federation.worker import Assembly
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.flcn import FlcnSettings, importance
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.transport.payload import decode, encode, payload_sha256
from fedknow_ray.transport.update_layout import model_sha256


def flcn(assembly: Assembly | None = None, **settings: float) -> Assembly:
    assembly = assembly or make_assembly()
    method = MethodConfig(name="flcn", hyper=FlcnSettings(**settings))
    config = assembly.config.model_copy(update={"method": method})
    return replace(assembly, config=config, method=METHODS.get("flcn"))


def test_the_proxy_set_is_a_share_of_each_clients_images_of_each_task_seen():
    scenario = make_assembly().scenario
    expected = [math.ceil(0.3 * len(scenario.train_indices(client, 0))) for client in range(3)]
    chosen = proxy_indices(scenario, 1, 0.3, seed=1)
    for client in range(3):
        own = scenario.train_indices(client, 0)
        assert np.isin(chosen, own).sum() == expected[client]
    assert len(chosen) == sum(expected)
    assert (np.diff(chosen) > 0).all()


def test_what_it_holds_of_a_task_stays_while_others_come():
    scenario = make_assembly().scenario
    one, two = (set(proxy_indices(scenario, seen, 0.3, seed=1).tolist()) for seen in (1, 2))
    assert one < two
    assert set(proxy_indices(scenario, 2, 0.3, seed=2).tolist()) != two
    everything = np.concatenate([scenario.train_indices(c, t) for c in range(3) for t in range(2)])
    np.testing.assert_array_equal(proxy_indices(scenario, 2, 1.0, seed=1), np.unique(everything))


def test_it_adds_the_importance_of_the_merged_model_and_leaves_the_model_as_it_is():
    assembly, (_, merged) = flcn(server_samples=0.3), start_model()
    broadcast = ServerPart(assembly, DIGITS).extend(merged, 1)
    assert list(decode(broadcast)) == ["features", "served/importance"]
    np.testing.assert_array_equal(decode(broadcast)["features"], decode(merged)["features"])
    learner = assembly.make_learner(DIGITS)
    learner.network.load(decode(merged)["features"])
    images = DIGITS.train.images[proxy_indices(assembly.scenario, 1, 0.3, seed=assembly.config.seed)]
    np.testing.assert_array_equal(decode(broadcast)["served/importance"], importance(learner, images, 1).numpy())


def test_it_remembers_nothing():
    """One that has served other models and tasks gives what a new one gives."""
    assembly, (_, merged) = flcn(), start_model()
    used = ServerPart(assembly, DIGITS)
    used.extend(encode({"features": 2 * decode(merged)["features"]}), 2)
    assert used.extend(merged, 1).tobytes() == ServerPart(assembly, DIGITS).extend(merged, 1).tobytes()
    assert used.extend(merged, 1).tobytes() != used.extend(merged, 2).tobytes()


def test_the_first_broadcast_is_as_long_as_every_other():
    assembly, (_, merged) = flcn(), start_model()
    first = first_broadcast(SharedModel.of(decode(merged)), assembly.make_method())
    assert not decode(first)["served/importance"].any()
    later = ServerPart(assembly, DIGITS).extend(merged, 1)
    assert first.nbytes == later.nbytes
    assert payload_sha256(first) != payload_sha256(later)
    assert model_sha256(first) == model_sha256(later) == model_sha256(merged) == payload_sha256(merged)


def test_a_broadcast_of_one_method_is_made_one_of_another():
    assembly, (_, merged) = flcn(), start_model()
    served = ServerPart(assembly, DIGITS).extend(merged, 1)
    assert begun_anew(served, make_assembly().make_method()).tobytes() == merged.tobytes()
    first = first_broadcast(SharedModel.of(decode(merged)), assembly.make_method())
    assert begun_anew(merged, assembly.make_method()).tobytes() == first.tobytes()


def test_the_door_and_the_sum_look_at_the_model_alone():
    assembly, (_, merged) = flcn(), start_model()
    broadcast = ServerPart(assembly, DIGITS).extend(merged, 1)
    door = Door.of(broadcast, None, 2.0)
    assert door.refusal(merged, broadcast) is None
    refusal = door.refusal(broadcast, broadcast)
    assert refusal is not None
    assert refusal.kind == "wrong_shape"
    assert sum_block([broadcast], [1.0]).keys() == {"features"}


def test_tasks_seen_are_those_of_the_visits_of_a_merge():
    orders = [
        VisitOrder(VisitKind.TRAIN, VisitFacts(client, place, 0, 5, 2, trained_this_task=False), seed=1)
        for client, place in ((0, 2), (1, 0))
    ]
    assert MergeOrder(tuple(orders), (1.0, 1.0)).tasks_seen == 3


def test_a_method_without_a_server_part_refuses_to_serve():
    assembly = make_assembly()
    with pytest.raises(NotImplementedError, match="FedAvg has no server part"):
        assembly.make_method().serve(assembly.make_learner(DIGITS), DIGITS.train.images[:1])
