"""The conditions and the policy of a run, from its config: links, when clients are there, which visits fail, who visits
when, and when tasks come. Trace files are read here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from fedknow_ray.config.availability import (
    AlwaysAvailability,
    AvailabilityConfig,
    DutyCycleAvailability,
    FailuresConfig,
    FleetMember,
    MarkovAvailability,
    OutageConfig,
)
from fedknow_ray.config.model import FleetEntry, RunConfig
from fedknow_ray.config.network import LinkOverrides, NetworkConfig
from fedknow_ray.config.policy import DeadlinePolicy, FedAsyncPolicy, FedBuffPolicy, SynchronousPolicy
from fedknow_ray.federation.asynchronous import FedAsync, FedBuff, Pace
from fedknow_ray.federation.decisions import Policy
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.policies import RoundRules, Rounds
from fedknow_ray.federation.scheduler import SlowDown
from fedknow_ray.federation.selection import make_selection
from fedknow_ray.federation.traffic import Conditions, OnOutOfMemory
from fedknow_ray.scenario.arrivals import Arrivals, arrivals_every, read_arrivals
from fedknow_ray.scenario.scenario import sequences_of
from fedknow_ray.seeding import stream
from fedknow_ray.simulation.availability import AlwaysOn, Availability, Markov, Patterned, duty_cycle, random_offsets
from fedknow_ray.simulation.availability_gaps import Membership, Outage, Outages
from fedknow_ray.simulation.availability_trace import read_trace
from fedknow_ray.simulation.calibration import slow_down
from fedknow_ray.simulation.device_library import DeviceLibrary
from fedknow_ray.simulation.failures import Failures, ScheduledFailure
from fedknow_ray.simulation.framing import Framing
from fedknow_ray.simulation.link import Link
from fedknow_ray.simulation.network import Network
from fedknow_ray.simulation.trace import read_trace as read_bandwidth


def build_conditions(config: RunConfig) -> Conditions:
    """Return what the clients of a run live in.

    Raises:
        ConfigError: if a trace cannot be read.
    """
    return Conditions(
        network=partial(_network, config.network, build_links(config.network, config.fleet), config.seed),
        availability=build_availability(config.availability, config.outages, config.fleet, config.seed),
        failures=build_failures(config.failures, config.seed),
        on_out_of_memory=OnOutOfMemory(config.on_out_of_memory),
    )


def build_arrivals(config: RunConfig) -> Arrivals | None:
    """Return when clients come to their tasks; None in lockstep.

    Raises:
        ConfigError: if a trace cannot be read.
    """
    arrival, scenario = config.task_arrival, config.scenario
    if arrival.trace is not None:
        return read_arrivals(arrival.trace, scenario.clients, scenario.tasks)
    return None if arrival.every_s is None else arrivals_every(arrival.every_s, sequences_of(scenario, config.seed))


def build_links(network: NetworkConfig, fleet: Sequence[FleetEntry]) -> tuple[Link, ...]:
    """Return the link of each client, in client order; traces are read once each.

    Raises:
        UserError: if a trace cannot be read.
    """
    read = cache(read_bandwidth)
    links = []
    for entry in fleet:
        link = network.link_with(LinkOverrides(**{key: getattr(entry, key) for key in LinkOverrides.model_fields}))
        traces = {
            key: None if (path := getattr(link, key)) is None else read(path)
            for key in ("uplink_trace", "downlink_trace")
        }
        links += [Link(**{**link.model_dump(), **traces})] * entry.count
    return tuple(links)


def build_policy(config: RunConfig, availability: Availability) -> Policy:
    """Return who visits when, and whose updates make the next broadcast."""
    policy, needed = config.policy, config.clients_per_round
    selection = make_selection(policy.selection, availability=availability, seed=config.seed)
    # where tasks come by time, each client's visits are counted by the engine
    rounds = config.training.rounds_per_task if config.task_arrival.in_lockstep else None
    match policy:
        case SynchronousPolicy():
            started = needed if policy.cohorts is None else max(map(len, policy.cohorts))
            return Rounds(RoundRules(rounds, started, started), selection, policy.cohorts)
        case DeadlinePolicy():
            started = policy.started(needed, config.scenario.clients)
            rules = RoundRules(rounds, needed, started, policy.deadline_s, policy.late)
            return Rounds(rules, selection)
        case FedBuffPolicy() | FedAsyncPolicy():
            concurrency = needed if policy.concurrency is None else policy.concurrency
            pace = Pace(None if rounds is None else rounds * needed, concurrency, policy.staleness_exponent)
            if isinstance(policy, FedBuffPolicy):
                return FedBuff(selection, pace, buffer_size=policy.buffer_size, server_lr=policy.server_lr)
            return FedAsync(selection, pace, mixing=policy.mixing)


def build_slow_down(config: RunConfig, library: DeviceLibrary, kind: str) -> SlowDown | None:
    """Return how much slower each client's device is than this host, with a measured clock; else None.

    Raises:
        DeviceError: if a profile lacks a number that it takes.
    """
    if config.clock == "virtual" or config.host_device is None:
        return None
    host = library.get(config.host_device)
    threads = config.training.threads
    factors = [slow_down(host, library.get(name), kind, host_threads=threads) for name in config.devices]
    return factors.__getitem__


def _network(network: NetworkConfig, links: Sequence[Link], seed: int, now_s: float) -> Network[Flight]:
    framing = None if network.framing is None else Framing(**network.framing.model_dump())
    return Network(
        links,
        seed=seed,
        framing=framing,
        loss_fraction=network.loss_fraction,
        server_uplink_bytes_per_s=network.server_uplink_bytes_per_s,
        server_downlink_bytes_per_s=network.server_downlink_bytes_per_s,
        now_s=now_s,
    )


def build_availability(
    availability: AvailabilityConfig, outages: Sequence[OutageConfig], fleet: Sequence[FleetMember], seed: int
) -> Availability:
    """Return when each client of the fleet is on: the model, less outages, for those that have joined and not left.

    Raises:
        ConfigError: if a trace file cannot be read, with all of its faults.
    """
    entries = [entry for entry in fleet for _ in range(entry.count)]
    model = _model(availability, len(entries), seed)
    if outages:
        devices = [entry.device for entry in entries]
        model = Outages(model, [_outage(outage, index, devices, seed) for index, outage in enumerate(outages)])
    joins_s = {c: entry.joins_at_s for c, entry in enumerate(entries) if entry.joins_at_s is not None}
    leaves_s = {c: entry.leaves_at_s for c, entry in enumerate(entries) if entry.leaves_at_s is not None}
    return Membership(model, joins_s, leaves_s) if joins_s or leaves_s else model


def build_failures(failures: FailuresConfig, seed: int) -> Failures:
    """Return which visits fail; the schedule's are training visits."""
    schedule = [ScheduledFailure(f.client, f.task, f.round, "train", f.at) for f in failures.schedule]
    return Failures(probability=failures.probability, schedule=schedule, seed=seed)


def _model(availability: AvailabilityConfig, clients: int, seed: int) -> Availability:
    match availability:
        case AlwaysAvailability():
            return AlwaysOn()
        case DutyCycleAvailability():
            return _duty_cycle(availability, clients, seed)
        case MarkovAvailability():
            return Markov(mean_on_s=availability.mean_on_s, mean_off_s=availability.mean_off_s, seed=seed)
        case _:
            return read_trace(availability.file, clients)


def _duty_cycle(cycle: DutyCycleAvailability, clients: int, seed: int) -> Patterned:
    match cycle.offset_s:
        case "random":
            offsets_s: Sequence[float] = random_offsets(clients=clients, period_s=cycle.period_s, seed=seed)
        case tuple():
            offsets_s = cycle.offset_s
        case _:
            offsets_s = [cycle.offset_s] * clients
    return duty_cycle(period_s=cycle.period_s, on_s=cycle.on_s, offsets_s=offsets_s)


def _outage(outage: OutageConfig, index: int, devices: Sequence[str], seed: int) -> Outage:
    if outage.clients is not None:
        struck = frozenset(outage.clients)
    elif outage.devices is not None:
        struck = frozenset(c for c, device in enumerate(devices) if device in outage.devices)
    else:
        drawn = stream(seed, f"outage.{index}").choice(len(devices), size=outage.size(len(devices)), replace=False)
        struck = frozenset(int(c) for c in drawn)
    return Outage(struck, outage.from_s, outage.to_s)
