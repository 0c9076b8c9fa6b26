"""Puts the parts of one run together: data, scenario, network, method, prices, and the model that everybody starts
from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import DataError
from fedknow_ray.experiment.catalogue import devices_with
from fedknow_ray.experiment.conditions import build_arrivals, build_conditions, build_policy, build_slow_down
from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Policy
from fedknow_ray.federation.ledger import Ledger, PricedVisit
from fedknow_ray.federation.scheduler import SlowDown
from fedknow_ray.federation.traffic import Conditions
from fedknow_ray.federation.visit import (
    SharedModel,
    VisitKind,
    VisitOrder,
    first_broadcast,
    served_shapes,
    shared_shapes,
)
from fedknow_ray.federation.worker import Assembly
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.models.network import initial_model
from fedknow_ray.runtime.care import Sizes
from fedknow_ray.scenario.datasets import Dataset, DatasetInfo, Labels, load_dataset, load_labels
from fedknow_ray.scenario.scenario import build_scenario
from fedknow_ray.seeding import derive_seed
from fedknow_ray.transport.payload import Buffer, encoded_bytes


@dataclass(frozen=True)
class Outline:
    """What the course of a run on the virtual clock follows from: no image, and no weight."""

    course: Course
    ledger: Ledger
    policy: Policy
    conditions: Conditions


@dataclass(frozen=True)
class Parts:
    """All that a run needs before it starts.

    *start* what every client begins with, head included; *broadcast* the first broadcast; *client_bytes* what one
    client keeps in memory at the end of a run; *visit_bytes* the most that one visit holds.
    """

    assembly: Assembly
    dataset: Dataset
    course: Course
    ledger: Ledger
    conditions: Conditions
    slow_down: SlowDown | None
    start: Buffer
    broadcast: Buffer
    client_bytes: int
    visit_bytes: int

    def make_policy(self) -> Policy:
        """Return the policy of the run as it is before round 0: one remembers, so each telling has its own."""
        return build_policy(self.assembly.config, self.conditions.availability)


def open_data(config: RunConfig) -> Dataset:
    """Return the data set, with the classes that the scenario uses.

    Raises:
        DataError: if it is missing or broken, or if its images do not suit the model.
    """
    dataset = load_dataset(config.scenario.dataset, **_where(config))
    _check_suits(config, dataset.info)
    return dataset


def open_labels(config: RunConfig) -> Labels:
    """Return the labels of what `open_data` returns, in a second or so.

    Raises:
        DataError: as `open_data`, except that broken images are not noticed.
    """
    labels = load_labels(config.scenario.dataset, **_where(config))
    _check_suits(config, labels.info)
    return labels


def _where(config: RunConfig) -> dict[str, Any]:
    scenario = config.scenario
    classes = scenario.tasks * scenario.classes_per_task
    return {"source": scenario.source, "data_root": scenario.data_root, "classes": classes}


def _check_suits(config: RunConfig, info: DatasetInfo) -> None:
    unsuitable = MODELS.get(config.model.name).unsuitable(info.height, info.width, info.channels)
    if unsuitable:
        raise DataError(f"{unsuitable} (data set {config.scenario.dataset}); choose another model or data set")


def put_together(config: RunConfig, dataset: Dataset) -> Parts:
    """Return the parts of a run.

    Raises:
        DataError: if the data does not suffice for the scenario.
        DeviceError: if a device lacks a number that the run needs.
    """
    assembly = make_assembly(config, dataset.labels)
    features_S, head_CF = initial_model(
        assembly.model,
        height=assembly.height,
        width=assembly.width,
        channels=assembly.channels,
        classes=assembly.classes,
        seed=derive_seed(config.seed, "initial model"),
    )
    return make_parts(assembly, dataset, features_S, head_CF)


def make_assembly(config: RunConfig, labels: Labels) -> Assembly:
    """Return what a worker needs to know of a run besides the images.

    Raises:
        ConfigError: if a trace of tasks cannot be read.
        DataError: if the data does not suffice for the scenario.
    """
    arrivals = build_arrivals(config)
    return Assembly(
        config=config,
        model=MODELS.get(config.model.name),
        method=METHODS.get(config.method.name),
        scenario=build_scenario(config.scenario, labels, config.seed, None if arrivals is None else arrivals.tasks),
        arrives_s=None if arrivals is None else arrivals.times_s,
        height=labels.info.height,
        width=labels.info.width,
        channels=labels.info.channels,
    )


def outline(assembly: Assembly) -> Outline:
    """Return the course of a run, its prices, its policy and its conditions.

    Raises:
        DeviceError: if a device lacks a number that the run needs.
        UserError: if a trace cannot be read.
    """
    config, footprint = assembly.config, assembly.costs().footprint
    shapes = shared_shapes(
        footprint.P + footprint.B, assembly.classes, footprint.F, head_global=config.model.head == "global"
    )
    library = devices_with(config.devices_path)
    method = assembly.make_method()
    ledger = Ledger(
        method=method,
        devices=tuple(library.get(name) for name in config.devices),
        broadcast_bytes=encoded_bytes({**shapes, **served_shapes(method)}),
        model_bytes=encoded_bytes(shapes),
        kind=assembly.model.kind,
        compressor=assembly.compressor(),
    )
    conditions = build_conditions(config)
    return Outline(_course(assembly), ledger, build_policy(config, conditions.availability), conditions)


def _course(assembly: Assembly) -> Course:
    config, scenario = assembly.config, assembly.scenario
    images, test_images = (
        tuple(
            tuple(len(indices(client_id, place)) for place in range(len(sequence)))
            for client_id, sequence in enumerate(scenario.sequences)
        )
        for indices in (scenario.train_indices, scenario.test_indices)
    )
    return Course(
        seed=config.seed,
        tasks=len(scenario.sequences[0]),
        rounds_per_task=config.training.rounds_per_task,
        classes=config.scenario.classes_per_task,
        images=images,
        test_images=test_images,
        arrives_s=assembly.arrives_s,
    )


def make_parts(
    assembly: Assembly, dataset: Dataset, features_S: NDArray[np.float32], head_CF: NDArray[np.float32]
) -> Parts:
    """Return the parts of a run of any assembly, from the given features (S,) and head (C, F + 1).

    Raises:
        DeviceError: if a device lacks a number that the run needs.
    """
    config, planned = assembly.config, outline(assembly)
    sizes = sizes_of(assembly, planned)
    return Parts(
        assembly=assembly,
        dataset=dataset,
        course=planned.course,
        ledger=planned.ledger,
        conditions=planned.conditions,
        slow_down=build_slow_down(config, devices_with(config.devices_path), assembly.model.kind),
        start=SharedModel(features_S, head_CF).payload(),
        broadcast=first_broadcast(
            SharedModel(features_S, head_CF if config.model.head == "global" else None), planned.ledger.method
        ),
        client_bytes=sizes.client_bytes,
        visit_bytes=sizes.visit_bytes,
    )


def sizes_of(assembly: Assembly, planned: Outline) -> Sizes:
    """Return how large clients and visits get, which no image and no weight is needed for.

    Raises:
        DeviceError: if a device lacks a number that the run needs.
    """
    footprint, method, compressor = assembly.costs().footprint, planned.ledger.method, planned.ledger.compressor
    last = last_facts(planned.course)
    features_bytes, head_bytes = 4 * (footprint.P + footprint.B), 4 * assembly.classes * (footprint.F + 1)
    residual_bytes = compressor.residual_bytes if compressor is not None and method.federated else 0
    probes = price_probes(planned.ledger, assembly.config.seed, last)
    return Sizes(
        client_bytes=features_bytes + head_bytes + method.kept_bytes(last) + residual_bytes,
        visit_bytes=max(visit.plan.peak_memory_bytes for visit in probes),
    )


def last_facts(course: Course) -> VisitFacts:
    """Return the facts of the largest visit that could be made with all tasks of a course behind it."""
    return VisitFacts(
        client_id=0,
        task_index=course.tasks,
        round_index=0,
        images=max(map(max, course.images)),
        classes=course.classes,
        trained_this_task=True,
        test_images=max(map(sum, course.test_images)),
        past_images=max(course.images, key=sum),
    )


def price_probes(ledger: Ledger, seed: int, last: VisitFacts) -> list[PricedVisit]:
    """Price the largest visit of each kind on each kind of device, so that a number that it lacks is missed now.

    Raises:
        DeviceError: if a device lacks a number that the run needs.
    """
    clients = {device.name: client_id for client_id, device in enumerate(ledger.devices)}
    kinds = [VisitKind.TRAIN, VisitKind.FINISH_TASK, *([VisitKind.REFINE] if ledger.method.refines else [])]
    return [
        ledger.price(VisitOrder(kind, replace(last, client_id=client_id), seed))
        for client_id in clients.values()
        for kind in kinds
    ]
