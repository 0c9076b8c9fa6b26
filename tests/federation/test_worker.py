"""A process's share of the clients: payloads in and out, each client's own data and labels."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from workbench import TINY, training

from fedknow_ray.config.model import FleetEntry, MethodConfig, RunConfig, ScenarioConfig, ShardsPartition
from fedknow_ray.federation.visit import SharedModel, VisitKind, VisitOrder
from fedknow_ray.federation.worker import Assembly, ClientWorker
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.fedavg import FedAvg
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import ClientState, Hyperparameters, Outcome, TaskData, VisitFacts
from fedknow_ray.models.network import initial_model
from fedknow_ray.scenario.datasets import load_dataset
from fedknow_ray.scenario.scenario import build_scenario
from fedknow_ray.transport.payload import Buffer, decode, encode

DIGITS = load_dataset("digits")


def make_assembly(**scenario: object) -> Assembly:
    settings = {"dataset": "digits", "tasks": 2, "classes_per_task": 2, "clients": 3, "samples_per_client": 20}
    shards = ShardsPartition(shards_per_client=2)
    config = RunConfig(
        scenario=ScenarioConfig(**settings, partition=shards, **scenario),
        method=MethodConfig(name="fedavg", hyper=Hyperparameters()),
        training=training(),
        fleet=(FleetEntry(device="jetson-nano", count=3),),
    )
    return Assembly(
        config=config,
        model=TINY,
        method=METHODS.get("fedavg"),
        scenario=build_scenario(config.scenario, DIGITS, 1),
        height=8,
        width=8,
        channels=1,
    )


def start_model() -> tuple[Buffer, Buffer]:
    features_S, head_CF = initial_model(TINY, height=8, width=8, channels=1, classes=4, seed=1)
    return SharedModel(features_S, head_CF).payload(), SharedModel(features_S, None).payload()


def order(assembly: Assembly, client_id: int, task_index: int = 0, kind: VisitKind = VisitKind.TRAIN) -> VisitOrder:
    images = len(assembly.scenario.train_indices(client_id, task_index))
    return VisitOrder(kind, VisitFacts(client_id, task_index, 0, images, 2, trained_this_task=False), seed=1)


def test_an_update_is_encoded_and_its_bytes_are_counted():
    assembly, (start, broadcast) = make_assembly(), start_model()
    report, update = ClientWorker(assembly, DIGITS, start, [0]).visit(order(assembly, 0), broadcast)
    assert update is not None
    assert report.upload_bytes == update.nbytes == broadcast.nbytes
    assert decode(update).keys() == {"features"}


def test_a_visit_that_sends_nothing_counts_no_bytes():
    assembly, (start, broadcast) = make_assembly(), start_model()
    report, update = ClientWorker(assembly, DIGITS, start, [0]).visit(
        order(assembly, 0, kind=VisitKind.FINISH_TASK), broadcast
    )
    assert (report.upload_bytes, update) == (0, None)


def test_packing_changes_no_bit():
    """Two clients in one worker, or one in each."""
    assembly, (start, broadcast) = make_assembly(), start_model()
    packed = ClientWorker(assembly, DIGITS, start, [1, 2])
    together = [packed.visit(order(assembly, c), broadcast)[1] for c in (1, 2)]
    apart = [ClientWorker(assembly, DIGITS, start, [c]).visit(order(assembly, c), broadcast)[1] for c in (1, 2)]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("task_order", ["same", "shuffled"])
def test_scores_cover_the_clients_own_test_images(task_order: str):
    assembly, (start, broadcast) = make_assembly(task_order=task_order), start_model()
    worker = ClientWorker(assembly, DIGITS, start, [2])
    scores = worker.score(2, 2, broadcast)
    assert [(s.model, s.task_index) for s in scores] == [("global", 0), ("global", 1)]
    assert [s.total for s in scores] == [len(assembly.scenario.test_indices(2, task)) for task in range(2)]


def test_a_shuffled_client_learns_the_rows_of_its_own_task():
    """Task 0 of a client may be classes 2 and 3: then rows 2 and 3 move."""
    assembly, (start, broadcast) = make_assembly(task_order="shuffled"), start_model()
    other_way = [c for c in range(3) if assembly.scenario.task_id(c, 0) == 1]
    assert other_way, "the seed shuffles at least one client"
    worker = ClientWorker(assembly, DIGITS, start, other_way)
    worker.visit(order(assembly, other_way[0], kind=VisitKind.FINISH_TASK), broadcast)
    head_CF = worker._state(other_way[0]).head_CF
    moved = np.any(head_CF != decode(start)["head"], axis=1)
    assert moved.tolist() == [False, False, True, True]


class Watched(FedAvg):
    """FedAvg that shows what data its visits are given."""

    given: ClassVar[list[TaskData]] = []

    def train(self, learner: Learner, state: ClientState, data: TaskData, facts: VisitFacts) -> Outcome:
        self.given.append(data)
        return super().train(learner, state, data, facts)


class Seeing(Watched):
    """The same, and it sees the past."""

    sees_past_data = True


def second_task(method: type[Watched]) -> tuple[TaskData, np.ndarray]:
    """What a client is given in its second task, which is task 0 of the run, and its images of the first, task 1."""
    assembly, (start, broadcast) = replace(make_assembly(task_order="shuffled"), method=method), start_model()
    client_id = next(c for c in range(3) if assembly.scenario.task_id(c, 0) == 1)
    ClientWorker(assembly, DIGITS, start, [client_id]).visit(order(assembly, client_id, 1), broadcast)
    return method.given.pop(), assembly.scenario.train_indices(client_id, 0)


def test_a_method_that_sees_the_past_is_given_the_images_of_earlier_tasks_with_labels_and_rows():
    data, first = second_task(Seeing)
    (past,) = data.past
    np.testing.assert_array_equal(past.images_NHWC, DIGITS.train.images[first])
    np.testing.assert_array_equal(past.labels_N, DIGITS.train.labels[first] - 2)
    assert (data.rows, past.rows, past.past) == (range(2), range(2, 4), ())


def test_any_other_method_is_given_none_of_them():
    data, _ = second_task(Watched)
    assert (data.past, data.past_rows) == ((), (range(2, 4),))


def test_a_start_without_a_head_is_refused():
    start = encode({"features": np.zeros(275, np.float32)})
    with pytest.raises(ValueError, match="must hold a head"):
        ClientWorker(make_assembly(), DIGITS, start, [0])


def test_a_worker_goes_on_from_the_states_of_another():
    """Client 2 is trained in one worker and finishes the task in another, beside client 0."""
    assembly, (start, broadcast) = make_assembly(), start_model()
    first, second = ClientWorker(assembly, DIGITS, start, [1, 2]), ClientWorker(assembly, DIGITS, start, [0, 2])
    first.visit(order(assembly, 2), broadcast)
    second.adopt({2: first.states()[2]})
    assert second.score(2, 1, None) == first.score(2, 1, None) != []
    assert second.score(0, 1, None) == []


def test_only_clients_that_have_made_a_visit_have_a_state_to_save():
    assembly, (start, broadcast) = make_assembly(), start_model()
    worker = ClientWorker(assembly, DIGITS, start, [0, 1, 2])
    assert worker.states() == {}
    worker.visit(order(assembly, 2), broadcast)
    worker.visit(order(assembly, 1), broadcast)
    assert worker.states().keys() == {1, 2}
    assert worker.states([0, 2]) == {2: worker.state_bytes(2)}


def test_a_client_without_a_state_is_put_back_to_the_start():
    assembly, (start, broadcast) = make_assembly(), start_model()
    worker, fresh = (ClientWorker(assembly, DIGITS, start, [0, 1]) for _ in range(2))
    worker.visit(order(assembly, 0), broadcast)
    worker.adopt({})
    assert worker.state_bytes(0) == fresh.state_bytes(0)
    assert worker.states() == {}


def test_the_state_of_a_client_that_lives_elsewhere_is_refused():
    assembly, (start, _) = make_assembly(), start_model()
    worker = ClientWorker(assembly, DIGITS, start, [0, 2])
    with pytest.raises(ValueError, match=r"clients \[1\] do not live here"):
        worker.adopt({1: b"", 2: b""})
