"""A process's share of the clients: their states, one network that they take turns in, and the data that they read.

The same class serves in the local backend and inside a Ray actor, which is what makes the two agree to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedknow_ray.federation.bad_updates import spoilt
from fedknow_ray.federation.door import Door
from fedknow_ray.federation.scoring import Score, score_client
from fedknow_ray.federation.sending import send
from fedknow_ray.federation.state_bytes import dump_state, load_state
from fedknow_ray.federation.visit import SharedModel, VisitOrder, VisitReport, make_visit
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.learner import Learner, Normalisation
from fedknow_ray.methods.method import ClientState, Method, TaskData
from fedknow_ray.models.footprint import measure_footprint
from fedknow_ray.models.network import FlatNetwork, feature_layout
from fedknow_ray.transport.compression import Compressor, make_compressor
from fedknow_ray.transport.payload import Buffer, decode
from fedknow_ray.transport.update_layout import UpdateLayout

if TYPE_CHECKING:
    from fedknow_ray.config.model import RunConfig
    from fedknow_ray.methods.method import VisitFacts
    from fedknow_ray.models.catalogue import ModelSpec
    from fedknow_ray.scenario.datasets import Dataset, ImageSet
    from fedknow_ray.scenario.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a worker needs to know of a run besides the images; small, and the same for all workers.

    *arrives_s* when each client comes to each task of its sequence; None in lockstep.
    """

    config: RunConfig
    model: ModelSpec
    method: type[Method]
    scenario: Scenario
    height: int
    width: int
    channels: int
    arrives_s: tuple[tuple[float, ...], ...] | None = None

    def costs(self) -> StepCosts:
        """Return the price list of the run's network and training."""
        footprint = measure_footprint(self.model, height=self.height, width=self.width, channels=self.channels)
        return StepCosts(footprint, self.config.training)

    def make_method(self) -> Method:
        """Return the method with its hyper-parameters."""
        return self.method(self.config.method.hyper, self.config.training, self.costs())

    def compressor(self) -> Compressor | None:
        """Return what shortens updates, or None where they are sent as they are."""
        settings = self.config.compression.model_dump()
        layout = feature_layout(self.model, height=self.height, width=self.width, channels=self.channels)
        footprint = self.costs().footprint
        head = (self.classes, footprint.F + 1) if self.config.model.head == "global" else None
        update_layout = UpdateLayout(tuple(piece.size for piece in layout), footprint.B, head)
        if self.method.shortens_updates:
            return self.make_method().compressor(layout, update_layout)
        return make_compressor(settings.pop("name"), update_layout, **settings)

    def door(self, broadcast: Buffer) -> Door:
        """Return what checks the run's updates before they are summed; *broadcast* is any broadcast of the run."""
        return Door.of(broadcast, self.compressor(), self.config.door.most_norm_ratio)

    def make_learner(self, dataset: Dataset) -> Learner:
        """Return a network with the training loop around it, for clients to take turns in, or for the server part."""
        torch.set_num_threads(self.config.training.threads)
        rows = self.config.scenario.classes_per_task
        network = FlatNetwork(self.model, height=self.height, width=self.width, channels=self.channels, rows=rows)
        normalisation = Normalisation.of(dataset.mean, dataset.std)
        return Learner(network, self.config.training, self.costs(), normalisation)

    @property
    def classes(self) -> int:
        """Head rows in all."""
        return self.config.scenario.tasks * self.config.scenario.classes_per_task


class ClientWorker:
    """Holds some clients and makes their visits, one at a time.

    *start* is the model that everybody has before round 0: features and the head that each client begins with.
    """

    def __init__(self, assembly: Assembly, dataset: Dataset, start: Buffer, client_ids: Sequence[int]) -> None:
        self._assembly = assembly
        self._dataset = dataset
        self._method = assembly.make_method()
        self._compressor = assembly.compressor()
        bad_updates = assembly.config.failures.bad_updates
        self._bad_updates = {(bad.client, bad.task, bad.round): bad.sends for bad in bad_updates}
        self._learner = assembly.make_learner(dataset)
        first = SharedModel.of(decode(start))
        if first.head_CF is None:
            raise ValueError("the start model must hold a head")
        self._first, self._clients = ClientState(first.head_CF), frozenset(client_ids)
        self._states: dict[int, ClientState] = {}

    def visit(self, order: VisitOrder, broadcast: Buffer) -> tuple[VisitReport, Buffer | None]:
        """Make one visit; return its report and, where something is sent, the encoded update."""
        client_id, shared, payload = order.client_id, SharedModel.of(decode(broadcast)), None
        state, update, report = make_visit(
            order,
            self._method,
            self._learner,
            self._state(client_id),
            shared,
            self._training_data(order.facts),
        )
        if update is not None:
            state, payload, work = send(order, state, update, shared, self._compressor)
            report = replace(report, work=report.work + work)
        self._states[client_id] = state
        received_bytes = broadcast.nbytes if self._method.federated else 0
        sent_bytes = 0 if payload is None else payload.nbytes
        facts = order.facts
        fault = self._bad_updates.get((client_id, facts.task_index, facts.round_index))
        if payload is not None and fault is not None:
            # the link is charged for the agreed length, whatever comes: that is what the clock has planned
            payload = spoilt(payload, fault, order)
        return replace(report, download_bytes=received_bytes, upload_bytes=sent_bytes), payload

    def score(self, client_id: int, learnt_tasks: int, shared: Buffer | None) -> list[Score]:
        """Return the client's scores on its first *learnt_tasks* tasks."""
        model = None if shared is None else SharedModel.of(decode(shared))
        tests = [self._test_data(client_id, task_index) for task_index in range(learnt_tasks)]
        return list(score_client(client_id, self._learner, self._state(client_id), model, tests, self._method))

    def state_bytes(self, client_id: int) -> bytes:
        """Return a client's state as bytes."""
        return dump_state(self._state(client_id), self._method.memory_types)

    def states(self, client_ids: Collection[int] | None = None) -> dict[int, bytes]:
        """Return the states as bytes of the clients that have made a visit, or of some of them."""
        asked = self._states if client_ids is None else self._states.keys() & set(client_ids)
        types = self._method.memory_types
        return {client_id: dump_state(self._states[client_id], types) for client_id in sorted(asked)}

    def adopt(self, states: Mapping[int, bytes]) -> None:
        """Give clients of this worker the states that such bytes hold; the others are as at the start.

        Raises:
            ValueError: if a client lives elsewhere.
            StateError: if bytes are no state of this method.
        """
        strangers = sorted(states.keys() - self._clients)
        if strangers:
            raise ValueError(f"clients {strangers} do not live here")
        types = self._method.memory_types
        self._states = {client_id: load_state(data, types) for client_id, data in states.items()}

    def _state(self, client_id: int) -> ClientState:
        if client_id not in self._clients:
            raise ValueError(f"client {client_id} does not live here")
        return self._states.get(client_id, self._first)

    def _training_data(self, facts: VisitFacts) -> TaskData:
        scenario, client_id, task_index = self._assembly.scenario, facts.client_id, facts.task_index
        data = self._data(self._dataset.train, scenario.train_indices(client_id, task_index), client_id, task_index)
        past = tuple(scenario.class_rows(client_id, earlier) for earlier in range(task_index))
        return replace(data, past_rows=past, past=self._past_data(client_id, task_index))

    def _past_data(self, client_id: int, task_index: int) -> tuple[TaskData, ...]:
        """Return the training data of a client's earlier tasks, oldest first; none unless the method sees it."""
        if not self._method.sees_past_data:
            return ()
        images, scenario = self._dataset.train, self._assembly.scenario
        return tuple(
            self._data(images, scenario.train_indices(client_id, earlier), client_id, earlier)
            for earlier in range(task_index)
        )

    def _test_data(self, client_id: int, task_index: int) -> TaskData:
        indices = self._assembly.scenario.test_indices(client_id, task_index)
        return self._data(self._dataset.test, indices, client_id, task_index)

    def _data(self, images: ImageSet, indices: np.ndarray, client_id: int, task_index: int) -> TaskData:
        rows = self._assembly.scenario.class_rows(client_id, task_index)
        labels = self._assembly.scenario.label_to_row[images.labels[indices]] - rows.start
        return TaskData(images.images[indices], labels.astype(np.int64), rows)
