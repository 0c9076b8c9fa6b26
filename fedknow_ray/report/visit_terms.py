"""Where the seconds and joules of one recorded visit come from, term by term.

Everything is taken from the run's own files: the steps of the visit's work, the device as the manifest has it, and the
links of the resolved config. So the terms sum up to the recorded columns to the bit, whatever has become of the device
files since. What cannot be told from them is said instead of guessed: a transfer over the shared link of the server
depends on all others, one that follows a trace on the trace, and a visit that was lost has spent what it has spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedknow_ray.config.network import LinkOverrides, NetworkConfig
from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.experiment.manifest import recorded_device
from fedknow_ray.report.recorded import network_kind
from fedknow_ray.results.run import Run
from fedknow_ray.simulation.cost import Bound, StepTime, energy_j, step_time
from fedknow_ray.simulation.device import Device, Figure
from fedknow_ray.simulation.framing import Framing
from fedknow_ray.simulation.link import Direction, Link, transfer_s
from fedknow_ray.simulation.network import Network, StreamPosition
from fedknow_ray.simulation.work import WorkItem


@dataclass(frozen=True, slots=True)
class ItemTerms:
    """One item of work: *step* the time of one step, *seconds* of all of them."""

    item: WorkItem
    step: StepTime

    @property
    def bound(self) -> Bound:
        """What sets the time of a step."""
        return self.step.bound

    @property
    def seconds(self) -> float:
        """Count times the seconds of one step."""
        return self.item.count * self.step.seconds


@dataclass(frozen=True, slots=True)
class TransferTerms:
    """One transfer: *delay_s* before the first byte moves (latency and jitter), *wire_bytes* with headers and what was
    sent again. *bytes_per_s* None and *told* why, where the seconds are recorded and follow from no formula here."""

    seconds: float
    payload_bytes: int
    wire_bytes: int
    delay_s: float
    bytes_per_s: float | None
    told: str | None = None


@dataclass(frozen=True, slots=True)
class VisitTerms:
    """One visit, with the recorded columns and what they are sums of.

    *modelled* whether `compute_s` is the sum of the items: not with a measured clock, and not of a lost visit.
    """

    row: Mapping[str, Any]
    device: Device
    network_kind: str
    items: tuple[ItemTerms, ...]
    download: TransferTerms
    upload: TransferTerms
    modelled: bool

    @property
    def planned_s(self) -> float:
        """The seconds of all items, in their order, as the cost model sums them."""
        return sum((terms.seconds for terms in self.items), start=0.0)

    @property
    def idle_s(self) -> float:
        """Seconds in which the device is on and does not compute."""
        return float(self.row["download_s"] + self.row["upload_s"] + self.row["wait_s"])

    @property
    def busy_j(self) -> float | None:
        """Joules of computing; None where the profile does not know both wattages."""
        known = self.row["energy_j"] is not None
        return energy_j(self.device, compute_s=self.row["compute_s"], idle_s=0.0) if known else None

    @property
    def idle_j(self) -> float | None:
        """Joules of downloading, uploading and waiting; None where the profile does not know both wattages."""
        known = self.row["energy_j"] is not None
        return energy_j(self.device, compute_s=0.0, idle_s=self.idle_s) if known else None

    @property
    def figures(self) -> dict[str, Figure]:
        """The numbers of the device that the terms use, by their keys in its file."""
        work = [terms.item for terms in self.items]
        used = {
            "sustained_flops_per_s": any(item.flops for item in work),
            f"utilisation.{self.network_kind}": any(item.flops for item in work),
            "memory_bandwidth_bytes_per_s": any(item.moved_bytes for item in work),
            "storage_bandwidth_bytes_per_s": any(item.stored_bytes for item in work),
            "step_overhead_s": bool(work),
            "busy_w": self.row["energy_j"] is not None,
            "idle_w": self.row["energy_j"] is not None,
        }
        return {key: self.device.figures[key] for key, needed in used.items() if needed and key in self.device.figures}


def explain_visit(run: Run, row: Mapping[str, Any]) -> VisitTerms:
    """Return the terms of one row of the run's `visits`.

    Raises:
        RunDirectoryError: if the run does not say what it was made with, or its seconds are not those that this
            version's cost model gives.
    """
    device, kind = recorded_device(run, row["device"]), network_kind(run)
    items = tuple(ItemTerms(item, step_time(item, device, kind)) for item in (WorkItem(**s) for s in row["work"]))
    modelled = row["status"] == "ok" and run.config.get("clock", "virtual") == "virtual"
    terms = VisitTerms(
        row=row,
        device=device,
        network_kind=kind,
        items=items,
        download=_transfer(run, row, Direction.TO_CLIENT),
        upload=_transfer(run, row, Direction.TO_SERVER),
        modelled=modelled,
    )
    if modelled and terms.planned_s != row["compute_s"]:
        raise RunDirectoryError(
            f"{run.path}: the visit took {row['compute_s']} s, and by the cost model of this version its work takes "
            f"{terms.planned_s} s; explain the run with the version that made it "
            f"({run.manifest.get('versions', {}).get('fedknow-ray', 'unknown')})"
        )
    return terms


def _transfer(run: Run, row: Mapping[str, Any], direction: Direction) -> TransferTerms:
    """Return the terms of a transfer; its rate where its seconds are what the formula gives."""
    config = NetworkConfig.model_validate(run.config["network"])
    link = config.link_with(_overrides(run, row["client_id"]))
    if direction is Direction.TO_CLIENT:
        seconds, payload_bytes = row["download_s"], row["download_bytes"]
        rate, trace, server = link.downlink_bytes_per_s, link.downlink_trace, config.server_uplink_bytes_per_s
    else:
        seconds, payload_bytes = row["upload_s"], row["upload_bytes"]
        rate, trace, server = link.uplink_bytes_per_s, link.uplink_trace, config.server_downlink_bytes_per_s
    steady = Link(link.uplink_bytes_per_s, link.downlink_bytes_per_s, link.latency_s, link.jitter_s)
    network: Network[str] = Network(
        [steady] * (row["client_id"] + 1),
        seed=run.config["seed"],
        framing=None if config.framing is None else Framing(**config.framing.model_dump()),
        loss_fraction=config.loss_fraction,
    )
    position = StreamPosition(row["task_index"], row["round_index"], row["kind"])
    terms = network.terms(row["client_id"], direction, payload_bytes, position)
    told = None
    if row["status"] != "ok":
        told = "as far as it came"
    elif trace is not None and payload_bytes:
        told = f"follows {trace}"
    elif server is not None and payload_bytes:
        told = f"shares the server's {server:g} bytes/s with the transfers beside it"
    elif transfer_s(terms.wire_bytes, rate, terms.delay_s) != seconds:
        told = "is not what the formula of this version gives"
    return TransferTerms(seconds, payload_bytes, terms.wire_bytes, terms.delay_s, rate if told is None else None, told)


def _overrides(run: Run, client_id: int) -> LinkOverrides:
    """Return what the client's entry of the fleet says of its link."""
    first = 0
    for entry in run.config["fleet"]:
        first += entry["count"]
        if client_id < first:
            return LinkOverrides.model_validate({k: entry[k] for k in LinkOverrides.model_fields if k in entry})
    raise RunDirectoryError(f"{run.path}: its fleet has {first} clients, and there is a visit of client {client_id}")
