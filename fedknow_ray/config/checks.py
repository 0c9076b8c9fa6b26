"""What only several keys together, or a key and the catalogue, can get wrong.

Each check says which keys it reads and runs whenever those are in order, whatever is wrong elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from fedknow_ray.config.availability import (
    availability_findings,
    failure_findings,
    membership_findings,
    outage_findings,
)
from fedknow_ray.config.catalogue import Catalogue, DatasetEntry, Names
from fedknow_ray.config.model import CommonConfig, ShardsPartition
from fedknow_ray.config.policy import DeadlinePolicy, FedAsyncPolicy, FedBuffPolicy, SynchronousPolicy
from fedknow_ray.config.yaml import KeyPath
from fedknow_ray.errors import did_you_mean

Findings: TypeAlias = Iterator[tuple[KeyPath, str]]
Check: TypeAlias = Callable[[CommonConfig, Catalogue], Findings]


#: Each is an entry of several lists in memory, some 100 bytes.
MOST_CLIENT_TASKS = 10**7


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key that does not go with what others say; `reads` are all the keys that the check looked at."""

    key: KeyPath
    reads: tuple[KeyPath, ...]
    message: str


def find_conflicts(
    config: CommonConfig, catalogue: Catalogue, is_faulty: Callable[[KeyPath], bool]
) -> Iterator[Conflict]:
    """Yield every conflict between keys of which none is faulty by itself."""
    for keys, check in _CHECKS:
        reads = tuple(tuple(key.split(".")) for key in keys)
        if not any(is_faulty(path) for path in reads):
            yield from (Conflict(key, reads, message) for key, message in check(config, catalogue))


def unknown_devices(fleet: Any, host: Any, devices: Names[object]) -> Findings:
    """Yield a finding for each entry of a fleet, as plain values, whose device is none of these; and for the host's."""
    named: list[tuple[KeyPath, Any]] = [
        (("fleet", index, "device"), entry.get("device") if isinstance(entry, dict) else None)
        for index, entry in enumerate(fleet if isinstance(fleet, list) else [])
    ]
    for path, device in (*named, (("host_device",), host)):
        if isinstance(device, str) and device not in devices:
            yield path, f"unknown device {device!r}{did_you_mean(device, devices.names())}"


def _fleet_adds_up(config: CommonConfig, catalogue: Catalogue) -> Findings:
    counts = [entry.count for entry in config.fleet]
    clients = config.scenario.clients
    if sum(counts) != clients:
        terms = f" ({' + '.join(map(str, counts))})" if 1 < len(counts) <= 12 else ""
        yield (
            ("fleet",),
            f"the counts add up to {sum(counts)}{terms}, but scenario.clients is {clients}; make them equal",
        )


def _tasks_can_be_listed(config: CommonConfig, catalogue: Catalogue) -> Findings:
    clients, places = config.scenario.clients, config.scenario.places
    if clients * places > MOST_CLIENT_TASKS:
        yield (
            ("scenario", "tasks"),
            f"{places} tasks of {clients} clients are {clients * places} in all, and a run can have "
            f"{MOST_CLIENT_TASKS}; lower one of them",
        )


def _model_is_known(config: CommonConfig, catalogue: Catalogue) -> Findings:
    if config.model.name not in catalogue.models:
        hint = did_you_mean(config.model.name, catalogue.models.names())
        yield ("model", "name"), f"unknown model {config.model.name!r}{hint}"


def _dataset_is_known(config: CommonConfig, catalogue: Catalogue) -> Findings:
    scenario = config.scenario
    if scenario.dataset in catalogue.datasets:
        return
    # Own data in Parquet files: its name and size are known only when it is opened.
    if scenario.source in ("auto", "parquet") and scenario.data_root is not None:
        return
    hint = did_you_mean(scenario.dataset, catalogue.datasets.names())
    stop = "" if hint.endswith("?") else "."
    own = "Data of your own needs scenario.data_root, and scenario.source: parquet or auto"
    yield ("scenario", "dataset"), f"unknown data set {scenario.dataset!r}{hint}{stop} {own}"


def _dataset(config: CommonConfig, catalogue: Catalogue) -> DatasetEntry | None:
    name = config.scenario.dataset
    return catalogue.datasets.get(name) if name in catalogue.datasets else None


def _source_has_dataset(config: CommonConfig, catalogue: Catalogue) -> Findings:
    dataset, name, source = _dataset(config, catalogue), config.scenario.dataset, config.scenario.source
    if dataset is None:
        return
    if source == "bundled" and not dataset.bundled:
        fetched = ", or torchvision" if dataset.torchvision_name is not None else ""
        yield ("scenario", "source"), f"{name} is not bundled; use parquet with scenario.data_root{fetched}"
    if source == "torchvision" and dataset.torchvision_name is None:
        instead = "auto: it is bundled" if dataset.bundled else "parquet with scenario.data_root"
        yield ("scenario", "source"), f"torchvision cannot fetch {name}; use {instead}"


def _classes_suffice(config: CommonConfig, catalogue: Catalogue) -> Findings:
    dataset, scenario = _dataset(config, catalogue), config.scenario
    wanted = scenario.tasks * scenario.classes_per_task
    if dataset is not None and wanted > dataset.classes:
        yield (
            ("scenario", "tasks"),
            f"{scenario.tasks} tasks x {scenario.classes_per_task} classes_per_task need {wanted} classes, "
            f"but {scenario.dataset} has {dataset.classes}; lower one of them",
        )


def _order_names_tasks(config: CommonConfig, catalogue: Catalogue) -> Findings:
    order, tasks = config.scenario.task_order, config.scenario.tasks
    if config.task_arrival.trace is not None and order != "same":
        yield ("scenario", "task_order"), "task_arrival.trace says the order of each client's tasks; leave this out"
    elif isinstance(order, tuple):
        for position, task in enumerate(order):
            if task >= tasks:
                yield (
                    ("scenario", "task_order", position),
                    f"there is no task {task}: scenario.tasks is {tasks}, so they are 0 to {tasks - 1}",
                )


def _model_suits_data(config: CommonConfig, catalogue: Catalogue) -> Findings:
    dataset, name = _dataset(config, catalogue), config.model.name
    if dataset is None or name not in catalogue.models:
        return
    reason = catalogue.models.get(name).unsuitable(dataset.height, dataset.width, dataset.channels)
    if reason is not None:
        size = f"{dataset.height} x {dataset.width} x {dataset.channels}"
        yield ("model", "name"), f"{name} does not suit {config.scenario.dataset} ({size}): {reason}"


def _somebody_visits(config: CommonConfig, catalogue: Catalogue) -> Findings:
    fraction, clients = config.training.client_fraction, config.scenario.clients
    if _cohorts(config) is None and config.clients_per_round == 0:
        yield (
            ("training", "client_fraction"),
            f"{fraction:g} of {clients} clients is none; raise it to {1 / clients:.3g} or more",
        )


def _batch_fits_samples(config: CommonConfig, catalogue: Catalogue) -> Findings:
    batch, samples = config.training.batch_size, config.scenario.samples_per_client
    if samples is not None and batch > samples:
        yield (
            ("training", "batch_size"),
            f"{batch} is more than the {samples} examples of a client's task (scenario.samples_per_client); "
            f"lower it to {samples} or less",
        )


def _shards_fit_samples(config: CommonConfig, catalogue: Catalogue) -> Findings:
    partition, samples = config.scenario.partition, config.scenario.samples_per_client
    if isinstance(partition, ShardsPartition) and samples is not None and partition.shards_per_client > samples:
        yield (
            ("scenario", "partition", "shards_per_client"),
            f"{partition.shards_per_client} shards cannot share the {samples} examples of a client's task "
            "(scenario.samples_per_client)",
        )


def _cohorts_name_clients(config: CommonConfig, catalogue: Catalogue) -> Findings:
    clients = config.scenario.clients
    for round_index, cohort in enumerate(_cohorts(config) or ()):
        for position, client_id in enumerate(cohort):
            if client_id >= clients:
                yield (
                    ("policy", "cohorts", round_index, position),
                    f"there is no client {client_id}: scenario.clients is {clients}, so they are 0 to {clients - 1}",
                )


def _cohorts_name_everybody(config: CommonConfig, catalogue: Catalogue) -> Findings:
    cohorts, clients = _cohorts(config), config.scenario.clients
    missing = sorted(set(range(clients)) - {c for cohort in cohorts or () for c in cohort})
    if cohorts is not None and missing and not config.task_arrival.in_lockstep:
        yield (
            ("policy", "cohorts"),
            f"client {missing[0]} is in no cohort, so that it would never learn a task that comes to it; name each "
            f"client once at least, or use task_arrival: {{lockstep: true}}",
        )


def _cohorts(config: CommonConfig) -> tuple[tuple[int, ...], ...] | None:
    return config.policy.cohorts if isinstance(config.policy, SynchronousPolicy) else None


def _deadline_does_something(config: CommonConfig, catalogue: Catalogue) -> Findings:
    policy, needed = config.policy, config.clients_per_round
    if not isinstance(policy, DeadlinePolicy):
        return
    started = policy.started(needed, config.scenario.clients)
    if policy.deadline_s is None and 0 < started == needed:
        yield (
            ("policy",),
            f"has no deadline_s, and starts the {needed} of {config.scenario.clients} clients that a round needs, so "
            "nobody can be late; give a deadline_s, raise over_selection or lower training.client_fraction",
        )
    if policy.deadline_s == 0:
        yield ("policy", "deadline_s"), "must be greater than 0: in no time nobody arrives"


def _buffer_can_fill(config: CommonConfig, catalogue: Catalogue) -> Findings:
    policy, visits = config.policy, config.training.rounds_per_task * config.clients_per_round
    told = f"a task has {visits} visits (training.rounds_per_task x clients of a round)"
    if not config.task_arrival.in_lockstep:
        # a trace may have more tasks for each client; it is not read here
        visits = config.training.rounds_per_task * config.scenario.clients * config.scenario.places
        told = f"the run has {visits} visits (training.rounds_per_task x tasks x clients)"
    if isinstance(policy, FedBuffPolicy) and policy.buffer_size > visits > 0 and config.task_arrival.trace is None:
        yield (
            ("policy", "buffer_size"),
            f"{policy.buffer_size} updates never come together: {told}; lower it to {visits} or less",
        )
    if isinstance(policy, FedBuffPolicy | FedAsyncPolicy) and (policy.concurrency or 0) > config.scenario.clients:
        yield (
            ("policy", "concurrency"),
            f"{policy.concurrency} is more than the {config.scenario.clients} clients (scenario.clients)",
        )


def _availability_adds_up(config: CommonConfig, catalogue: Catalogue) -> Findings:
    yield from availability_findings(config.availability, config.scenario.clients)


def _outages_add_up(config: CommonConfig, catalogue: Catalogue) -> Findings:
    yield from outage_findings(config.outages, config.scenario.clients, {entry.device for entry in config.fleet})


def _members_stay(config: CommonConfig, catalogue: Catalogue) -> Findings:
    yield from membership_findings(config.fleet)


def _failures_can_happen(config: CommonConfig, catalogue: Catalogue) -> Findings:
    rounds = config.training.rounds_per_task if isinstance(config.policy, SynchronousPolicy | DeadlinePolicy) else None
    scenario = config.scenario
    yield from failure_findings(config.failures, clients=scenario.clients, tasks=scenario.places, rounds=rounds)


def _clock_is_calibrated(config: CommonConfig, catalogue: Catalogue) -> Findings:
    if config.clock == "measured" and config.host_device is None:
        yield (
            ("host_device",),
            "clock: measured needs the device file of this host; make it with fedknow-ray calibrate --out FILE, and "
            "give its name here and FILE as devices_path",
        )
    if config.clock == "virtual" and config.host_device is not None:
        yield ("host_device",), f"{config.host_device!r} is for clock: measured; the clock is virtual"


_CHECKS: tuple[tuple[tuple[str, ...], Check], ...] = (
    (("fleet", "scenario.clients"), _fleet_adds_up),
    (("scenario.tasks", "scenario.clients", "scenario.task_order"), _tasks_can_be_listed),
    (("model.name",), _model_is_known),
    (("scenario.dataset", "scenario.data_root"), _dataset_is_known),
    (("scenario.dataset", "scenario.source"), _source_has_dataset),
    (("scenario.dataset", "scenario.tasks", "scenario.classes_per_task"), _classes_suffice),
    (("scenario.task_order", "scenario.tasks", "task_arrival"), _order_names_tasks),
    (("scenario.dataset", "model.name"), _model_suits_data),
    (("training.client_fraction", "scenario.clients", "policy"), _somebody_visits),
    (("training.batch_size", "scenario.samples_per_client"), _batch_fits_samples),
    (("scenario.partition", "scenario.samples_per_client"), _shards_fit_samples),
    (("policy", "scenario.clients"), _cohorts_name_clients),
    (("policy", "scenario.clients", "task_arrival"), _cohorts_name_everybody),
    (("policy", "training.client_fraction", "scenario.clients"), _deadline_does_something),
    (
        (
            *("policy", "training.rounds_per_task", "training.client_fraction", "scenario.clients"),
            *("task_arrival", "scenario.tasks", "scenario.task_order"),
        ),
        _buffer_can_fill,
    ),
    (("availability", "scenario.clients"), _availability_adds_up),
    (("outages", "scenario.clients", "fleet"), _outages_add_up),
    (("fleet",), _members_stay),
    (
        ("failures", "scenario.clients", "scenario.tasks", "scenario.task_order", "training.rounds_per_task", "policy"),
        _failures_can_happen,
    ),
    (("clock", "host_device"), _clock_is_calibrated),
)
