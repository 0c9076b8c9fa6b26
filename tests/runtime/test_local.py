"""The local backend: visits when they are asked for, and the same mean as everywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray

from fedknow_ray.experiment.assembly import Parts, open_data, put_together
from fedknow_ray.experiment.run import read_config
from fedknow_ray.federation.aggregation import TreeMean, sum_block
from fedknow_ray.federation.executor import MergeOrder
from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.federation.worker import ClientWorker
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.runtime.local import LocalExecutor, local_executor
from fedknow_ray.transport.payload import Buffer, decode, payload_sha256


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    config = read_config(tiny.write_config(tmp_path), {"method.name": "fedavg", "training.local_epochs": 1})
    return put_together(config, open_data(config))


@pytest.fixture
def executor(parts: Parts) -> LocalExecutor:
    return LocalExecutor(parts.assembly, parts.dataset, parts.start, parts.broadcast)


def order(parts: Parts, client_id: int, kind: VisitKind = VisitKind.TRAIN) -> VisitOrder:
    images = parts.course.images[client_id][0]
    return VisitOrder(kind, VisitFacts(client_id, 0, 0, images, 2, trained_this_task=False), parts.course.seed)


def test_the_broadcast_after_a_round_is_the_weighted_mean(parts: Parts, executor: LocalExecutor):
    """Reports asked for in the other order, and one update computed by hand with a worker of its own."""
    orders = [order(parts, client_id) for client_id in (0, 2)]
    executor.dispatch(orders)
    for one in reversed(orders):
        executor.report(one)
    executor.merge(MergeOrder(tuple(orders), (1.0, 3.0)))
    worker = ClientWorker(parts.assembly, parts.dataset, parts.start, [0, 2])
    updates = [worker.visit(one, parts.broadcast)[1] for one in orders]
    mean = TreeMean(1)
    mean.add(0, sum_block(updates, [1.0, 3.0]))
    assert executor.global_parameters_sha256() == payload_sha256(mean.payload(4.0))


def values(payload: Buffer) -> NDArray[np.float64]:
    return decode(payload)["features"].astype(np.float64)


@pytest.mark.parametrize(("keep", "from_base"), [(0.4, False), (1.0, True)])
def test_a_merge_of_updates_from_two_broadcasts_is_its_formula(
    parts: Parts, executor: LocalExecutor, keep: float, from_base: bool
):
    """Client 0 starts from the first broadcast and is merged last, with client 2, which starts from the second.

    A slow twin in numpy: (0.3 u + 0.2 v + 0.4 w) / 0.9, and w + 0.3 (u - first) + 0.2 (v - w)."""
    first, early, middle, late = parts.broadcast, order(parts, 0), order(parts, 1), order(parts, 2)
    executor.dispatch([early, middle])
    executor.report(middle)
    executor.merge(MergeOrder((middle,), (1.0,)))
    second = executor.global_model()
    executor.dispatch([late])
    executor.report(late)
    executor.report(early)
    executor.merge(MergeOrder((early, late), (0.3, 0.2), keep, from_base))
    worker = ClientWorker(parts.assembly, parts.dataset, parts.start, range(4))
    u, v = (values(worker.visit(one, base)[1]) for one, base in ((early, first), (late, second)))
    w = values(second)
    expected = w + 0.3 * (u - values(first)) + 0.2 * (v - w) if from_base else (0.3 * u + 0.2 * v + 0.4 * w) / 0.9
    np.testing.assert_allclose(values(executor.global_model()), expected, rtol=1e-6, atol=1e-7)


def test_before_a_merge_the_broadcast_stays(parts: Parts, executor: LocalExecutor):
    executor.dispatch([order(parts, 0)])
    executor.report(order(parts, 0))
    assert executor.global_parameters_sha256() == payload_sha256(parts.broadcast)


def test_host_seconds_are_measured(parts: Parts, executor: LocalExecutor):
    executor.dispatch([order(parts, 0)])
    report = executor.report(order(parts, 0))
    assert report.host_wall_s > 0
    assert report.host_cpu_s > 0


def test_every_client_is_scored_in_order(parts: Parts, executor: LocalExecutor):
    scores = list(executor.score(parts.course.clients, 1, with_global=True))
    assert [(s.client_id, s.model) for s in scores] == [(c, "global") for c in range(4)]
    assert list(executor.score([0], 1, with_global=False)) == []


def test_clients_live_in_this_process(executor: LocalExecutor):
    rows = executor.placement()
    assert [row.client_id for row in rows] == [0, 1, 2, 3]
    assert len({row.pid for row in rows}) == 1
    assert {(row.actor_id, row.node_id, row.resources) for row in rows} == {(None, None, "{}")}


def test_the_global_model_is_handed_out(parts: Parts, executor: LocalExecutor):
    np.testing.assert_array_equal(decode(executor.global_model())["features"], decode(parts.broadcast)["features"])


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_of_the_config_and_put_back_afterwards(parts: Parts, threads: int):
    before = torch.get_num_threads()
    config = parts.assembly.config
    training = config.training.model_copy(update={"threads": threads})
    assembly = replace(parts.assembly, config=config.model_copy(update={"training": training}))
    with local_executor(assembly, parts.dataset, parts.start, parts.broadcast):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == before


def test_what_was_saved_is_held_again_by_another_executor(parts: Parts, executor: LocalExecutor):
    """Client 0 was trained and merged; of the other executor's own training nothing is left."""
    executor.dispatch([order(parts, 0)])
    executor.report(order(parts, 0))
    executor.merge(MergeOrder((order(parts, 0),), (1.0,)))
    other = LocalExecutor(parts.assembly, parts.dataset, parts.start, parts.broadcast)
    other.dispatch([order(parts, 2)])
    other.report(order(parts, 2))
    other.restore(executor.save())
    assert other.global_parameters_sha256() == executor.global_parameters_sha256() != payload_sha256(parts.broadcast)
    clients = parts.course.clients
    assert list(other.score(clients, 1, with_global=True)) == list(executor.score(clients, 1, with_global=True))
