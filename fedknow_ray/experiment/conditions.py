"""The conditions of a run, from its config: when clients are there, and which visits fail."""

from __future__ import annotations

from collections.abc import Sequence

from fedknow_ray.config.availability import (
    AlwaysAvailability,
    AvailabilityConfig,
    DutyCycleAvailability,
    FailuresConfig,
    FleetMember,
    MarkovAvailability,
    OutageConfig,
)
from fedknow_ray.seeding import stream
from fedknow_ray.simulation.availability import AlwaysOn, Availability, Markov, Patterned, duty_cycle, random_offsets
from fedknow_ray.simulation.availability_gaps import Membership, Outage, Outages
from fedknow_ray.simulation.availability_trace import read_trace
from fedknow_ray.simulation.failures import Failures, ScheduledFailure


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
