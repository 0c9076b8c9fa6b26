"""What a run was made with, from its own files: its kind of network, its policy, its clients and when they were on."""

from __future__ import annotations

from pydantic import TypeAdapter

from fedknow_ray.config.arrival import TaskArrivalConfig
from fedknow_ray.config.availability import AlwaysAvailability, AvailabilityConfig, OutageConfig
from fedknow_ray.config.model import FleetEntry
from fedknow_ray.experiment.conditions import build_availability
from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.results.run import Run
from fedknow_ray.simulation.availability import Availability

WITHOUT_ROUNDS = ("fedbuff", "fedasync")
"""The policies in which a row of `rounds` is a merge."""


def network_kind(run: Run) -> str:
    """Return the kind of network that the run trained, by which a device's utilisation is chosen."""
    return MODELS.get(run.config["model"]["name"]).kind


def recorded_availability(run: Run) -> Availability:
    """Return when each client was on, which follows from the resolved config; a trace's file is read again.

    Raises:
        ConfigError: if the trace is not there any more, or cannot be read.
    """
    config = run.config
    return build_availability(
        TypeAdapter[AvailabilityConfig](AvailabilityConfig).validate_python(
            config.get("availability", AlwaysAvailability())
        ),
        [OutageConfig.model_validate(outage) for outage in config.get("outages", ())],
        [FleetEntry.model_validate(entry) for entry in config["fleet"]],
        config["seed"],
    )


def has_rounds(run: Run) -> bool:
    """Return whether the policy works in rounds; without, clients train on their own and a row of `rounds` is a merge.

    A run from before there were policies has rounds.
    """
    return run.config.get("policy", {}).get("name", "synchronous") not in WITHOUT_ROUNDS


def in_lockstep(run: Run) -> bool:
    """Return whether all clients learnt the same place of their sequences at once, so that rounds belong to tasks."""
    return TaskArrivalConfig.model_validate(run.config.get("task_arrival", {})).in_lockstep


def round_name(task_index: int | None, round_index: int, word: str = "round", *, first: int = 0) -> str:
    """Return what a round is called; *first* is the number of the first one. Without a task it is counted over the
    run."""
    number = f"{word} {round_index + first}"
    return number if task_index is None else f"task {task_index + first}, {number}"


def device_of_clients(run: Run) -> dict[int, str]:
    """Return the device kind of each client that was placed or made a visit, by client id, ascending."""
    rows = [*run.placement.select(["client_id", "device"]).to_pylist()]
    rows += run.visits.select(["client_id", "device"]).to_pylist()
    return dict(sorted({row["client_id"]: row["device"] for row in rows}.items()))
