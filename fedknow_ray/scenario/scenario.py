"""A scenario: which classes make up each task, in which order a client meets the tasks, and which images it holds.

Classes are consecutive: task t is the labels t * C .. t * C + C - 1, and the data set's first T * C labels are used.
"task id" names the set of classes; "task_index" is the place in a client's own sequence. They are equal unless
`task_order` or a trace of arrivals says otherwise; a task may recur in a sequence. Everything is an index array that
depends on (config, labels, seed) and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.errors import DataError
from fedknow_ray.scenario.images import Dataset, DatasetInfo, Labels
from fedknow_ray.scenario.partition import PARTITIONS, Deal, PartitionOptions, Share, cut
from fedknow_ray.seeding import stream

Indices: TypeAlias = NDArray[np.int64]


class ScenarioOptions(Protocol):
    """The part of the config that shapes a scenario."""

    @property
    def tasks(self) -> int:
        """Number of tasks T."""

    @property
    def classes_per_task(self) -> int:
        """Number of classes C in each task."""

    @property
    def clients(self) -> int:
        """Number of clients N."""

    @property
    def partition(self) -> PartitionOptions:
        """The rule that deals each class to the clients."""

    @property
    def samples_per_client(self) -> int | None:
        """Upper limit of training images for a client and task; None for no limit."""

    @property
    def task_order(self) -> str | tuple[int, ...]:
        """ "same": all clients take the tasks in order; "shuffled": each in an order of its own; or those of all."""


@dataclass(frozen=True, eq=False)
class Scenario:
    """Index arrays only; see `build_scenario`."""

    tasks: int
    classes_per_task: int
    clients: int
    label_to_row: Indices
    """(dataset classes,) head row of each label, -1 where the label is not used."""
    sequences: tuple[tuple[int, ...], ...]
    """[client_id][task_index] task id that a client learns at a place of its sequence."""
    train_by_task: tuple[tuple[Indices, ...], ...]
    """[client_id][task id] sorted indices into `dataset.train`."""
    test_by_task: tuple[tuple[Indices, ...], ...]
    """[client_id][task id] sorted indices into `dataset.test`."""

    def task_id(self, client_id: int, task_index: int) -> int:
        """Return which task a client learns at its task_index-th place."""
        return self.sequences[client_id][task_index]

    def class_rows(self, client_id: int, task_index: int) -> range:
        """Return the head rows of the classes that a client learns at its task_index-th place."""
        first = self.task_id(client_id, task_index) * self.classes_per_task
        return range(first, first + self.classes_per_task)

    def train_indices(self, client_id: int, task_index: int) -> Indices:
        """Return the client's training images of that task: sorted int64 indices into `dataset.train`, read-only."""
        return self.train_by_task[client_id][self.task_id(client_id, task_index)]

    def test_indices(self, client_id: int, task_index: int) -> Indices:
        """Return the client's test images of that task: sorted int64 indices into `dataset.test`, read-only."""
        return self.test_by_task[client_id][self.task_id(client_id, task_index)]


def build_scenario(
    config: ScenarioOptions,
    dataset: Dataset | Labels,
    seed: int,
    sequences: tuple[tuple[int, ...], ...] | None = None,
) -> Scenario:
    """Return the scenario that the config describes on the data set's labels; equal labels, equal arrays.

    *sequences* of the tasks of each client stand in place of the config's `task_order`.

    Raises:
        DataError: if the data set has too few classes, or too few images to give each client one train and one test
            image of each task.
    """
    labels = dataset.labels if isinstance(dataset, Dataset) else dataset
    label_to_row = _label_to_row(config, labels.info)
    deals = PARTITIONS.get(config.partition.name)(
        config.partition, config.clients, config.classes_per_task, config.tasks, seed
    )
    train = _dealt(labels.train_N, "train", deals, config, seed)
    test = _dealt(labels.test_N, "test", deals, config, seed)
    _check_everyone_has_data(train, test, config)
    if config.samples_per_client is not None:
        train = _limited(train, config.samples_per_client, seed)
    return Scenario(
        tasks=config.tasks,
        classes_per_task=config.classes_per_task,
        clients=config.clients,
        label_to_row=label_to_row,
        sequences=sequences_of(config, seed) if sequences is None else sequences,
        train_by_task=_frozen(train),
        test_by_task=_frozen(test),
    )


def _label_to_row(config: ScenarioOptions, info: DatasetInfo) -> Indices:
    used, available = config.tasks * config.classes_per_task, info.classes
    if used > available:
        raise DataError(
            f"scenario.tasks x scenario.classes_per_task = {config.tasks} x {config.classes_per_task} = {used} "
            f"classes, but data set {info.name!r} has {available}; lower one of the two"
        )
    label_to_row = np.full(available, -1, np.int64)
    label_to_row[:used] = np.arange(used)
    return _read_only(label_to_row)


def _dealt(
    labels_N: Indices, split_name: str, deals: Sequence[Deal], config: ScenarioOptions, seed: int
) -> list[list[Indices]]:
    """Return [client_id][task id] sorted image indices of one split, before any limit."""
    by_label = _images_by_label(labels_N, split_name, config.tasks * config.classes_per_task, seed)
    return [
        [_hand(deal[client_id], by_label[task_id * config.classes_per_task :]) for task_id, deal in enumerate(deals)]
        for client_id in range(config.clients)
    ]


def _images_by_label(labels_n: Indices, split_name: str, classes: int, seed: int) -> list[Indices]:
    """Return the image indices of each label in an order that depends on the seed, the split and the label only."""
    grouped = np.argsort(labels_n, kind="stable").astype(np.int64)
    ends = np.searchsorted(labels_n[grouped], np.arange(classes + 1))
    return [
        stream(seed, f"scenario.images.{split_name}.label={label}").permutation(grouped[ends[label] : ends[label + 1]])
        for label in range(classes)
    ]


def _hand(shares: Sequence[Share], by_position: Sequence[Indices]) -> Indices:
    return np.sort(np.concatenate([cut(by_position[share.position], share) for share in shares]))


def _limited(train: list[list[Indices]], limit: int, seed: int) -> list[list[Indices]]:
    """Return at most *limit* images for each client and task, a seeded subset."""
    return [
        [
            np.sort(stream(seed, "scenario.limit", client=client_id, task=task_id).permutation(indices)[:limit])
            for task_id, indices in enumerate(by_task)
        ]
        for client_id, by_task in enumerate(train)
    ]


def sequences_of(config: ScenarioOptions, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return the tasks of each client in its order, as the config's `task_order` has it."""
    if config.task_order == "shuffled":
        drawn = (stream(seed, "scenario.task_order", client=c).permutation(config.tasks) for c in range(config.clients))
        return tuple(tuple(order.tolist()) for order in drawn)
    order = config.task_order if isinstance(config.task_order, tuple) else tuple(range(config.tasks))
    return (order,) * config.clients


def _check_everyone_has_data(train: list[list[Indices]], test: list[list[Indices]], config: ScenarioOptions) -> None:
    for split_name, by_client in (("training", train), ("test", test)):
        for task_id in range(config.tasks):
            counts = [len(by_task[task_id]) for by_task in by_client]
            if min(counts) == 0:
                raise DataError(
                    f"more clients than data: client {counts.index(0)} gets no {split_name} image of task {task_id}, "
                    f"which has {sum(counts)} for {config.clients} clients (partition {config.partition.name}); use "
                    "fewer scenario.clients, fewer shards_per_client (each is then larger), or another partition"
                )


def _frozen(by_client: list[list[Indices]]) -> tuple[tuple[Indices, ...], ...]:
    return tuple(tuple(_read_only(indices) for indices in by_task) for by_task in by_client)


def _read_only(indices: Indices) -> Indices:
    indices.setflags(write=False)
    return indices
